"""Where a partition begins: snapshot, the group's offset, or `KAFKA_START_AT`."""

from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions
from structlog.testing import capture_logs

from lab.servers import ApacheKafka, wait_until
from operators.errors import SourceError
from operators.kafka.identity import describe
from operators.kafka.metadata import CommitMetadata
from tests.kit.reading import LONG, Reading, offsets, state

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_topic_that_is_not_there_is_named(reading: Reading) -> None:
    """The error names the setting, and nothing creates the topic."""
    for _ in range(2):
        with (
            pytest.raises(SourceError, match=r"^KAFKA_TOPIC: there is no topic nowhere at 127"),
            reading.run(KAFKA_TOPIC="nowhere"),
        ):
            pass


@pytest.mark.parametrize(
    ("start_at", "expected"),
    [
        ("earliest", [0, 1, 2]),
        ("latest", []),
        # The embedded broker finds no offsets by time.
        pytest.param(NOON.isoformat(), [1, 2], marks=pytest.mark.apache_kafka),
        pytest.param(NOON.replace(tzinfo=None).isoformat(), [1, 2], marks=pytest.mark.apache_kafka),
        ((NOON - timedelta(days=9)).isoformat(), [0, 1, 2]),
        pytest.param((NOON + timedelta(days=9)).isoformat(), [], marks=pytest.mark.apache_kafka),
    ],
)
def test_a_group_without_offsets_starts_where_it_is_told(
    reading: Reading, start_at: str, expected: list[int]
) -> None:
    """From the first, after the last, or from the first message of a time on (UTC)."""
    for hours in (-1, 0, 1):
        reading.send(b"{}", at=NOON + timedelta(hours=hours))
    with reading.run(KAFKA_START_AT=start_at) as run:
        reading.send(b"new")
        assert offsets(run.read(len(expected) + 1)) == [*expected, 3]


def test_a_group_that_begins_has_an_offset_at_once(reading: Reading) -> None:
    """Of every partition: a run that is killed at once is followed by one that resumes."""
    reading.send(b"a", b"b")
    with reading.run(KAFKA_START_AT="latest"):
        assert [reading.committed(number) for number in range(4)] == [2, 0, 0, 0]


def test_the_groups_offset_takes_precedence_over_the_setting(reading: Reading) -> None:
    """`KAFKA_START_AT` is for groups without offsets."""
    reading.send(b"a", b"b", b"c")
    reading.commit(2)
    with reading.run(KAFKA_START_AT="earliest") as run:
        assert offsets(run.read(1)) == [2]


def test_a_partition_that_is_new_to_the_group_begins_at_its_beginning(reading: Reading) -> None:
    """It was added to the topic: its first messages are not to be skipped, and that is told."""
    reading.send(b"a", b"b")
    reading.send(b"c", b"d", partition=1)
    reading.commit(1)
    with capture_logs() as lines, reading.run({1: None}, KAFKA_START_AT="latest") as run:
        assert offsets(run.read(2)) == [0, 1]
    new = [line["partition"] for line in lines if line["event"] == "source.new_partition"]
    assert new == [1, 2, 3]


@pytest.mark.apache_kafka
def test_a_partition_that_is_added_is_listed_at_the_next_start(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """Partitions may grow in number while the stream is down."""
    topic = reading.topics.transactions
    admin = AdminClient(apache_kafka.client_settings)
    admin.create_partitions([NewPartitions(topic, 5)])[topic].result(10)

    def is_listed() -> bool:
        with reading.run() as run:
            return run.source.list_parts()[4:] == [f"4-{topic}"]

    wait_until(is_listed, LONG, what="the new one")


@pytest.mark.apache_kafka
@pytest.mark.parametrize(("saved", "committed"), [(2, 1), (1, 2)])
def test_the_later_of_snapshot_and_group_counts(
    reading: Reading, saved: int, committed: int
) -> None:
    """Both say that everything before is durable, and either may lag behind."""
    reading.send(b"a", b"b", b"c")
    reading.commit(committed, metadata=CommitMetadata(""))
    with reading.run(state(saved)) as run:
        assert offsets(run.read(1)) == [2]


def test_a_broker_that_keeps_no_metadata_is_no_operator(reading: Reading) -> None:
    """The snapshot counts where the broker is not known to keep what our commits carry."""
    reading.send(b"a", b"b", b"c")
    reading.commit(1)
    with reading.run(state(2, keeps_metadata=False)) as run:
        assert offsets(run.read(1)) == [2]


def test_an_offset_that_was_set_by_hand_is_honoured_and_told(reading: Reading) -> None:
    """What is read twice or left out by it was somebody's wish: a warning with both offsets."""
    reading.send(b"a", b"b", b"c")
    reading.commit(1)
    with capture_logs() as lines, reading.run(state(2)) as run:
        assert offsets(run.read(2)) == [1, 2]
    [line] = [line for line in lines if line["event"] == "source.moved"]
    assert line["log_level"] == "warning"
    assert (line["partition"], line["snapshot"], line["offset"]) == (0, 2, 1)


@pytest.mark.apache_kafka
def test_an_old_snapshot_does_not_undo_what_was_set_by_hand(reading: Reading) -> None:
    """The run after it was killed before its first epoch ended: the wish is in its commit."""
    reading.send(b"a", b"b", b"c")
    reading.commit(1)
    with reading.run(state(3)) as run:
        assert offsets(run.read(2)) == [1, 2]
    with reading.run(state(3)) as run:
        assert offsets(run.read(2)) == [1, 2]
        assert run.snapshot()["generation"] > 1


@pytest.mark.apache_kafka
def test_the_groups_tool_sets_an_offset_by_hand(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """`kafka-consumer-groups --reset-offsets` is honoured at the next start."""
    reading.send(b"a", b"b", b"c")
    with reading.run() as run:
        run.finish(*run.read(3))
        saved = run.snapshot()
    assert saved["offset"] == reading.committed() == 3
    apache_kafka.group_tool(
        *("--reset-offsets", "--group", reading.topics.group, "--execute"),
        *("--topic", reading.topics.transactions, "--to-offset", "1"),
    )
    with reading.run(saved) as run:
        assert offsets(run.read(2)) == [1, 2]


@pytest.mark.apache_kafka
@pytest.mark.parametrize("by", ["snapshot", "group"])
def test_a_topic_that_was_created_again_is_recognised(reading: Reading, by: str) -> None:
    """Its offsets may all be there again, but they mean other messages."""
    reading.send(b"a", b"b")
    with reading.run() as run:
        run.finish(*run.read(2))
        saved = run.snapshot()
    reading.recreate_topic()
    reading.send(b"c", b"d", b"e")
    if by == "group":
        # Kafka forgets the group's offsets with the topic; a group that was restored has them.
        reading.commit(2, metadata=CommitMetadata(saved["topic_id"]))
    with (
        pytest.raises(SourceError, match="deleted and created again"),
        reading.run(saved if by == "snapshot" else None) as run,
    ):
        run.turn()


def test_a_snapshot_of_another_version_is_refused(reading: Reading) -> None:
    """With what to do: the offsets of the group are enough."""
    with (
        pytest.raises(SourceError, match=r"written by another version .* Start with an empty one"),
        reading.run({0: {"version": 1, "offset": 3}}) as run,
    ):
        run.turn()


@pytest.mark.apache_kafka
def test_what_is_known_of_the_topic_is_in_snapshot_and_commit(
    reading: Reading, apache_kafka: ApacheKafka
) -> None:
    """Kafka's id of it: the next run sees whether it is still the same."""
    topic = describe(AdminClient(apache_kafka.client_settings), reading.topics.transactions, 10)
    with reading.run() as run:
        run.turn()
        found = run.snapshot()
        assert found == state(0, topic_id=topic.id) | {"generation": found["generation"]}
