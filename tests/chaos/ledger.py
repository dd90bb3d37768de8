"""Count both ends: every message of the topic in exactly one place, once, and in the right one.

Each group by itself. What a transaction aborted, and its markers, are no messages.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lab.servers import KafkaServer
from tests.chaos.load import Load
from tests.chaos.messages import Place
from tests.kit.accounts import Position
from tests.kit.kafka import Topics, header, read_all
from tests.kit.postgres import query

__all__ = ["Entry", "Findings", "Replays", "compare", "examine", "letters_of"]

_ORPHANS = (
    "SELECT count(*) FROM transactions FULL JOIN predictions ON transaction_id = id "
    "WHERE id IS NULL OR transaction_id IS NULL"
)
_ROWS = """
SELECT source_partition, source_offset, extract(epoch FROM created_at) FROM transactions
UNION ALL SELECT source_partition, source_offset, extract(epoch FROM created_at) FROM duplicates
"""


class Entry(NamedTuple):
    """What a store has of a message: a row of either table, or a dead letter."""

    at: Position
    written: float = 0.0
    """Seconds since 1970; of a dead letter by the flow's clock, which may be wrong."""
    record: str = ""
    """Of a dead letter: where in the error topic it is."""


@dataclass
class Findings:
    """What is wrong; empty if nothing is."""

    messages: int = 0
    missing: list[Position] = field(default_factory=list)
    """In no place."""
    in_two_places: list[Position] = field(default_factory=list)
    doubled_dead_letters: list[Position] = field(default_factory=list)
    misplaced: list[Position] = field(default_factory=list)
    """Good ones in the error topic, or bad ones in the database."""
    never_there: list[Position] = field(default_factory=list)
    """In a place, and not in the topic."""
    vanished: list[Position] = field(default_factory=list)
    """Acknowledged to the producer, and not in the topic: the broker's fault."""
    orphans: int = 0
    """Transactions without prediction, predictions without transaction."""
    copies: dict[str, list[str]] = field(default_factory=dict)
    """For each doubled dead letter, where in the error topic its records are, and of when."""

    def problems(self) -> list[str]:
        """Say what is wrong, in a few words each."""
        return [
            f"{len(found) if isinstance(found, list) else found} {name.replace('_', ' ')}"
            for name, found in asdict(self).items()
            if name not in {"messages", "copies"} and found
        ]

    def save(self, path: Path) -> None:
        """Write all down, with every position."""
        path.write_text(json.dumps(asdict(self), indent=1))


@dataclass(frozen=True)
class Replays:
    """Messages that were done already when a process was started that read them again.

    Dead letters roughly, if clocks were moved: their records have the time of the flow's.
    """

    rows: int = 0
    dead_letters: int = 0


def examine(
    broker: KafkaServer, topics: Topics, database_url: str, load: Load, folder: Path
) -> tuple[Findings, Replays]:
    """Look where everything is of one group.

    :arg broker: With both topics.

    :arg topics: Their names, and the group's.

    :arg database_url: With the rows.

    :arg load: Knows what was sent.

    :arg folder: With the output of all runs.

    :returns: What is wrong, and what was read again.

    """
    # What was not acknowledged may be there or not: the topic itself is what counts.
    values = {
        _at(message.partition(), message.offset()): message.value()
        for message in read_all(broker, topics.transactions)
    }
    right = {position: load.messages.place(value) for position, value in values.items()}
    rows = [
        Entry((partition, offset), float(written))
        for partition, offset, written in query(database_url, _ROWS)
    ]
    letters = letters_of(broker, topics)
    [(orphans,)] = query(database_url, _ORPHANS)
    findings = compare(right, rows, letters, load.acknowledged, orphans=orphans)
    return findings, _replays(folder, rows, letters)


def letters_of(broker: KafkaServer, topics: Topics) -> list[Entry]:
    """Read the group's own dead letters, and those that do not say whose they are."""
    return [
        Entry(
            (int(header(record, "dlq.partition") or -1), int(header(record, "dlq.offset") or -1)),
            record.timestamp()[1] / 1000,
            f"{record.partition()}:{record.offset()}",
        )
        for record in read_all(broker, topics.failed)
        if header(record, "dlq.group") in {topics.group, None}
    ]


def compare(
    right: Mapping[Position, Place | None],
    rows: Iterable[Entry],
    letters: Iterable[Entry],
    acknowledged: Iterable[Position],
    *,
    orphans: int = 0,
) -> Findings:
    """Compare what was sent with where it ended.

    :arg right: Positions in the topic, and in which place each has to end; None if nobody knows.

    :arg rows: Of both tables.

    :arg letters: Of the group.

    :arg acknowledged: What the producer was told is in the topic.

    :arg orphans: Rows without their counterpart.

    :returns: What is wrong.

    """
    sent, letters = set(right), list(letters)
    stored, failed = Counter(row.at for row in rows), Counter(letter.at for letter in letters)
    both = stored + Counter(set(failed))
    doubled = sorted(at for at, number in failed.items() if number > 1)
    copies: dict[Position, list[str]] = {at: [] for at in doubled}
    for letter in letters:
        if letter.at in copies:
            moment = datetime.fromtimestamp(letter.written, UTC).isoformat()
            copies[letter.at].append(f"{letter.record} at {moment}")
    wrong = {at for at in failed if right.get(at) == "row"}
    wrong |= {at for at in stored if right.get(at) == "dead letter"}
    return Findings(
        messages=len(sent),
        missing=sorted(sent - both.keys()),
        in_two_places=sorted(at for at, number in both.items() if number > 1),
        doubled_dead_letters=doubled,
        misplaced=sorted(wrong),
        never_there=sorted(both.keys() - sent),
        vanished=sorted(set(acknowledged) - sent),
        orphans=orphans,
        copies={f"{partition}:{offset}": told for (partition, offset), told in copies.items()},
    )


def _replays(folder: Path, rows: Iterable[Entry], letters: Iterable[Entry]) -> Replays:
    """Count what was read again, from where each start of the flow began to read.

    :arg folder: With the output of all runs.

    :arg rows: Of both tables.

    :arg letters: Of the group.

    :returns: How many rows and dead letters were there already.

    """
    starts = list(_starts(folder))
    return Replays(_again(starts, rows), _again(starts, letters))


def _starts(folder: Path) -> Iterable[tuple[int, int, float]]:
    for log in folder.rglob("flow.log"):
        # When the process was started, which made the only file there: not by the flow's own
        # clock, which may be wrong.
        moment = log.parent.stat().st_mtime
        for line in log.read_text(errors="replace").splitlines():
            if '"source.start"' in line and line.startswith("{"):
                told = json.loads(line)
                yield told["partition"], told["offset"], moment


def _again(starts: list[tuple[int, int, float]], done: Iterable[Entry]) -> int:
    return sum(
        entry.at[0] == partition and entry.at[1] >= offset and entry.written < moment
        for entry in done
        for partition, offset, moment in starts
    )


def _at(partition: int | None, offset: int | None) -> Position:
    assert partition is not None
    assert offset is not None
    return partition, offset
