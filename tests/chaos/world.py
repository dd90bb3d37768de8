"""The servers that the stream depends on, each behind a proxy that can cut it off."""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, Literal, Self

from lab.servers import ApacheKafka, Broker, KafkaServer, ModelApi, Postgres, Server, free_port
from lab.servers.ports import LOCALHOST
from tests.chaos.proxy import Cut, Proxy

__all__ = ["Dependency", "Kafka", "World"]

Kafka = Literal["apache", "embedded"]

_LISTENER: Final = "BEHIND_PROXY"


class _Apache(ApacheKafka):
    """Apache Kafka with a second listener, whose clients are told to come through the proxy."""

    # After a kill it looks through the logs of all episodes, on a machine that is busy.
    ready_limit: ClassVar[timedelta] = timedelta(minutes=3)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._behind = free_port()
        self.proxy = Proxy(self._behind)

    def _defaults(self) -> dict[str, str]:
        given = super()._defaults()
        return {
            **given,
            "listeners": f"{given['listeners']},{_LISTENER}://{LOCALHOST}:{self._behind}",
            "advertised.listeners": (
                f"PLAINTEXT://{self.bootstrap_servers},{_LISTENER}://{LOCALHOST}:{self.proxy.port}"
            ),
            "listener.security.protocol.map": (
                f"PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,{_LISTENER}:PLAINTEXT"
            ),
            "inter.broker.listener.name": "PLAINTEXT",
        }


class _Embedded(Broker):
    """The embedded broker; it has one listener, so all clients come through the proxy."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.proxy = Proxy(self.port)

    def command(self) -> list[str]:
        """Run the broker."""
        command = super().command()
        at = command.index("--advertised-listener-url") + 1
        return [*command[:at], f"tcp://{LOCALHOST}:{self.proxy.port}", *command[at + 1 :]]


class Dependency:
    """A server and the way to it.

    :arg server: The server.

    :arg proxy: Before it.

    """

    def __init__(self, server: Server, proxy: Proxy) -> None:
        self.server, self.proxy = server, proxy
        self._repair: threading.Thread | None = None
        self._error: Exception | None = None
        self.repaired = 0.0
        """When it was last well again, by the monotonic clock."""

    def kill(self, seconds: float) -> None:
        """Kill it; it is started again so many seconds later."""
        self.wait()
        self.server.kill()
        self._later(seconds, self._start)

    def pause(self, seconds: float) -> None:
        """Freeze it for so many seconds."""
        self.wait()
        self.server.pause()
        self._later(seconds, self.server.resume)

    def cut(self, how: Cut, seconds: float) -> None:
        """Cut it off for so many seconds."""
        self.wait()
        self.proxy.cut(how)
        self._later(seconds, self.proxy.heal)

    def suffer(self, seconds: float) -> None:
        """Take note that it has a fault which ends by itself."""
        self._later(seconds, lambda: None)

    def wait(self) -> None:
        """Wait until it is well.

        :raises ServerError: It did not start again.

        """
        if self._repair is not None:
            self._repair.join()
            self._repair = None
        self.check()

    def recover(self) -> None:
        """Bring it back, whatever became of the last repair."""
        with suppress(Exception):
            self.wait()
        self._error = None
        self.server.recover()

    def check(self) -> bool:
        """See whether the last repair went well; `wait` does so too.

        :returns: Whether it is over.

        :raises ServerError: It did not go well.

        """
        if self._error is not None:
            raise self._error
        return self._repair is None or not self._repair.is_alive()

    def _start(self) -> None:
        self.server.start()

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        def repair() -> None:
            time.sleep(seconds)
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised by `wait`
                self._error = error
            self.repaired = time.monotonic()

        self._repair = threading.Thread(target=repair, name="repair", daemon=True)
        self._repair.start()


class World:
    """All servers; as a context manager they run inside the block.

    :arg folder: For their data and logs.

    :arg kafka: Which broker.

    """

    def __init__(self, folder: Path, kafka: Kafka) -> None:
        server: _Apache | _Embedded
        server = (_Apache if kafka == "apache" else _Embedded)(folder / "broker")
        self.kafka: KafkaServer = server
        self.postgres = Postgres(folder / "postgres", durable=True)
        self.model_api = ModelApi(
            folder / "model",
            delay=timedelta(milliseconds=5),
            options=["--fault", "poison,code=422", "--fault", "fickle"],
        )
        self.broker = Dependency(server, server.proxy)
        self.database = Dependency(self.postgres, Proxy(self.postgres.port))
        self.model = Dependency(self.model_api, Proxy(self.model_api.port))
        self._stack = ExitStack()

    @property
    def bootstrap_servers(self) -> str:
        """The broker, through its proxy."""
        return f"{LOCALHOST}:{self.broker.proxy.port}"

    @property
    def model_url(self) -> str:
        """The model, through its proxy."""
        return f"http://{LOCALHOST}:{self.model.proxy.port}"

    def database_url(self, name: str) -> str:
        """Give a database's URL through the proxy."""
        there, here = (f":{port}/" for port in (self.postgres.port, self.database.proxy.port))
        return self.postgres.url(name).replace(there, here)

    def sicken_model(self, code: int, seconds: float) -> None:
        """Let the model give one answer to everything, for so many seconds."""
        self.model.wait()
        self.model_api.control(name="status", code=code, seconds=seconds)
        self.model.suffer(seconds)

    def wait(self) -> None:
        """Wait until all is well."""
        for dependency in (self.broker, self.database, self.model):
            dependency.wait()

    def recover(self) -> None:
        """Bring all back, for another episode."""
        for dependency in (self.broker, self.database, self.model):
            dependency.recover()

    def check(self) -> bool:
        """See whether all repairs went well and are over."""
        return all(each.check() for each in (self.broker, self.database, self.model))

    def __enter__(self) -> Self:
        """Start all."""
        with ExitStack() as stack:
            for dependency in (self.broker, self.database, self.model):
                stack.enter_context(dependency.proxy)
            for dependency in (self.broker, self.database, self.model):
                stack.enter_context(dependency.server)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all, repairs first, which would start one again."""
        try:
            self.wait()
        finally:
            self._stack.close()
