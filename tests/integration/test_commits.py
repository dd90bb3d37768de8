"""What is committed to the consumer group, and what is looked at before."""

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from lab.servers import ApacheKafka
from operators.errors import SourceError
from operators.kafka import commits
from tests.kit.kafka import committed
from tests.kit.reading import Reading, Run, offsets


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commits come as soon as something has moved."""
    monkeypatch.setattr(commits, "EVERY", 0.0)


def move_on(reading: Reading, run: Run) -> None:
    """Send, read and finish messages until something stops the stream."""
    while True:
        reading.send(b"x")
        run.turn()
        run.finish_all()


def test_what_is_read_is_not_committed_before_it_is_done(reading: Reading) -> None:
    """Nor at the end of an epoch."""
    reading.send(b"a", b"b")
    with reading.run() as run:
        run.read(2)
        assert run.snapshot()["offset"] == 0
        run.idle()
        assert reading.committed() == 0
        run.finish(*run.found)
        run.until(lambda: reading.committed() == 2, what="the commit")


def test_commits_stop_short_of_what_is_in_hand(reading: Reading) -> None:
    """Behind it there may be much that is done; in the snapshot it is the same."""
    with reading.run() as run:
        for value in (b"a", b"b", b"c", b"d"):  # each read on its own
            reading.send(value)
            run.read(1)
        first, second, *rest = run.found
        run.finish(first, *rest)
        run.until(lambda: reading.committed() == 1, what="the commit of the first")
        run.idle()
        assert run.snapshot()["offset"] == reading.committed() == 1
        run.finish(second)
        run.until(lambda: reading.committed() == 4, what="the commit of all")
        assert run.snapshot()["offset"] == 4


def test_a_group_resumes_where_something_was_not_done(reading: Reading) -> None:
    """Without a snapshot the group alone is enough, and nothing is skipped."""
    with reading.run() as run:
        for value in (b"a", b"b", b"c"):
            reading.send(value)
            run.read(1)
        run.finish(run.found[0], run.found[2])
    with reading.run() as run:
        assert offsets(run.read(2)) == [1, 2]


def test_the_last_positions_are_committed_at_the_end(reading: Reading) -> None:
    """After a graceful end the group shows no lag, of no partition."""
    reading.send(b"a", b"b", b"c")
    reading.send(b"d", partition=1)
    with reading.run({0: None, 1: None}) as run:
        run.finish(*run.read(4))
    assert committed(reading.broker, reading.topics) == {0: 3, 1: 1, 2: 0, 3: 0}


def test_what_is_done_during_a_stop_is_committed(reading: Reading) -> None:
    """Reading has ended by then."""
    reading.send(b"a", b"b")
    with reading.run() as run:
        run.read(2)
        run.stop.request()
        run.finish(*run.found)
        with pytest.raises(StopIteration):
            run.turn()
        assert reading.committed() == 2


def test_what_does_not_move_is_committed_now_and_then(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers forget offsets of a group that nobody commits to, and an alert looks at the time."""

    def committed_at() -> float:
        name = "fraud_commit_timestamp_seconds"
        return REGISTRY.get_sample_value(name, {"partition": "3"}) or 0

    with reading.run({3: None}) as run:
        run.idle()
        before = committed_at()
        monkeypatch.setattr(commits, "AT_LEAST", 0.0)
        run.until(lambda: committed_at() > before, what="a commit")


@pytest.mark.parametrize("offset", [1, 5])
@pytest.mark.apache_kafka
def test_an_offset_that_is_set_by_hand_stops_the_stream(reading: Reading, offset: int) -> None:
    """It is not committed over: the next start follows the wish."""
    reading.send(*[b"x"] * 6)
    with reading.run() as run:
        run.finish(*run.read(2))
        run.until(lambda: (reading.committed() or 0) >= 2, what="a commit")
        reading.commit(offset)
        with pytest.raises(SourceError, match=f"position was set to offset {offset} by hand"):
            move_on(reading, run)
    assert reading.committed() == offset
    with reading.run() as run:
        assert offsets(run.read(1))[0] == offset


@pytest.mark.apache_kafka
def test_offsets_that_are_deleted_by_hand_stop_the_stream(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """`kafka-consumer-groups --delete-offsets` is a wish as well."""
    reading.send(b"a", b"b")
    with reading.run() as run:
        run.finish(*run.read(2))
        run.until(lambda: reading.committed() == 2, what="a commit")
        apache_kafka.group_tool(
            *("--delete-offsets", "--group", reading.topics.group),
            *("--topic", reading.topics.transactions),
        )
        with pytest.raises(SourceError, match="position was deleted by hand"):
            move_on(reading, run)


@pytest.mark.apache_kafka
def test_a_topic_that_is_created_again_while_it_is_read_stops_the_stream(reading: Reading) -> None:
    """Its messages are others, though their offsets may be the same."""
    reading.send(b"a")
    with reading.run() as run:
        run.finish(*run.read(1))
        reading.recreate_topic()
        expected = "deleted and created again|the topic is gone|cannot read on"
        with pytest.raises(SourceError, match=expected):
            move_on(reading, run)


@pytest.mark.apache_kafka
def test_a_topic_that_vanishes_stops_the_stream(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for good."""
    monkeypatch.setattr(commits, "AT_LEAST", 0.0)
    reading.send(b"a")
    with reading.run() as run:
        run.finish(*run.read(1))
        reading.delete_topic()
        with pytest.raises(SourceError, match=r"cannot read on(:| from)"):
            run.until(lambda: False)


@pytest.mark.apache_kafka
def test_partitions_that_are_added_are_told_once(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """They are read only after the next start."""
    topic = reading.topics.transactions
    with capture_logs() as lines, reading.run() as run:
        run.turn()
        admin = AdminClient(apache_kafka.client_settings)
        admin.create_partitions([NewPartitions(topic, 6)])[topic].result(10)

        def told() -> list[dict[str, object]]:
            reading.send(b"x")
            run.finish_all()
            return [dict(line) for line in lines if line["event"] == "source.new_partitions"]

        run.until(told, what="the warning")
        for _ in range(5):
            run.until(told)
    [line] = told()
    assert (line["log_level"], line["read"], line["found"]) == ("warning", 4, 6)


@pytest.mark.apache_kafka
def test_what_it_commits_is_seen_by_the_groups_tool(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """`kafka-consumer-groups` shows offset and lag, though the group has no members."""
    reading.send(b"a", b"b", b"c")
    with reading.run() as run:
        run.finish(*run.read(3))
        run.until(lambda: reading.committed() == 3, what="the commit")
    reading.send(b"d")
    shown = apache_kafka.group_tool("--describe", "--group", reading.topics.group)
    rows = [line.split() for line in shown.splitlines() if reading.topics.transactions in line]
    [row] = [row for row in rows if row[2] == "0"]
    assert row[3:6] == ["3", "4", "1"]


def test_a_broker_that_does_not_answer_stops_nothing(reading: Reading) -> None:
    """Neither does it hold a release up for long; the snapshot has the position."""
    reading.send(b"a", b"b")
    with capture_logs() as lines, reading.run() as run:
        run.read(2)
        reading.broker.pause()
        run.finish(*run.found)
        assert run.snapshot()["offset"] == 2
        run.release()
    told = {line["event"] for line in lines if line["log_level"] == "warning"}
    assert told & {"source.commit_failed", "source.no_answer"}
    reading.broker.kill()  # a frozen one would need a while to be itself again
