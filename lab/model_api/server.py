"""The server: requests in, answers or faults out, and a count of both."""

import asyncio
import hmac
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from lab.model_api.active import Faults
from lab.model_api.faults import ALTERATIONS, ANSWERS, Case, Fault, json_answer
from lab.model_api.port import HOST, Port
from lab.model_api.scoring import Refused, Transaction, parse, score

__all__ = ["Server"]

_FAULTS = TypeAdapter(Fault | list[Fault])


@dataclass
class _Counts:
    requests: int = 0
    elements: int = 0
    in_flight: int = 0
    in_flight_max: int = 0
    by_status: Counter[str] = field(default_factory=Counter)

    def arrived(self) -> None:
        self.requests += 1
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight_max, self.in_flight)

    def ended(self, outcome: str) -> None:
        self.in_flight -= 1
        self.by_status[outcome] += 1


class Server:
    """The stand-in on its port.

    :arg delay: How long the model takes for a batch, in seconds.

    :arg token: The bearer token that requests need; None asks for none.

    :arg seed: Seed of what faults leave to chance.

    :arg host: Address to listen at.

    """

    def __init__(
        self,
        *,
        delay: float = 0.0,
        token: str | None = None,
        seed: int = 0,
        host: str = HOST,
    ) -> None:
        self.host = host
        self._delay = delay
        self._authorization = f"Bearer {token}".encode() if token else None
        self._seed = seed
        self._faults = Faults(Random(seed))  # noqa: S311 - chance that can be repeated
        self._counts = _Counts()
        self._runners: list[web.AppRunner] = []
        self._port: Port | None = None

    async def start(self, port: int, control_port: int | None = None) -> int:
        """Listen.

        :arg port: Port of the API and of `/control`; 0 takes a free one.

        :arg control_port: A second port for `/control`, which goes on while the first refuses.

        :returns: The API's port.

        """
        if control_port is not None:
            await web.TCPSite(await self._runner(), self.host, control_port).start()
        runner = await self._runner(web.post("/predict", self._predict))
        self._port = Port(runner, self.host, port)
        await self._port.open()
        return self._port.number

    async def stop(self) -> None:
        """Close the ports; requests in flight are dropped."""
        self._faults.clear()
        for runner in self._runners:
            await runner.cleanup()
        if self._port is not None:
            self._port.close()

    async def inject(self, fault: Fault, *, by: web.Request | None = None) -> None:
        """Start a fault.

        :arg fault: Which; takes the place of an active one of its name.

        :arg by: The request that asks for it; it is answered whatever the fault is.

        :raises ValueError: Nothing could end it.

        """
        if fault.name == "refuse":
            if fault.seconds is None and len(self._runners) == 1:
                msg = "refuse: give seconds, or start the server with --control-port to end it"
                raise ValueError(msg)
            assert self._port is not None  # noqa: S101 - it was started
            await self._port.refuse(fault.seconds, but=by.transport if by else None)
        self._faults.add(fault)

    async def _runner(self, *routes: web.RouteDef) -> web.AppRunner:
        app = web.Application(client_max_size=0)  # 0: no limit, as in the service it stands in for
        app.add_routes(
            [
                *routes,
                web.get("/control", self._show),
                web.post("/control", self._control),
                web.delete("/control", self._reset),
                web.route("*", "/{path:.*}", self._not_found),
            ]
        )
        # A client that leaves ends its request, so that what hangs does not pile up.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        self._counts.arrived()
        outcome = "dropped"
        try:
            answer = await self._answer(request)
            outcome = str(answer.status)
        finally:
            self._counts.ended(outcome)
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if not self._is_authorized(request):
            detail = b'{"detail":"Not authenticated"}'
            return json_answer(401, detail, {"WWW-Authenticate": "Bearer"})
        transactions: list[Transaction] = []
        refused: Refused | None = None
        try:
            transactions = parse(await request.read())
        except Refused as error:
            refused = error
        self._counts.elements += len(transactions)
        # Taken now: they may end, and others begin, before the delay is over.
        faults, released = self._faults.meeting(transactions), self._faults.released
        if delay := self._delayed(faults):
            await asyncio.sleep(delay)
        body = refused.body if refused else self._score(transactions, faults)
        for fault in faults:
            if fault.name in ANSWERS:
                case = Case(request, fault, transactions, body, released)
                return await ANSWERS[fault.name](case)
        return json_answer(refused.status if refused else 200, body)

    def _is_authorized(self, request: web.Request) -> bool:
        if self._authorization is None:
            return True
        given = request.headers.get("Authorization", "").encode(errors="replace")
        return hmac.compare_digest(given, self._authorization)

    def _delayed(self, faults: list[Fault]) -> float:
        delay = self._delay
        for fault in faults:
            if fault.name == "slow":
                delay = fault.factor * (delay if fault.delay_ms is None else fault.delay_ms / 1000)
        return delay

    def _score(self, transactions: list[Transaction], faults: list[Fault]) -> bytes:
        rows = [score(transaction) for transaction in transactions]
        random = self._faults.random
        for fault in faults:
            if rows and fault.name in ALTERATIONS:
                victims = [i for i, t in enumerate(transactions) if fault.mark in t["description"]]
                ALTERATIONS[fault.name](rows, min(random.choice(victims), len(rows) - 1), random)
        return to_json(rows, inf_nan_mode="constants")

    def _state(self) -> dict[str, Any]:
        faults = [fault.model_dump(exclude_unset=True) for fault in self._faults.active()]
        return {"faults": faults, **vars(self._counts)}

    async def _show(self, _: web.Request) -> web.Response:
        return web.json_response(self._state())

    async def _control(self, request: web.Request) -> web.Response:
        try:
            wanted = _FAULTS.validate_json(await request.read())
            for fault in wanted if isinstance(wanted, list) else [wanted]:
                await self.inject(fault, by=request)
        except ValidationError as error:
            complaints = [f"{problem['loc']}: {problem['msg']}" for problem in error.errors()]
            return web.json_response({"detail": complaints}, status=422)
        except ValueError as error:
            return web.json_response({"detail": [str(error)]}, status=422)
        answer = web.json_response(self._state())
        if any(fault.name == "refuse" for fault in self._faults.active()):
            answer.force_close()  # the one connection that was kept, to answer
        return answer

    async def _reset(self, _: web.Request) -> web.Response:
        """End all faults and start counting anew; the answer is the state until now."""
        state = self._state()
        self._faults.clear()
        self._faults.random.seed(self._seed)
        in_flight = self._counts.in_flight
        self._counts = _Counts(in_flight=in_flight, in_flight_max=in_flight)
        if self._port is not None:
            await self._port.open()
        return web.json_response(state)

    async def _not_found(self, _: web.Request) -> web.Response:
        return json_answer(404, b'{"detail":"Not Found"}')
