"""What a replay cannot send, and when it cannot begin."""

import random

import pytest

from lab.servers import ApacheKafka, free_port
from tests.integration.replay.world import World
from tests.kit.kafka import Topics


@pytest.mark.apache_kafka
def test_the_topics_limit_is_met_in_smaller_transactions(
    world: World, apache_kafka: ApacheKafka
) -> None:
    """It holds for a request; what is too large alone is named, and all others go."""
    small = Topics(f"{world.topics.transactions}-small", world.topics.failed, world.topics.group)
    apache_kafka.create_topic(small.transactions, 1, config={"max.message.bytes": "3000"})
    world = World(apache_kafka, small)
    lengths = [1_000] * 10 + [2_960] + [1_000] * 5
    world.bury(
        *(
            world.letter(at, of={"value": _noise(length), "key": None, "headers": []})
            for at, length in enumerate(lengths)
        ),
        partition=0,
    )
    result = world.replay("--rate", "1000")
    topic = small.transactions
    assert result.status == 1
    assert result.lines[-2:] == [
        f"Too large for {topic} with two more headers: {topic}-0-10",
        f"Replayed 15 of 16 messages to {topic}.",
    ]
    assert world.ids() == {f"{topic}-0-{at}": 1 for at in range(16) if at != 10}


def _noise(length: int) -> bytes:
    """What no compression makes smaller."""
    return random.Random(length).randbytes(length)  # noqa: S311 - chance that can be repeated


@pytest.mark.parametrize(
    ("spoiled", "expected"),
    [
        ({"KAFKA_CONSUMER_GROUP": ""}, "settings: KAFKA_CONSUMER_GROUP: is not set"),
        (
            {"KAFKA_BOOTSTRAP_SERVERS": "{nobody}"},
            "replay: KAFKA_BOOTSTRAP_SERVERS: no broker answers at {nobody}",
        ),
        ({"KAFKA_TOPIC": "nowhere"}, "replay: KAFKA_TOPIC: there is no topic nowhere at "),
        (
            {"KAFKA_ERROR_TOPIC": "nowhere"},
            "replay: KAFKA_ERROR_TOPIC: there is no topic nowhere at ",
        ),
        (
            {"KAFKA_PROPERTIES": '{"linger.ms": "x"}'},
            "replay: KAFKA_PROPERTIES: ",
        ),
    ],
)
def test_what_it_needs_and_has_not_is_named(
    world: World, spoiled: dict[str, str], expected: str
) -> None:
    """Exit code 2 and one line."""
    nobody = f"127.0.0.1:{free_port()}"
    variables = {name: value.replace("{nobody}", nobody) for name, value in spoiled.items()}
    result = world.replay(START_TIMEOUT="1", **variables)
    assert result.status == 2
    assert result.lines == []
    [line] = result.errors
    assert line.startswith(expected.replace("{nobody}", nobody))


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--stage", "nope"], ["--since", "x"]])
def test_a_wrong_option_is_told_in_one_line(world: World, arguments: list[str]) -> None:
    """Exit code 2, before anything is asked."""
    result = world.replay(*arguments, KAFKA_BOOTSTRAP_SERVERS="")
    assert result.status == 2
    [line] = result.errors
    assert line.startswith(f"replay: {arguments[0]}: must be ")
