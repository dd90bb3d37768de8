"""What adds up and what differs, position by position."""

import pytest

from operators.dead_letters.envelope import Origin
from ops.replayed import Replayed
from tests.integration.audit.world import World
from tests.kit.kafka import Outgoing, produce
from tests.kit.postgres import query


def test_all_places_together_add_up(healthy: World) -> None:
    """Exit code 0, and each figure is what there is."""
    result = healthy.audited()
    assert result.status == 0
    assert result.total == {"settled": 20, "stored": 12, "duplicates": 4, "dead_letters": 4}
    topic, group = healthy.topics.transactions, healthy.topics.group
    assert (result.found["topic"], result.found["group"]) == (topic, group)
    first, _, third, _ = result.found["partitions"]
    assert (first["from"], first["committed"], first["settled"]) == (0, 10, 10)
    assert (third["from"], third["committed"], third["settled"]) == (0, None, 0)


@pytest.mark.parametrize("offset", [0, 5, 9])
def test_a_row_that_is_gone_is_missing(healthy: World, offset: int) -> None:
    """Wherever it was: exit code 1, and its position."""
    delete = "DELETE FROM transactions WHERE source_partition = 1 AND source_offset = %s"
    query(healthy.database_url, delete, offset)
    result = healthy.audited()
    assert result.status == 1
    assert result.total["missing"] == 1
    assert result.total["settled"] == 19
    assert result.partition(0)["missing_at"] == []
    assert result.partition(1)["missing_at"] == [{"first": offset, "last": offset}]


def test_a_duplicate_that_was_not_noted_is_missing(healthy: World) -> None:
    """Its position counts, not that its transaction is stored."""
    query(healthy.database_url, "DELETE FROM duplicates WHERE source_offset = 8")
    assert healthy.audited().total["missing"] == 2


def test_a_dead_letter_that_was_not_delivered_is_missing(world: World) -> None:
    """Nobody but the error topic knows of it."""
    world.send(3)
    world.store([0, 2])
    world.commit(3)
    assert world.audited().partition()["missing_at"] == [{"first": 1, "last": 1}]


def test_what_nobody_stored_at_all_is_missing(world: World) -> None:
    """Consumed, and all stores are empty: from the log start to the committed offset."""
    world.send(5)
    world.commit(4)
    result = world.audited()
    assert result.total == {"missing": 4, "in_progress": 1}
    assert result.partition()["missing_at"] == [{"first": 0, "last": 3}]


@pytest.mark.parametrize("at", [2, 12])
@pytest.mark.parametrize(
    ("places", "named"),
    [
        (["bury", "bury"], ["dead letter", "dead letter"]),
        (["transactions", "bury"], ["stored", "dead letter"]),
        (["duplicates", "bury"], ["duplicate", "dead letter"]),
        (["transactions", "duplicates"], ["stored", "duplicate"]),
        (
            ["transactions", "duplicates", "bury", "bury"],
            ["stored", "duplicate", "dead letter", "dead letter"],
        ),
    ],
)
def test_a_position_in_two_places_is_doubled(
    world: World, places: list[str], named: list[str], at: int
) -> None:
    """Exit code 1, before the committed offset and after it, and the places are named."""
    world.send(13, 2)
    world.store(set(range(13)) - {at}, 2)
    for place in places:
        if place == "bury":
            world.bury(at, partition=2)
        else:
            world.store([at], 2, table=place)
    world.commit(10, 2)
    result = world.audited()
    assert result.status == 1
    assert result.total["doubled"] == 1
    assert "missing" not in result.total
    assert result.total["settled"] == 10
    assert result.partition(2)["doubled_at"] == [{"first": at, "last": at, "places": named}]


def test_what_is_after_the_committed_offset_is_in_progress(world: World) -> None:
    """Stored or not: it may be on its way, and is not missing."""
    world.send(20)
    world.store([*range(10), 12, 14])
    world.bury(13)
    world.commit(10)
    result = world.audited()
    assert result.status == 0
    assert result.total == {"settled": 10, "stored": 12, "dead_letters": 1, "in_progress": 7}


def test_a_group_that_has_read_nothing_proves_nothing(world: World) -> None:
    """Exit code 0, and it does not say that all is well."""
    world.send(5)
    result = world.audited()
    assert result.status == 0
    assert result.total == {"in_progress": 5}
    assert world.audit().output.splitlines()[-1] == (
        f"Nothing to prove yet: {world.topics.group} has committed no offset"
        f" of {world.topics.transactions}."
    )


def test_another_group_cannot_vouch_for_the_stores(healthy: World) -> None:
    """A group without offsets, and stores with rows: the name is wrong, or they are gone."""
    result = healthy.audit("--json", KAFKA_CONSUMER_GROUP="nobody")
    assert result.status == 2
    [line] = result.errors
    assert line == (
        f"audit: KAFKA_CONSUMER_GROUP: nobody has committed no offset of"
        f" {healthy.topics.transactions}, and 16 messages of it have ended: it was another group,"
        " or its offsets were deleted"
    )


def test_other_topics_in_the_same_stores_do_not_count(healthy: World) -> None:
    """Rows and dead letters of another topic, and records that are no dead letters."""
    healthy.store(range(30), topic="other")
    healthy.store([3, 40], table="duplicates", topic="other")
    healthy.bury(2, 4, 50, topic="other")
    foreign = [
        Outgoing(b"x"),
        Outgoing(b"x", headers=[("dlq.topic", healthy.topics.transactions.encode())]),
        Outgoing(
            b"x",
            headers=[
                ("dlq.topic", healthy.topics.transactions.encode()),
                ("dlq.partition", b"0"),
                ("dlq.offset", b"zero"),
            ],
        ),
    ]
    produce(healthy.broker, healthy.topics.failed, foreign)
    result = healthy.audited()
    assert result.status == 0
    assert result.total == {"settled": 20, "stored": 12, "duplicates": 4, "dead_letters": 4}


def test_another_topics_row_does_not_stand_in_for_a_missing_one(world: World) -> None:
    """The same partition and offset of another topic is another message."""
    world.send(2)
    world.store([0])
    world.store([1], topic="other")
    world.bury(1, topic="other")
    world.commit(2)
    assert world.audited().partition()["missing_at"] == [{"first": 1, "last": 1}]


def test_dead_letters_of_replayed_messages_are_counted(world: World) -> None:
    """A replay has a position of its own, so it is doubled with nothing."""
    world.send(3)
    world.store([1])
    world.bury(0)
    world.bury(2, replays=1)
    world.commit(3)
    result = world.audited()
    assert result.status == 0
    assert result.total == {"settled": 3, "stored": 1, "dead_letters": 2, "replayed": 1}


def test_the_first_positions_are_named_and_the_rest_counted(world: World) -> None:
    """`--limit` holds for each partition, and what follows each other counts as one."""
    world.send(40, 3)
    world.store(set(range(40)) - {4, 10, 11, 12, 20, 30, 31}, 3)
    world.bury(1, 2, 35, 36, partition=3)
    world.commit(40, 3)
    result = world.audited("--limit", "2")
    assert result.total["missing"] == 7
    assert result.total["doubled"] == 4
    named = result.partition(3)
    assert named["missing_at"] == [{"first": 4, "last": 4}, {"first": 10, "last": 12}]
    assert [(at["first"], at["last"]) for at in named["doubled_at"]] == [(1, 2), (35, 36)]
    assert world.audit("--limit", "2").output.splitlines()[-4:] == [
        "missing: 3:4, 3:10-12 and 3 more",
        "doubled: 3:1-2 (stored + dead letter), 3:35-36 (stored + dead letter)",
        "not read before the next start: 0, 1, 2",
        "Differs: 40 consumed messages, 7 missing; 4 positions doubled.",
    ]


def test_the_table_is_aligned_and_plain_where_there_is_no_terminal(healthy: World) -> None:
    """One line a partition, one for the total, and the verdict; no column that is 0 throughout."""
    lines = healthy.audit().output.splitlines()
    heads = ["partition", "from", "committed", "stored", "duplicates", "dead letters"]
    assert lines[0].split() == " ".join(heads).split()
    assert [line.split() for line in lines[1:6]] == [
        ["0", "0", "10", "6", "2", "2"],
        ["1", "0", "10", "6", "2", "2"],
        ["2", "0", "none", "0", "0", "0"],
        ["3", "0", "none", "0", "0", "0"],
        ["total", "12", "4", "4"],
    ]
    assert {len(line) for line in lines[:6]} == {len(lines[0])}
    assert lines[6:] == [
        "not read before the next start: 2, 3",
        "Adds up: 20 consumed messages, each in exactly one place.",
    ]


def test_a_partition_that_is_not_read_yet_is_named(healthy: World) -> None:
    """It was added while the stream runs: nothing of it is judged, and that is said."""
    healthy.send(3, 2)
    healthy.commit(0, 3)
    result = healthy.audited()
    assert result.status == 0
    assert result.found["not_read"] == [2]
    assert result.partition(2)["committed"] is None
    assert result.total["in_progress"] == 3


def test_two_groups_that_share_the_stores_do_not_see_each_others_dead_letters(
    healthy: World,
) -> None:
    """A message bad for both has a dead letter of each: neither is doubled."""
    healthy.bury(4, 7, partition=0, group="other")
    healthy.bury(4, 7, 9, partition=1, group="other")
    assert healthy.audited().total["dead_letters"] == 4

    healthy.commit(10, 0, group="other")
    healthy.commit(10, 1, group="other")
    result = healthy.audited(KAFKA_CONSUMER_GROUP="other")
    assert result.total["dead_letters"] == 5
    assert result.partition(0)["doubled"] == 0
    assert result.partition(1)["doubled_at"] == [
        {"first": 9, "last": 9, "places": ["stored", "dead letter"]}
    ]


def test_another_groups_dead_letter_does_not_stand_in_for_a_missing_one(world: World) -> None:
    """The other stream has dealt with the message; this one has lost it."""
    world.send(2)
    world.store([0])
    world.bury(1, group="other")
    world.commit(2)
    assert world.audited().partition()["missing_at"] == [{"first": 1, "last": 1}]


def test_dead_letters_of_version_0_1_0_count(world: World) -> None:
    """They name no group."""
    world.send(1)
    world.commit(1)
    headers = {"topic": world.topics.transactions, "partition": 0, "offset": 0, "replays": 0}
    told = [(f"dlq.{name}", str(value).encode()) for name, value in headers.items()]
    produce(world.broker, world.topics.failed, [Outgoing(b"{}", headers=told)])
    assert world.audited().total == {"settled": 1, "dead_letters": 1}


def test_only_marks_of_the_own_group_are_counted(healthy: World) -> None:
    """And those that name none, of version 0.1.0."""
    topic = healthy.topics.transactions
    marks = [
        Replayed(Origin(group, topic, 0, 4), 0, 1).record()
        for group in (healthy.topics.group, "other", None)
    ]
    healthy.put(*marks)
    assert healthy.audited().total["put_back"] == 2
