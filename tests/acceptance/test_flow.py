"""The stream in this process, with a model that answers: every message ends in one place."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from bytewax.testing import TestingSink, TestingSource

from dataflow import build
from lab.sample import DUPLICATE, STORED, Sample, transactions
from lab.servers import ModelApi
from operators.records import Failure, Message, Scored
from tests.kit.factories import message, settings, transaction_json, transaction_text
from tests.kit.in_process import GivenSource, run_in_process

SEED = 4711


class Outcome:
    """What reached the two sinks, in the lists in which it came."""

    def __init__(self) -> None:
        self.stored_lists: list[list[Scored]] = []
        self.failed_lists: list[list[Failure]] = []

    @property
    def stored(self) -> list[Scored]:
        """What is to be stored."""
        return [item for items in self.stored_lists for item in items]

    @property
    def failed(self) -> list[Failure]:
        """What is to go to the error topic."""
        return [item for items in self.failed_lists for item in items]

    def places(self) -> Counter[tuple[int, int]]:
        """How often each message came out, by partition and offset."""
        everything = [item.message for item in self.stored]
        everything += [item.message for item in self.failed]
        return Counter((each.partition, each.offset) for each in everything)

    def reasons(self) -> dict[int, str]:
        """Code of each failure, by the offset of its message."""
        return {failure.message.offset: failure.code for failure in self.failed}


def run(source: Any, model_api: ModelApi, *, workers: int = 1, **overrides: Any) -> Outcome:
    """Run the stream over a source until its end."""
    outcome = Outcome()
    flow = build(
        settings(ml_api_url=model_api.url, **overrides),
        source=source,
        stored=TestingSink(outcome.stored_lists),
        failed=TestingSink(outcome.failed_lists),
    )
    run_in_process(flow, workers=workers)
    return outcome


def samples(count: int) -> list[Sample]:
    """Sample messages; the seed is printed."""
    print("seed", SEED)  # noqa: T201 - to repeat it
    return list(transactions(count, seed=SEED, broken=0.1, repeated=0.05))


def spread(values: Sequence[bytes | None], partitions: int = 4) -> list[Message]:
    """Put values into partitions, in turn."""
    return [
        message(value=value, partition=number % partitions, offset=number // partitions)
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_message_ends_in_one_place(model_api: ModelApi, workers: int) -> None:
    """Valid ones, repeated ones too, are stored with a prediction, broken ones are failures."""
    given = samples(1_200)
    messages = spread([sample.value for sample in given])
    outcome = run(GivenSource(messages), model_api, workers=workers)
    assert outcome.places() == Counter((each.partition, each.offset) for each in messages)
    expected = {
        (each.partition, each.offset): sample.expected in {STORED, DUPLICATE}
        for each, sample in zip(messages, given, strict=True)
    }
    scored = {(item.message.partition, item.message.offset) for item in outcome.stored}
    assert scored == {position for position, valid in expected.items() if valid}


def test_what_was_read_together_passes_in_lists(model_api: ModelApi) -> None:
    """None is empty, and there are far fewer of them than messages: they cost the engine."""
    messages = spread([sample.value for sample in samples(400)])
    outcome = run(GivenSource(messages), model_api, workers=2)
    lists = [len(items) for items in outcome.stored_lists]
    lists += [len(items) for items in outcome.failed_lists]
    assert sum(lists) == 400
    assert min(lists) > 0
    assert len(lists) < 200


def test_predictions_are_their_transactions_own(model_api: ModelApi) -> None:
    """Answers in any order are matched by id: alone or in a batch, each has the same score."""
    values = [
        json.dumps(transaction_json(id=str(UUID(int=n)), amount=n)).encode() for n in range(60)
    ]
    model_api.control(name="shuffle")
    together = run(GivenSource(spread(values)), model_api, batch_size=30)
    model_api.reset()
    alone = run(GivenSource(spread(values)), model_api, batch_size=1)
    assert len(together.stored) == 60
    scores = {item.transaction.id: item.prediction for item in together.stored}
    assert scores == {item.transaction.id: item.prediction for item in alone.stored}
    assert len({prediction.fraud_score for prediction in scores.values()}) > 10


@pytest.mark.parametrize("workers", [1, 3])
def test_requests_are_bounded_in_size_and_number(model_api: ModelApi, workers: int) -> None:
    """Batches hold at most `BATCH_SIZE`, and a worker has `SCORING_CONCURRENCY` at once."""
    values = [json.dumps(transaction_json(id=number)).encode() for number in range(900)]
    model_api.control(name="too_large", elements=7)
    outcome = run(
        GivenSource(spread(values)), model_api, workers=workers, batch_size=7, scoring_concurrency=3
    )
    state = model_api.state()
    assert len(outcome.stored) == 900
    assert set(state["by_status"]) == {"200"}
    assert 1 < state["in_flight_max"] <= 3 * workers


def test_a_backlog_makes_full_batches(model_api: ModelApi) -> None:
    """What waits goes together: far fewer requests than messages."""
    values = [json.dumps(transaction_json(id=number)).encode() for number in range(1_000)]
    run(GivenSource(spread(values)), model_api, batch_size=50)
    assert 20 <= model_api.state()["requests"] <= 60


def test_a_trickle_makes_batches_while_the_model_is_busy(model_api: ModelApi) -> None:
    """One at a time is not sent so: a few requests keep the model busy, and the rest waits."""
    values = [json.dumps(transaction_json(id=number)).encode() for number in range(150)]
    model_api.control(name="slow", delay_ms=300)
    outcome = run(
        TestingSource(spread(values), batch_size=1),
        model_api,
        batch_size=100,
        scoring_adaptive=False,
    )
    assert len(outcome.stored) == 150
    assert model_api.state()["requests"] <= 8


def test_a_transaction_repeated_in_a_batch_is_asked_for_once(model_api: ModelApi) -> None:
    """Every copy has the answer, since each position has to be accounted for."""
    copies = [message(offset=number) for number in range(20)]
    outcome = run(TestingSource(copies, batch_size=20), model_api)
    assert sorted(item.message.offset for item in outcome.stored) == list(range(20))
    assert model_api.state()["elements"] == 1


def test_the_same_id_with_other_content_is_asked_for_apart(model_api: ModelApi) -> None:
    """Answers are known by id, and which of two is right is for the database to say."""
    copies = [
        message(offset=number, value=transaction_json(amount=number % 2)) for number in range(10)
    ]
    outcome = run(TestingSource(copies, batch_size=10), model_api)
    assert sorted(item.message.offset for item in outcome.stored) == list(range(10))
    assert model_api.state()["elements"] == 2


def test_hostile_messages_do_not_stop_the_stream(model_api: ModelApi) -> None:
    """Each is a failure with a code, or stored, and what stands between them is stored."""
    hostile: dict[str, bytes | None] = {
        "nothing": None,
        "empty": b"",
        "zeros": b"\x00" * 1_000,
        "invalid utf-8": b"\xff\xfe" * 100,
        "900 kB of rubbish": b"x" * 900_000,
        "900 kB of brackets": b"[" * 900_000,
        "900 kB of a number": b"9" * 900_000,
        "a description of 900 kB": transaction_text(description='"' + "x" * 900_000 + '"'),
        "an amount of 5,000 digits": transaction_text(amount="9" * 5_000),
        "an id of 5,000 digits": transaction_text(id="9" * 5_000),
        "a huge exponent": transaction_text(amount="1e999999999"),
        "a tiny exponent": transaction_text(amount="1e-999999999"),
        "infinity": transaction_text(amount="Infinity"),
        "a surrogate": transaction_text(merchant='"\\ud800"'),
        "a NUL": transaction_text(merchant='"\\u0000"'),
        "a depth of 100,000": transaction_text(more='{"a":' * 100_000 + "1" + "}" * 100_000),
        "10,000 fields": transaction_text(**{f"f{number}": "1" for number in range(10_000)}),
        "a leap second": transaction_text(timestamp='"2026-12-31T23:59:60"'),
        "a time before the first": transaction_text(timestamp='"0001-01-01T00:00:00+14:00"'),
        "a time after the last": transaction_text(timestamp='"9999-12-31T23:59:59-14:00"'),
        "a list": b"[]",
        "a text": b'"id"',
        "a byte order mark": b"\xef\xbb\xbf" + transaction_text(),
    }
    values = [value for each in hostile.values() for value in (each, transaction_text())]
    messages = [
        message(value=value, offset=number, key=b"\xff" * 50_000, headers=[("h", None)] * 100)
        for number, value in enumerate(values)
    ]
    outcome = run(GivenSource(messages), model_api)
    assert outcome.places() == Counter((0, offset) for offset in range(len(messages)))
    names = list(hostile)
    refused = {names[offset // 2] for offset in outcome.reasons()}
    assert refused >= set(names) - {"10,000 fields"}
    assert all(offset % 2 == 0 for offset in outcome.reasons())
    assert all(len(failure.error) < 2_000 for failure in outcome.failed)


def test_a_transaction_that_the_model_refuses_is_a_failure(model_api: ModelApi) -> None:
    """Alone: the others of its batch are stored."""
    values = [
        json.dumps(transaction_json(id=n, description="poison" if n == 33 else "plain")).encode()
        for n in range(100)
    ]
    model_api.control(name="poison", code=422)
    outcome = run(TestingSource(spread(values, partitions=1), batch_size=100), model_api)
    assert len(outcome.stored) == 99
    assert outcome.reasons() == {33: "model.status_422"}
    [failure] = outcome.failed
    assert (failure.stage, failure.disposition) == ("score", "rejected")
