"""Count both ends: every message of the topic in exactly one place, once, and in the right one."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka import Message

from lab.servers import KafkaServer
from tests.chaos.load import Load, Place
from tests.support import Account, Position, Topics, account, header, query, read_all

__all__ = ["Findings", "Replays", "examine", "replays"]

_ORPHANS = (
    "SELECT count(*) FROM transactions FULL JOIN predictions ON transaction_id = id "
    "WHERE id IS NULL OR transaction_id IS NULL"
)
_ROWS = """
SELECT source_partition, source_offset, created_at FROM transactions
UNION ALL SELECT source_partition, source_offset, created_at FROM duplicates
"""


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


def examine(broker: KafkaServer, topics: Topics, database_url: str, load: Load) -> Findings:
    """Look where everything is.

    :arg broker: With both topics.

    :arg topics: Their names.

    :arg database_url: With the rows.

    :arg load: Knows what was sent.

    :returns: What is wrong.

    """
    # What was not acknowledged may be there or not: the topic itself is what counts.
    values = {
        _at(message.partition(), message.offset()): message.value()
        for message in read_all(broker, topics.transactions)
    }
    found = account(broker, topics, database_url)
    [(orphans,)] = query(database_url, _ORPHANS)
    right = {position: load.place(value) for position, value in values.items()}
    findings = compare(set(values), right, found, load.acknowledged, orphans=orphans)
    if findings.doubled_dead_letters:
        findings.copies = _copies(broker, topics, set(findings.doubled_dead_letters))
    return findings


def _copies(broker: KafkaServer, topics: Topics, doubled: set[Position]) -> dict[str, list[str]]:
    copies: dict[str, list[str]] = {}
    for record in read_all(broker, topics.failed):
        if _source(record) in doubled:
            moment = datetime.fromtimestamp(record.timestamp()[1] / 1000, UTC)
            told = f"{record.partition()}:{record.offset()} at {moment.isoformat()}"
            copies.setdefault("{}:{}".format(*_source(record)), []).append(told)
    return copies


def compare(
    sent: set[Position],
    right: Mapping[Position, Place | None],
    found: Account,
    acknowledged: Iterable[Position],
    *,
    orphans: int = 0,
) -> Findings:
    """Compare what was sent with where it ended.

    :arg sent: Positions in the topic.

    :arg right: In which place they have to end; None if nobody knows.

    :arg found: Where they ended.

    :arg acknowledged: What the producer was told is in the topic.

    :arg orphans: Rows without their counterpart.

    :returns: What is wrong.

    """
    rows, letters = found.stored | found.duplicates, set(found.failed)
    both = Counter([*found.stored, *found.duplicates, *letters])
    wrong = {at for at in letters if right.get(at) == "row"}
    wrong |= {at for at in rows if right.get(at) == "dead letter"}
    return Findings(
        messages=len(sent),
        missing=sorted(sent - both.keys()),
        in_two_places=sorted(at for at, number in both.items() if number > 1),
        doubled_dead_letters=sorted(at for at, number in found.failed.items() if number > 1),
        misplaced=sorted(wrong),
        never_there=sorted(both.keys() - sent),
        vanished=sorted(set(acknowledged) - sent),
        orphans=orphans,
    )


@dataclass(frozen=True)
class Replays:
    """Messages that were done already when a process was started that read them again.

    Dead letters roughly, if clocks were moved: their records have the time of the flow's.
    """

    rows: int = 0
    dead_letters: int = 0


def replays(folder: Path, broker: KafkaServer, topics: Topics, database_url: str) -> Replays:
    """Count what was read again, from where each start of the flow began to read.

    :arg folder: With the output of all runs.

    :arg broker: With the error topic.

    :arg topics: Their names.

    :arg database_url: With the rows.

    :returns: How many rows and dead letters were there already.

    """
    rows = [
        (partition, offset, written.timestamp())
        for partition, offset, written in query(database_url, _ROWS)
    ]
    letters = [
        (*_source(record), record.timestamp()[1] / 1000)
        for record in read_all(broker, topics.failed)
    ]
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


def _again(starts: list[tuple[int, int, float]], done: list[tuple[int, int, float]]) -> int:
    count = 0
    for partition, offset, moment in starts:
        count += sum(p == partition and o >= offset and t < moment for p, o, t in done)
    return count


def _source(record: Message) -> Position:
    return int(header(record, "dlq.partition") or -1), int(header(record, "dlq.offset") or -1)


def _at(partition: int | None, offset: int | None) -> Position:
    assert partition is not None
    assert offset is not None
    return partition, offset
