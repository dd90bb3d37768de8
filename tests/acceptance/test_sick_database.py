"""The stream as it runs for real, while the tables take no rows."""

from pathlib import Path
from signal import SIGTERM

import httpx

from lab.sample import transactions
from lab.servers import KafkaServer, ModelApi, free_port, wait_until
from tests.kit.accounts import account
from tests.kit.environment import environment
from tests.kit.feed import LONG
from tests.kit.flow import Flow
from tests.kit.kafka import Topics, produce, read_all
from tests.kit.postgres import query
from tests.kit.recovery import make_recovery, recovery_options


def _values(count: int, seed: int) -> list[bytes]:
    return [each.value for each in transactions(count, seed=seed, broken=0, repeated=0)]


def test_a_table_that_takes_no_row_makes_no_dead_letter(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> None:
    """A column without default is added while it runs: it waits, says so, and goes on by itself."""
    port = free_port()
    variables = environment(
        broker, topics, database_url=database_url, model_url=model_api.url, HTTP_PORT=str(port)
    )
    with Flow(tmp_path, variables, recovery_options(make_recovery(tmp_path))) as flow:
        sent = produce(broker, topics.transactions, _values(200, seed=1))
        wait_until(lambda: len(account(broker, topics, database_url).stored) == 200, LONG)
        query(
            database_url,
            "ALTER TABLE transactions ADD tenant text NOT NULL DEFAULT 'x';"
            "ALTER TABLE transactions ALTER tenant DROP DEFAULT",
        )
        sent += produce(broker, topics.transactions, _values(2_000, seed=2))
        flow.wait_for("reason='NotNullViolation 23502 transactions tenant: ", LONG)
        found = httpx.get(f"http://127.0.0.1:{port}/health/ready", trust_env=False).json()
        assert found["status"] == "degraded"
        assert "transactions tenant" in found["parts"]["database"]["reason"]
        query(database_url, "ALTER TABLE transactions ALTER tenant SET DEFAULT 'x'")
        wait_until(lambda: len(account(broker, topics, database_url).stored) == 2_200, LONG)
        flow.signal(SIGTERM)
        assert flow.wait(LONG) == 0
    assert read_all(broker, topics.failed) == []
    account(broker, topics, database_url).expect_each_once(sent)
