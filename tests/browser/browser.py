"""Debian's chromium without a window, asked over its DevTools protocol."""

import asyncio
import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from lab.servers import Server, wait_until
from tests.kit.programs import installed

__all__ = ["Browser"]


class Browser(Server):
    """One browser with one page.

    :arg folder: For its profile and its log.

    :arg dark: Whether it prefers dark colours.

    """

    def command(self) -> list[str]:
        """Run it on a port that it chooses."""
        return [
            installed("chromium"), "--headless", "--no-sandbox", "--disable-gpu",
            "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
            "--no-proxy-server", f"--user-data-dir={self._profile}", "--remote-debugging-port=0",
            "--hide-scrollbars", "--window-size=1120,1330", "about:blank",
        ]  # fmt: skip

    def is_ready(self) -> bool:
        """Say whether it has written its port."""
        file = self._profile / "DevToolsActivePort"
        return file.exists() and "\n" in file.read_text()

    def open(self, url: str) -> None:
        """Go to a page.

        :arg url: Of it.

        """
        self._ask("Page.navigate", url=url)

    def text(self, element: str) -> str:
        """Text of an element, empty while it is not there.

        :arg element: Its id.

        """
        return str(self.evaluate(f"document.getElementById('{element}')?.textContent ?? ''"))

    def evaluate(self, expression: str, **preferred: str) -> Any:
        """Value of an expression on the page.

        :arg expression: JavaScript.

        :arg preferred: By the reader meanwhile, such as `prefers_color_scheme="dark"`.

        """
        wanted = [{"name": k.replace("_", "-"), "value": v} for k, v in preferred.items()]
        answer = self._ask("Runtime.evaluate", wanted, expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, element: str, fits: Callable[[str], bool]) -> None:
        """Wait until an element's text fits.

        :arg element: Its id.

        :arg fits: Says so.

        """
        wait_until(lambda: fits(self.text(element)), what=f"the right text in {element}")

    def press_tab(self) -> None:
        """Move the focus on, as the key does."""
        for kind in ("rawKeyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)

    def picture(self, file: Path, **preferred: str) -> None:
        """Take a picture of the page, as PNG.

        :arg file: Where to.

        :arg preferred: As above.

        """
        wanted = [{"name": k.replace("_", "-"), "value": v} for k, v in preferred.items()]
        answer = self._ask("Page.captureScreenshot", wanted)
        file.write_bytes(base64.b64decode(answer["data"]))

    @property
    def _profile(self) -> Path:
        return self.folder / "profile"

    def _ask(self, method: str, wanted: Sequence[dict[str, str]] = (), **parameters: Any) -> Any:
        # What is emulated ends with the connection.
        emulation = ("Emulation.setEmulatedMedia", {"features": list(wanted)})
        return asyncio.run(self._call([emulation, (method, parameters)]))

    async def _call(self, commands: Sequence[tuple[str, dict[str, Any]]]) -> Any:
        port = (self._profile / "DevToolsActivePort").read_text().splitlines()[0]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)) as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                [page] = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                for number, (method, parameters) in enumerate(commands):
                    command = {"id": number, "method": method, "params": parameters}
                    await socket.send_json(command)
                    while (message := await socket.receive_json()).get("id") != number:
                        pass  # events
                    assert "error" not in message, message
        return message["result"]
