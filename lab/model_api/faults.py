"""Faults on command: what they are and what they do.

Three tables hold them: `ANSWERS` take the place of the right answer, `ALTERATIONS` falsify it, and
`OTHERS` act elsewhere in the server. Each is one small function; its docstring is its help.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any, Self

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

from lab.model_api.scoring import Refused, Transaction

__all__ = ["ALTERATIONS", "ANSWERS", "OTHERS", "Case", "Fault", "json_answer"]

Row = dict[str, Any]

MEGABYTE = 1_000_000
UNKNOWN_ID = "00000000-0000-4000-8000-000000000000"


class Fault(BaseModel):
    """One fault, as `POST /control` and `--fault` give it.

    It meets a request if all of its conditions hold: `share`, `requests`, `seconds`, `marker`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    share: float = Field(1.0, ge=0, le=1, description="share of the requests that it meets")
    requests: int | None = Field(None, ge=0, description="ends after so many requests")
    seconds: float | None = Field(None, gt=0, description="ends after this time")
    marker: str | None = Field(
        None,
        min_length=1,
        description="meets only batches with this text in a description (poison faults: 'poison',"
        " fickle: 'fickle')",
    )
    code: int | None = Field(None, ge=200, le=599, description="status of the answer")
    retry_after: float | None = Field(None, ge=0, description="seconds, sent as Retry-After")
    retry_after_date: bool = Field(default=False, description="send Retry-After as a date")
    delay_ms: float | None = Field(None, ge=0, description="slow: delay in place of --delay-ms")
    factor: float = Field(1.0, ge=0, description="slow: multiplies the delay")
    elements: int = Field(0, ge=0, description="too_large: the most that a batch may have")
    period: float = Field(2.0, gt=0, description="fickle: seconds for which a verdict stands")

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.name not in {**ANSWERS, **ALTERATIONS, **OTHERS}:
            msg = f"unknown fault {self.name}"
            raise ValueError(msg)
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the command line's form: `name,key=value,…`."""
        name, *parameters = text.split(",")
        pairs = (parameter.partition("=") for parameter in parameters)
        return cls.model_validate({"name": name, **{key: value for key, _, value in pairs}})

    @property
    def mark(self) -> str:
        """The marker; empty if the fault meets any transaction."""
        own = (name for name in ("poison", "fickle") if self.name.startswith(name))
        return self.marker or next(own, "")


@dataclass(frozen=True)
class Case:
    """A request that meets a fault.

    :arg request: The request.

    :arg fault: What it meets.

    :arg transactions: What was asked; empty if the request is not valid.

    :arg body: The right answer.

    :arg released: Set when the faults end.

    """

    request: web.Request
    fault: Fault
    transactions: list[Transaction]
    body: bytes
    released: asyncio.Event


def json_answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    """An answer with JSON, or with plain text if its status is 500."""
    kind = "text/plain" if status == 500 else "application/json"  # noqa: PLR2004 - FastAPI's own 500
    return web.Response(status=status, body=body, content_type=kind, headers=headers)


def _abort(request: web.Request) -> web.Response:
    if (transport := request.transport) is not None:
        connection = transport.get_extra_info("socket")
        # Closed with nothing to linger for, TCP sends RST in place of FIN.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=499)


async def _status(case: Case) -> web.StreamResponse:
    """Answer with `code` (503) and, if given, Retry-After."""
    fault, headers = case.fault, {}
    if (pause := fault.retry_after) is not None:
        date = datetime.now(UTC) + timedelta(seconds=pause)
        as_date = format_datetime(date, usegmt=True)
        headers["Retry-After"] = as_date if fault.retry_after_date else f"{pause:g}"
    return json_answer(fault.code or 503, b'{"detail":"fault on command"}', headers)


async def _poison(case: Case) -> web.StreamResponse:
    """Fail the batch with `code` (400) and do not say which element it was."""
    return json_answer(case.fault.code or 400, b'{"detail":"There was an error parsing the body"}')


async def _poison_index(case: Case) -> web.StreamResponse:
    """Fail the batch with 422 and name the element."""
    errors = [
        {
            "type": "value_error",
            "loc": (index, "description"),
            "msg": "Value error, fault on command",
            "input": transaction["description"],
        }
        for index, transaction in enumerate(case.transactions)
        if case.fault.mark in transaction["description"]
    ]
    refused = Refused.because(errors)
    return json_answer(refused.status, refused.body)


async def _fickle(case: Case) -> web.StreamResponse:
    """Take the batch, refuse it as poison_index does, or fail with 500: each for `period`."""
    # By the time alone: whoever knows when it was asked can tell what it said.
    rng = Random(int(time.time() / case.fault.period))  # noqa: S311 - no secret
    verdict = rng.choice(["well", "well", "refused", "failed"])
    if verdict == "refused":
        return await _poison_index(case)
    return json_answer(200, case.body) if verdict == "well" else json_answer(500, b"fickle")


async def _too_large(case: Case) -> web.StreamResponse:
    """Answer batches of more than `elements` with 413."""
    if len(case.transactions) <= case.fault.elements:
        return json_answer(200, case.body)
    return json_answer(413, b'{"detail":"Request Entity Too Large"}')


async def _hang(case: Case) -> web.StreamResponse:
    """Take the request and never answer; the connection is reset when the fault ends."""
    await case.released.wait()
    return _abort(case.request)


async def _reset(case: Case) -> web.StreamResponse:
    """Reset the connection (RST) in place of an answer."""
    return _abort(case.request)


async def _truncate(case: Case) -> web.StreamResponse:
    """Close the connection after half of the body."""
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    answer.content_length = len(case.body)
    await answer.prepare(case.request)
    await answer.write(case.body[: len(case.body) // 2])
    if case.request.transport is not None:
        case.request.transport.close()
    return answer


async def _huge(case: Case) -> web.StreamResponse:
    """Answer with a body of 100 MB."""
    answer = web.StreamResponse(headers={"Content-Type": "application/json"})
    await answer.prepare(case.request)
    for _ in range(100):
        await answer.write(b" " * MEGABYTE)
    return answer


async def _html(case: Case) -> web.StreamResponse:
    """Answer 200 with a page, as a proxy's login does."""
    del case
    return web.Response(text="<html><body>Please sign in</body></html>", content_type="text/html")


async def _redirect(case: Case) -> web.StreamResponse:
    """Redirect with `code` (307)."""
    return web.Response(status=case.fault.code or 307, headers={"Location": "/elsewhere"})


async def _not_json(case: Case) -> web.StreamResponse:
    """Answer 200 and call it JSON, which it is not."""
    return json_answer(200, case.body[:-1])


Answer = Callable[[Case], Awaitable[web.StreamResponse]]

ANSWERS: dict[str, Answer] = {
    "status": _status,
    "outage": _status,
    "poison": _poison,
    "poison_index": _poison_index,
    "fickle": _fickle,
    "too_large": _too_large,
    "hang": _hang,
    "reset": _reset,
    "truncate": _truncate,
    "huge": _huge,
    "html": _html,
    "redirect": _redirect,
    "not_json": _not_json,
}


def _missing(rows: list[Row], at: int, _: Random) -> None:
    """Leave a transaction out."""
    del rows[at]


def _doubled(rows: list[Row], at: int, _: Random) -> None:
    """Answer a transaction twice, with two scores."""
    rows.append(rows[at] | {"fraud_score": 1 - rows[at]["fraud_score"]})


def _foreign(rows: list[Row], at: int, _: Random) -> None:
    """Put an id there that was not asked for."""
    rows[at]["transaction_id"] = UNKNOWN_ID


def _anonymous(rows: list[Row], at: int, _: Random) -> None:
    """Leave an id out."""
    del rows[at]["transaction_id"]


def _short(rows: list[Row], _at: int, _: Random) -> None:
    """Answer half of the transactions."""
    del rows[len(rows) // 2 :]


def _shuffle(rows: list[Row], _at: int, random: Random) -> None:
    """Answer in another order, which is allowed."""
    random.shuffle(rows)


def _set(name: str, value: Any) -> Callable[[list[Row], int, Random], None]:
    def change(rows: list[Row], at: int, _: Random) -> None:
        rows[at][name] = value

    change.__doc__ = f"Give {value!r} as {name}."
    return change


ALTERATIONS: dict[str, Callable[[list[Row], int, Random], None]] = {
    "missing": _missing,
    "doubled": _doubled,
    "foreign": _foreign,
    "anonymous": _anonymous,
    "short": _short,
    "shuffle": _shuffle,
    "nan": _set("fraud_score", float("nan")),
    "text": _set("fraud_score", "high"),
    "no_score": _set("fraud_score", None),
    "out_of_range": _set("fraud_score", 1.5),
    "no_prediction": _set("prediction", None),
}

OTHERS = {
    "slow": "Take `delay_ms` in place of the usual time, times `factor`.",
    "refuse": "Close the port, so that connections are refused; `seconds` or --control-port.",
}
