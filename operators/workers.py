"""What one Bytewax worker owns, put together: this is what the steps are handed.

Nothing is made before it is needed, and nothing connects before the stream runs.
"""

import asyncio
import time
from functools import cached_property
from typing import Any

from operators.dead_letters.writer import DeadLetterWriter
from operators.engine.epochs import EpochPacer
from operators.engine.idle import IdleWait
from operators.engine.loop import EventLoop
from operators.engine.positions import InHand
from operators.engine.shutdown import Stop
from operators.model.batcher import AsyncBatcher
from operators.model.scorer import Scorer
from operators.postgres.session import LEASE, Session
from operators.postgres.tables import note_topic, stored_positions
from operators.postgres.writer import RowWriter
from settings import Settings
from telemetry import Progress, worker_index

__all__ = ["Worker"]


class Worker:
    """One worker.

    :arg stores_rows: Whether rows go to PostgreSQL.

    :arg sends_failures: Whether failures go to the error topic.

    """

    def __init__(
        self,
        settings: Settings,
        *,
        stop: Stop,
        progress: Progress,
        stores_rows: bool,
        sends_failures: bool,
    ) -> None:
        self.settings, self.stop, self.progress = settings, stop, progress
        self.stores_rows, self.sends_failures = stores_rows, sends_failures
        self.loop = EventLoop()
        self.pacer = EpochPacer()
        self.idle = IdleWait(self.pacer)
        self.in_hand = InHand(settings.in_hand_messages, settings.in_hand_bytes)
        self._confirming: asyncio.Task[None] | None = None

    @cached_property
    def scorer(self) -> Scorer:
        """Asks the model."""
        return Scorer(self.settings)

    @cached_property
    def session(self) -> Session:
        """With PostgreSQL."""
        return Session(self.settings)

    @cached_property
    def dead_letters(self) -> DeadLetterWriter:
        """Writes failures."""
        return DeadLetterWriter(
            self.settings,
            loop=self.loop,
            progress=self.progress,
            stop=self.stop,
            confirm=self._confirm,
            is_stored=self._is_stored if self.stores_rows else None,
        )

    @cached_property
    def rows(self) -> RowWriter:
        """Writes rows."""
        return RowWriter(
            self.session, loop=self.loop, dead_letters=self.dead_letters, progress=self.progress
        )

    def batcher(self, *, is_alone: bool) -> AsyncBatcher:
        """Make the scoring of this worker.

        :arg is_alone: Whether there is no other worker.

        """
        return AsyncBatcher(
            scorer=self.scorer,
            loop=self.loop,
            pacer=None if is_alone else self.pacer,
            batch_size=self.settings.batch_size,
            stop=self.stop,
        )

    def claim(self, partition_keys: list[str]) -> bool:
        """Hold the locks of source partitions; waits for them.

        :returns: Whether they are held; if not, a stop was requested meanwhile.

        :raises StoreError: Another process has one.

        """
        if not self.stores_rows:
            return True
        task = self.loop.spawn(self.session.claim(partition_keys))
        if self._wait_for(task):
            task.result()
            return True
        return False

    def rows_are_of(self, topic_id: str) -> bool:
        """See that the rows of this topic's name are of this topic; waits for the answer.

        :arg topic_id: Of the topic that has the name now; empty if the broker tells none.

        :returns: False if they come from an earlier topic of the same name. True if it cannot be
            known, or if a stop was requested meanwhile.

        """
        if not self.stores_rows or not topic_id:
            return True
        topic = self.settings.kafka_topic
        task = self.loop.spawn(
            self.session.run(lambda connection: note_topic(connection, topic, topic_id))
        )
        return not self._wait_for(task) or task.result() == topic_id

    def confirm(self) -> bool:
        """See that the locks are held; waits for the answer.

        :returns: Whether there was one before the end of a stop.

        :raises StreamError: Another process has, or had, one of them.

        """
        if not self.stores_rows:
            return True
        task = self.loop.spawn(self.session.confirm())
        self.loop.run_until(lambda: task.done() or self.stop.gives_up(is_hopeless=False))
        if task.done():
            task.result()
        return task.done()

    def look(self) -> None:
        """Look now and then at what is believed, and close what is not used."""
        moves = self.in_hand.has_moved or self.in_hand.messages == 0
        self.progress.in_hand(worker_index(), self.in_hand.messages, moves=moves)
        self.in_hand.has_moved = False
        if self.sends_failures:
            self.dead_letters.tick()
        is_confirming = self._confirming is not None and not self._confirming.done()
        if not self.stores_rows or is_confirming:
            return
        if time.monotonic() - self.session.confirmed_at > LEASE:
            self._confirming = self.loop.start(self.session.confirm())

    def _wait_for(self, task: asyncio.Task[Any]) -> bool:
        """Wait until a task is done; a stop cancels it.

        :returns: Whether it is done.

        """
        self.loop.run_until(lambda: task.done() or self.stop.requested)
        if not task.done():
            task.cancel()
            return False
        return True

    async def _confirm(self) -> None:
        if self.stores_rows:
            await self.session.confirm()

    async def _is_stored(self, partition: int, offsets: list[int]) -> set[int]:
        topic = self.settings.kafka_topic
        return await self.session.run(
            lambda connection: stored_positions(connection, topic, partition, offsets)
        )
