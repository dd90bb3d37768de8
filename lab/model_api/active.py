"""The faults in force, and which of them a request meets."""

import asyncio
import time
from dataclasses import dataclass, field
from random import Random

from lab.model_api.faults import Fault
from lab.model_api.scoring import Transaction

__all__ = ["Faults"]


@dataclass
class _Active:
    fault: Fault
    until: float
    left: float

    def meets(self, transactions: list[Transaction], random: Random) -> bool:
        mark, share = self.fault.mark, self.fault.share
        if mark and not any(mark in transaction["description"] for transaction in transactions):
            return False
        if share < 1 and random.random() >= share:
            return False
        self.left -= 1
        return True


@dataclass
class Faults:
    """The faults that are active.

    :arg random: Decides about shares and victims.

    """

    random: Random
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the faults end, for the requests that they hold."""
    _active: dict[str, _Active] = field(default_factory=dict)

    def add(self, fault: Fault) -> None:
        """Start a fault, in place of the one of its name."""
        until = float("inf") if fault.seconds is None else time.monotonic() + fault.seconds
        left = float("inf") if fault.requests is None else fault.requests
        self._active[fault.name] = _Active(fault, until, left)

    def clear(self) -> None:
        """End all faults and let go what they hold."""
        self._active.clear()
        self.released.set()
        self.released = asyncio.Event()

    def active(self) -> list[Fault]:
        """The faults that have not ended."""
        now = time.monotonic()
        self._active = {
            name: active
            for name, active in self._active.items()
            if active.until > now and active.left > 0
        }
        return [active.fault for active in self._active.values()]

    def meeting(self, transactions: list[Transaction]) -> list[Fault]:
        """The faults that this request meets; each has then one request less to go."""
        if not self._active:
            return []
        return [
            fault
            for fault in self.active()
            if self._active[fault.name].meets(transactions, self.random)
        ]
