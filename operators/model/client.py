"""One request to the model's API, over HTTP, and what its answer means.

| answer                                                    | meaning                         |
| --------------------------------------------------------- | ------------------------------- |
| 200 with one valid prediction for each transaction        | predictions                     |
| 200 with anything else, or too long; what is no HTTP      | `UnavailableError`              |
| 408, 425, 429, 5xx, no connection, no answer in time      | `UnavailableError`              |
| 400, 413, 422                                             | `RefusedError`: of this content |
| 401, where a token file holds another token by now        | asked once more, with that one  |
| any other                                                 | `ScoringError`: stops           |
"""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import SecretStr

from operators.errors import ScoringError
from operators.model.contracts import CONTRACTS, BadAnswerError
from operators.model.errors import Kind, RefusedError, UnavailableError
from operators.model.transport import certificates, failure, present, transport
from operators.records import Prediction, Transaction
from settings import Settings
from telemetry import tracing

__all__ = ["ModelClient"]

UNAVAILABLE: Final = frozenset({408, 425, 429})
REFUSED: Final = frozenset({400, 413, 422})
OVERLOADED: Final = frozenset({429, 503})
LONGEST_WISH: Final = 60.0  # seconds of `Retry-After` that are granted
CODINGS: Final = frozenset({"", "identity", "gzip", "deflate"})
ANSWER_BYTES: Final = 64_000  # longest answer: these, and for each transaction those
ANSWER_BYTES_EACH: Final = 2_000


class ModelClient:
    """The model's API."""

    def __init__(self, settings: Settings) -> None:
        self._contract = CONTRACTS[settings.ml_api_contract]
        path = self._contract.path.format(model=settings.ml_api_model)
        self.url = f"{str(settings.ml_api_url).rstrip('/')}/{path}"
        self._settings = settings
        self._target = httpx.URL(self.url)
        self._limit = settings.ml_api_timeout.total_seconds()
        self._token = settings.ml_api_token
        self._transport: AiohttpTransport | None = None
        self._certificates: ssl.SSLContext | None = None

    async def predict(self, transactions: Sequence[Transaction]) -> dict[int, Prediction]:
        """Ask for predictions, once.

        :arg transactions: Each id once.

        :returns: A prediction for each, by the `int` of its id.

        :raises UnavailableError: Another time it may go well.

        :raises RefusedError: The content is refused.

        :raises ScoringError: It will not go well without another setting.

        """
        with tracing.request(len(transactions)):
            return await self._predict(transactions)

    async def _predict(self, transactions: Sequence[Transaction]) -> dict[int, Prediction]:
        body = self._contract.encode(transactions)
        room = ANSWER_BYTES + ANSWER_BYTES_EACH * len(transactions)
        token = self._token
        status, answer, after = await self._post(body, room)
        if status == httpx.codes.UNAUTHORIZED and self._has_another_token(token):
            status, answer, after = await self._post(body, room)
        if status < httpx.codes.OK:  # an interim answer, or none that HTTP has
            reason = f"status {status}"
            raise UnavailableError(reason, kind="answer")
        if status in UNAVAILABLE or status >= httpx.codes.INTERNAL_SERVER_ERROR:
            reason = f"status {status}"
            kind: Kind = "overload" if status in OVERLOADED else "status"
            raise UnavailableError(reason, after, kind=kind)
        if status in REFUSED:
            raise RefusedError(status, self._contract.blame(answer))
        if status != httpx.codes.OK:
            raise ScoringError(self._complaint(status))
        try:
            predictions = self._contract.decode(answer)
        except BadAnswerError as error:
            raise UnavailableError(str(error), kind="answer") from None
        if predictions.keys() != {transaction.id.int for transaction in transactions}:
            reason = "the ids of the answer are not those of the request"
            raise UnavailableError(reason, kind="answer")
        return predictions

    async def close(self) -> None:
        """Close its connections."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    async def _post(self, body: bytes, room: int) -> tuple[int, bytes, float]:
        """Status, body, and the seconds that `Retry-After` asks for."""
        if self._certificates is None:
            self._certificates = certificates(self._settings)
        if self._transport is None:
            self._transport = transport(self._certificates)
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token.get_secret_value()}"
        headers |= tracing.headers()
        request = httpx.Request("POST", self._target, headers=headers, content=body)
        try:
            # Without httpx's client: its cookies, redirects and credentials are not wanted here,
            # and took as much of the processor as all of the transport.
            async with (
                asyncio.timeout(self._limit),
                aclosing(await self._transport.handle_async_request(request)) as response,
            ):
                tracing.answered(response.status_code)
                answer = await _body(response, room)
                return response.status_code, answer, _retry_after(response)
        except (UnavailableError, MemoryError):
            raise
        except TimeoutError:
            reason = f"no answer within {self._limit:g} s"
            raise UnavailableError(reason, kind="timeout") from None
        except Exception as error:  # noqa: BLE001 - whatever it is, see `failure`
            found = failure(error)
            if found.kind == "connection":
                # Perhaps the certificate was renewed since it was read. If its files are not whole
                # yet, they are after another failure.
                with suppress(ScoringError):
                    present(self._certificates, self._settings)
            raise found from None

    def _has_another_token(self, refused: SecretStr | None) -> bool:
        # Than the one that was sent: meanwhile another request may have read the new one.
        self._token = self._settings.read_again("ml_api_token")
        return self._token != refused

    def _complaint(self, status: int) -> str:
        setting = "ML_API_URL, ML_API_CONTRACT, ML_API_MODEL"
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            setting = "ML_API_TOKEN"
        return f"{setting}: the model at {self.url} answered {status}"


async def _body(response: httpx.Response, room: int) -> bytes:
    if response.headers.get("content-encoding", "").strip().lower() not in CODINGS:
        # None was asked for. Of several in one another, a few bytes become gigabytes at once.
        reason = "an answer in a coding that was not asked for"
        raise UnavailableError(reason, kind="answer")
    answer = bytearray()
    async for chunk in response.aiter_bytes():
        answer += chunk
        if len(answer) > room:
            reason = f"an answer of more than {room} bytes"
            raise UnavailableError(reason, kind="answer")
    return bytes(answer)


def _retry_after(response: httpx.Response) -> float:
    """Seconds that a `Retry-After` header asks for, in either of its forms (RFC 9110, 10.2.3)."""
    value = response.headers.get("retry-after", "0")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return 0.0
    return min(seconds, LONGEST_WISH) if seconds > 0 else 0.0  # NaN is not
