"""Compare the stores with the topic, partition by partition."""

import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping

from operators.errors import DependencyError
from operators.kafka import client as topics
from operators.kafka.identity import NEW_TOPIC, topic_id
from operators.kafka.topic_reader import TopicReader
from ops.audit import letters
from ops.audit.account import Account, Audit, Figure
from ops.audit.letters import Letters
from ops.audit.spans import Examples, Span, sweep
from ops.audit.tables import Tables
from ops.audit.topic import Range, Topic
from settings import Settings

__all__ = ["compare"]


def compare(
    settings: Settings, *, starts: Mapping[int, int] | None = None, examples: int = 10
) -> Audit:
    """Find out where all messages ended, while the stream runs or not.

    :arg settings: Of the stream.

    :arg starts: Where to begin, by partition. Else a partition begins where `KAFKA_START_AT` says,
        or with the lowest offset that a store or the group knows, if that is lower.

    :arg examples: How many spans of missing and of doubled positions are kept for each partition.

    :returns: What was found.

    :raises DependencyError: Which setting to look at.

    """
    starts = starts or {}
    topics.check(settings, settings.kafka_topic)
    topics.check(settings, settings.kafka_error_topic)
    with (
        TopicReader(settings, settings.kafka_topic, reset="error") as reader,
        Tables(settings) as tables,
    ):
        _refuse_other_topic(tables.topic_id(), settings)
        topic = Topic(settings, reader)
        # First of all: whatever is before these offsets is in the stores that are read later.
        committed = topic.committed()
        if unknown := sorted(starts.keys() - committed.keys()):
            msg = f"KAFKA_TOPIC: {settings.kafka_topic} has no partition {unknown[0]} to begin in"
            raise DependencyError(msg)
        ranges = topic.ranges(committed)
        dead = letters.read(settings, starts)
        stores = _Stores(tables, dead, topic)
        accounts = []
        for number, offsets in ranges.items():
            account = Account(
                number,
                committed[number],
                missing=Examples(examples),
                doubled=Examples(examples),
                no_prediction=Examples(examples),
            )
            stores.draw_up(account, offsets, starts.get(number))
            accounts.append(account)
        _look_at_predictions(tables, accounts)
    audit = Audit(
        settings.kafka_topic, settings.kafka_consumer_group, settings.kafka_error_topic, accounts
    )
    _refuse_other_group(audit)
    return audit


def _look_at_predictions(tables: Tables, accounts: Iterable[Account]) -> None:
    found = tables.without_prediction()
    for account in accounts:
        for offset in found.get(account.partition, ()):
            if offset >= account.first:
                account.counts["no_prediction"] += 1
                account.no_prediction.add(Span(offset, offset))


def _refuse_other_topic(noted: str, settings: Settings) -> None:
    """Positions of one topic cannot be compared with those of another."""
    if noted and noted != (topic_id(settings) or noted):
        raise DependencyError(NEW_TOPIC.format(key=settings.kafka_topic))


def _refuse_other_group(audit: Audit) -> None:
    """For a group without offsets nothing is judged: nobody may take that for a proof."""
    ended = sum(audit.total(name) for name in ("stored", "duplicates", "dead_letters"))
    if ended and not audit.is_read:
        msg = (
            f"KAFKA_CONSUMER_GROUP: {audit.group} has committed no offset of {audit.topic}, and"
            f" {ended} messages of it have ended: it was another group, or its offsets were deleted"
        )
        raise DependencyError(msg)


class _Stores:
    """All that there is to compare.

    :arg tables: Rows.

    :arg dead: Dead letters by partition.

    :arg topic: To look where there are gaps.

    """

    def __init__(self, tables: Tables, dead: Mapping[int, Letters], topic: Topic) -> None:
        self._tables, self._dead, self._topic = tables, dead, topic

    def draw_up(self, account: Account, offsets: Range, start: int | None) -> None:
        """Find out what is in an account.

        :arg account: Of the partition, empty.

        :arg offsets: What the topic has of it.

        :arg start: Where to begin; None for where the stream began.

        """
        spans = self._spans(account, start or 0)
        lowest = next(spans, None)
        if start is None:
            known = [offsets.start, lowest and lowest.first, account.committed]
            start = min((at for at in known if at is not None), default=offsets.low)
        account.first = start
        spans = spans if lowest is None else itertools.chain([lowest], spans)
        gaps = self._judge(account, offsets, spans)
        for content, span in self._topic.look(account.partition, gaps):
            account.counts["no_record"] -= span.size
            if content == "expired":
                account.counts["gone"] += span.size
            else:
                account.counts["missing"] += 1
                account.missing.add(span)
        self._name_places(account)

    def _spans(self, account: Account, start: int) -> Iterator[Span]:
        """What all stores have of a partition, in the order of first offsets."""
        number = account.partition
        stored = self._tables.spans("transactions", number, start)
        duplicates = self._tables.spans("duplicates", number, start)
        dead = self._dead.get(number, Letters())
        account.counts["replayed"] = dead.replayed
        account.counts["put_back"] = dead.put_back
        return heapq.merge(
            _counted(stored, account, "stored"),
            _counted(duplicates, account, "duplicates"),
            _counted(dead.spans(), account, "dead_letters"),
        )

    def _judge(self, account: Account, offsets: Range, spans: Iterator[Span]) -> Iterator[Span]:
        """Account for everything but the gaps that have to be looked at, which are given."""
        counts = account.counts
        committed = account.first if account.committed is None else account.committed
        counts["settled"] = max(0, committed - account.first)
        for deviation, span in sweep(spans, first=account.first, end=offsets.end):
            if deviation == "overlap":
                counts["doubled"] += span.size
                account.doubled.add(span)
                continue
            counts["settled"] -= span.cut(0, committed).size
            counts["gone"] += span.cut(0, offsets.low).size
            counts["in_progress"] += span.cut(max(committed, offsets.low), offsets.end).size
            gap = span.cut(offsets.low, committed)
            if gap.size:
                counts["no_record"] += gap.size
                yield gap

    def _name_places(self, account: Account) -> None:
        """Find out where the doubled positions are that will be shown."""
        number = account.partition
        offsets = [span.first for span in account.doubled.spans]
        if not offsets:
            return
        stored = self._tables.having("transactions", number, offsets)
        duplicates = self._tables.having("duplicates", number, offsets)
        dead = self._dead.get(number, Letters())
        for at in offsets:
            account.doubled_in[at] = [
                *["stored"] * (at in stored),
                *["duplicate"] * (at in duplicates),
                *["dead letter"] * dead.count(at),
            ]


def _counted(spans: Iterator[Span], account: Account, figure: Figure) -> Iterator[Span]:
    for span in spans:
        account.counts[figure] += span.size
        yield span
