"""The stream as it runs for real, while the model's API is sick."""

import json
from pathlib import Path
from signal import SIGTERM

from lab.sample import transactions
from lab.servers import KafkaServer, ModelApi, wait_until
from tests.kit.accounts import account
from tests.kit.environment import environment
from tests.kit.feed import LONG
from tests.kit.flow import Flow
from tests.kit.kafka import Topics, produce, read_all
from tests.kit.recovery import make_recovery, recovery_options

MESSAGES = 2_000


def _values(count: int = MESSAGES) -> list[bytes]:
    return [sample.value for sample in transactions(count, seed=3, broken=0, repeated=0)]


def test_in_an_outage_the_stream_pauses_and_ends_in_good_order(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """While the model is down reading stops, SIGTERM ends with 0, and later all is stored."""
    variables = environment(
        broker, topics, database_url=database_url, model_url=model_api.url, LOG_FORMAT="json",
        BATCH_SIZE="10", SCORING_CONCURRENCY="2", IN_HAND_MESSAGES="200",
        STOP_TIMEOUT="60",  # nothing waits for a model that is down
    )  # fmt: skip
    options = recovery_options(make_recovery(tmp_path))
    with Flow(tmp_path, variables, options) as flow:
        flow.wait_for("source.start")
        model_api.control(name="outage")
        sent = produce(broker, topics.transactions, _values())
        flow.wait_for("breaker.open")
        # With nothing done no offset moves, and what is in hand is full.
        wait_until(lambda: '"messages": 200' in flow.output(), LONG, what="a full hand")
        flow.signal(SIGTERM)
        assert flow.wait(LONG) == 0
        last = json.loads(flow.lines()[-1])
    assert last["event"] == "end"
    assert last["messages"] == 200
    assert read_all(broker, topics.failed) == []
    model_api.reset()
    with Flow(tmp_path / "again", variables, options) as flow:
        wait_until(
            lambda: len(account(broker, topics, database_url).stored) == MESSAGES,
            LONG,
        )
        flow.signal(SIGTERM)
        assert flow.wait(LONG) == 0
    account(broker, topics, database_url).expect_each_once(sent)


def test_an_outage_that_ends_leaves_nothing_behind(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """A stream that met an outage goes on by itself, and gives nothing up."""
    variables = environment(broker, topics, database_url=database_url, model_url=model_api.url)
    with Flow(tmp_path, variables, recovery_options(make_recovery(tmp_path))) as flow:
        first = produce(broker, topics.transactions, _values(200))
        wait_until(lambda: len(account(broker, topics, database_url).stored) == 200, LONG)
        model_api.control(name="refuse")
        rest = produce(broker, topics.transactions, _values()[200:])
        flow.wait_for("breaker.open")
        model_api.reset()
        flow.wait_for("breaker.closed")
        wait_until(
            lambda: len(account(broker, topics, database_url).stored) == MESSAGES,
            LONG,
        )
    found = account(broker, topics, database_url)
    found.expect_each_once([*first, *rest])
    assert not found.failed


def test_a_refused_token_ends_the_stream_and_loses_nothing(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """A 401 in the middle ends the stream with the setting's name; a restart finishes the rest."""
    produce(broker, topics.transactions, _values())
    variables = environment(broker, topics, database_url=database_url, model_url=model_api.url)
    options = recovery_options(make_recovery(tmp_path))
    with Flow(tmp_path, variables, options) as flow:
        wait_until(lambda: bool(account(broker, topics, database_url).stored), LONG)
        model_api.control(name="status", code=401)
        produce(broker, topics.transactions, sent_again := _values(10))
        assert flow.wait(LONG) != 0
        assert "ML_API_TOKEN" in flow.output()
    model_api.reset()
    with Flow(tmp_path / "again", variables, options):
        wait_until(
            lambda: (
                len(account(broker, topics, database_url).stored) == MESSAGES
                and len(account(broker, topics, database_url).duplicates) == len(sent_again)
            ),
            LONG,
        )
    assert read_all(broker, topics.failed) == []


def test_a_stream_that_may_gives_up_what_an_outage_hits(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """With SCORING_ON_OUTAGE=dead_letter every transaction of an outage is in the error topic."""
    variables = environment(
        broker, topics, database_url=database_url, model_url=model_api.url,
        SCORING_ON_OUTAGE="dead_letter", MAX_RETRIES="0",
    )  # fmt: skip
    with Flow(tmp_path, variables, recovery_options(make_recovery(tmp_path))) as flow:
        flow.wait_for("source.start")
        model_api.control(name="outage")
        sent = produce(broker, topics.transactions, _values(300))
        records = read_all(broker, topics.failed, at_least=300, limit=LONG)
    assert {dict(r.headers() or [])["dlq.disposition"] for r in records} == {b"exhausted"}
    account(broker, topics, database_url).expect_each_once(sent)
