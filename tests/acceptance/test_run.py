"""`python -m bytewax.run dataflow` as it is run in production: killed, stopped, started again."""

import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, Signals
from typing import Any

import httpx
import pytest
from confluent_kafka import Message

from lab.sample import DUPLICATE, STORED, Sample, transactions
from lab.servers import KafkaServer, ModelApi, free_port
from operators.engine.routing import lane_of
from tests.support import (
    Account,
    Flow,
    Outgoing,
    Topics,
    account,
    cluster,
    committed,
    environment,
    leave_state,
    make_recovery,
    produce,
    query,
    read_all,
    recovery_options,
    wait_until,
)
from tests.wall_clock import WallClock

SEED = 20261123
MESSAGES = 3_000
END = timedelta(seconds=10)
"""What the end after a signal may take."""

ASTRAY = timedelta(minutes=4, seconds=30)
"""By which a clock is moved: the stream allows five minutes."""

TOKEN = "t0ken-that-nobody-may-see"  # noqa: S105 - of a stand-in that wants none
SLOWLY = {"BATCH_SIZE": "10", "SCORING_CONCURRENCY": "2"}
"""So that a run can be interrupted midway: less than 1,000 messages a second."""


class Feed:
    """Sample messages in the topic, what should become of them, and what did."""

    def __init__(
        self, broker: KafkaServer, topics: Topics, variables: dict[str, str], folder: Path
    ) -> None:
        self.broker, self.topics, self.variables = broker, topics, variables
        self.folder = folder
        self.url = variables["DATABASE_URL"]
        self.samples: list[Sample] = []
        self.sent: list[Message] = []

    def send(self, count: int = MESSAGES, *, seed: int = SEED) -> None:
        """Produce so many messages."""
        print("seed", seed)  # noqa: T201 - to repeat it
        samples = list(transactions(count, seed=seed, broken=0.03, repeated=0.02))
        self.sent += produce(
            self.broker,
            self.topics.transactions,
            [
                Outgoing(sample.value, sample.key, partition=number % 4)
                for number, sample in enumerate(samples)
            ],
        )
        self.samples += samples

    def flow(self, *arguments: str, **variables: str) -> Flow:
        """The stream, not yet started."""
        return Flow(self.folder / "flow", {**self.variables, **variables}, arguments)

    def rows(self) -> int:
        """How many messages have left a row so far."""
        [(count,)] = query(
            self.url,
            "SELECT (SELECT count(*) FROM transactions) + (SELECT count(*) FROM duplicates)",
        )
        return int(count)

    @property
    def expected(self) -> Counter[str]:
        """How many are to be stored, to be duplicates, to fail."""
        known = {STORED: "stored", DUPLICATE: "duplicates"}
        return Counter(known.get(sample.expected, "failed") for sample in self.samples)

    def wait_midway(self, rows: int = 200) -> None:
        """Wait until some are done; most are not."""
        wait_until(lambda: self.rows() >= rows, what=f"{rows} rows")
        assert self.rows() < len(self.sent) / 2, "too fast to be interrupted midway"

    def wait_until_done(self) -> None:
        """Wait until every message has left its trace."""
        rows = self.expected["stored"] + self.expected["duplicates"]
        wait_until(lambda: self.rows() >= rows, timedelta(seconds=30), what=f"{rows} rows")
        read_all(self.broker, self.topics.failed, at_least=self.expected["failed"])

    def expect_all(self) -> Account:
        """See that every message is in its one place."""
        found = account(self.broker, self.topics, self.url)
        found.expect_each_once(self.sent)
        assert len(found.stored) == self.expected["stored"]
        assert len(found.duplicates) == self.expected["duplicates"]
        assert len(found.failed) == self.expected["failed"]
        [(orphans,)] = query(
            self.url,
            "SELECT count(*) FROM transactions FULL JOIN predictions ON transaction_id = id "
            "WHERE id IS NULL OR transaction_id IS NULL",
        )
        assert orphans == 0
        return found


@pytest.fixture
def feed(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi, tmp_path: Path
) -> Feed:
    """A topic to be filled, and all else that the stream needs."""
    more = {"ML_API_TOKEN": TOKEN, "STOP_TIMEOUT": "4"}
    given = {"database_url": database_url, "model_url": model_api.url}
    return Feed(broker, topics, environment(broker, topics, **given, **more), tmp_path)


@pytest.fixture
def recovery(tmp_path: Path) -> list[str]:
    """Arguments for a recovery directory of the test's own."""
    return recovery_options(make_recovery(tmp_path))


def stop(flow: Flow, number: Signals = SIGTERM) -> None:
    """Send a signal and see that the end is in good order."""
    flow.signal(number)
    assert flow.wait(END) == 0, flow.output()
    assert "Traceback" not in flow.output()
    assert "panicked" not in flow.output()


def json_lines(flow: Flow) -> Iterator[dict[str, object]]:
    """The output, of which every line has to be an object."""
    for line in flow.lines():
        found = json.loads(line)
        assert isinstance(found, dict)
        yield found


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_message_ends_in_its_one_place(feed: Feed, recovery: list[str], workers: str) -> None:
    """By kind and by position; the totals at the end say the same; no secret is told."""
    feed.send()
    with feed.flow(*recovery, "-w", workers, LOG_FORMAT="json") as flow:
        feed.wait_until_done()
        stop(flow)
        lines = list(json_lines(flow))
        output = flow.output()
    found = feed.expect_all()
    assert max(found.failed.values()) == 1
    [last] = [line for line in lines if line["event"] == "end"]
    assert last is lines[-1]
    told = {name: last[name] for name in ("messages", "stored", "duplicates", "failed", "lag")}
    assert told == {"messages": MESSAGES, "lag": 0, **feed.expected}
    password = feed.url.split("@")[0].split(":")[-1]
    assert password not in output
    assert TOKEN not in output


def test_progress_is_told_while_it_runs(feed: Feed, recovery: list[str]) -> None:
    """Messages so far and what is still to be read, at most once a second."""
    feed.send(1_000)
    slowly = {"BATCH_SIZE": "5", "SCORING_CONCURRENCY": "2"}
    with feed.flow(*recovery, LOG_FORMAT="json", **slowly) as flow:
        feed.wait_until_done()
        stop(flow)
        lines = [line for line in json_lines(flow) if line["event"] == "progress"]
    assert lines
    messages = [int(str(line["messages"])) for line in lines]
    assert messages == sorted(set(messages))
    assert 100 <= messages[0] <= messages[-1] <= 1_000
    assert all(float(str(line["rate"])) > 0 for line in lines)
    assert int(str(lines[0]["lag"])) > 0


def test_a_kill_loses_nothing(feed: Feed, recovery: list[str]) -> None:
    """Kill -9 midway, twice: rows are there once, dead letters at least once."""
    feed.send()
    flow = feed.flow(*recovery, **SLOWLY)
    with flow:
        for rows in (200, 700):
            feed.wait_midway(rows)
            flow.signal(SIGKILL)
            assert flow.wait(END) == -SIGKILL
            flow.start()
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    feed.expect_all()


def test_what_a_stale_state_and_the_topic_both_hold_ends_in_one_place(
    feed: Feed, recovery: list[str]
) -> None:
    """A killed run can leave work in hand in an epoch that did not count; it is read again too."""
    with feed.flow(*recovery) as flow:
        flow.wait_for("source.start")
        stop(flow)
    feed.send(500)
    held: list[Any] = [
        (sent.key(), sent.value(), [], sent.topic(), sent.partition(), sent.offset(), -1)
        for sent in feed.sent
    ]
    lane = lane_of(2, 3)  # of a worker that is not there any more
    state = {"version": 1, "lane": lane, "taken": 0, "messages": held}
    leave_state(next(Path(recovery[1]).glob("part-*.sqlite3")), lane, 1, pickle.dumps(state))
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    assert max(feed.expect_all().failed.values()) == 1


@pytest.mark.parametrize("number", [SIGTERM, SIGINT])
def test_a_signal_under_load_ends_in_good_order(
    feed: Feed, recovery: list[str], number: Signals
) -> None:
    """Exit code 0 in time, no traceback; the next run does the rest and repeats no dead letter."""
    feed.send()
    with feed.flow(*recovery, **SLOWLY) as flow:
        feed.wait_midway()
        stop(flow, number)
    assert feed.rows() < MESSAGES / 2
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    assert max(feed.expect_all().failed.values()) == 1


def test_a_signal_while_the_model_hangs_ends_in_good_order(
    feed: Feed, recovery: list[str], model_api: ModelApi
) -> None:
    """What is in flight is left to the next run."""
    with feed.flow(*recovery) as flow:
        flow.wait_for("source.start")
        model_api.control(name="hang")
        feed.send(500)
        wait_until(lambda: model_api.state()["in_flight"] > 0, what="a request")
        stop(flow)
        assert "score.interrupted" in flow.output()
    assert feed.rows() == 0
    model_api.reset()
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    feed.expect_all()


def test_a_second_signal_ends_at_once(feed: Feed, recovery: list[str], model_api: ModelApi) -> None:
    """Whoever sends it does not want to wait; nothing is lost by it."""
    with feed.flow(*recovery, STOP_TIMEOUT="120") as flow:
        flow.wait_for("source.start")
        model_api.control(name="hang")
        feed.send(500)
        wait_until(lambda: model_api.state()["in_flight"] > 0, what="a request")
        flow.signal(SIGTERM)
        flow.wait_for("signal=SIGTERM")
        flow.signal(SIGTERM)
        assert flow.wait(timedelta(seconds=3)) == -SIGTERM
    model_api.reset()
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    feed.expect_all()


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    """The wall clock of a flow."""
    if reason := WallClock.missing():
        pytest.skip(reason)
    return WallClock(tmp_path)


def test_a_clock_that_is_set_forward_changes_nothing(
    feed: Feed, recovery: list[str], clock: WallClock
) -> None:
    """It goes on, ends in good order, and the next run repeats nothing on the old time."""
    feed.send()
    with feed.flow(*recovery, **SLOWLY, **clock.variables) as flow:
        feed.wait_midway()
        clock.move(ASTRAY)
        feed.wait_midway(700)
        stop(flow)
        last = datetime.fromisoformat(flow.lines()[-1].split()[0])
        assert last > datetime.now(UTC) + ASTRAY / 2, "it was not moved"
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    assert max(feed.expect_all().failed.values()) == 1


def test_a_clock_that_is_set_back_ends_the_run(
    feed: Feed, recovery: list[str], clock: WallClock
) -> None:
    """At once and with the reason, since nothing would go on; the next run does the rest."""
    feed.send()
    with feed.flow(*recovery, **SLOWLY, **clock.variables) as flow:
        feed.wait_midway()
        clock.move(-ASTRAY)
        assert flow.wait(END) == 1
        told = re.search(r"clock\.set_back seconds=(\S+)", flow.output())
        assert told is not None
        assert float(told[1]) == pytest.approx(ASTRAY.total_seconds(), abs=2)
    with feed.flow(*recovery, **clock.variables) as flow:
        feed.wait_until_done()
        stop(flow)
    assert max(feed.expect_all().failed.values()) == 1


def test_dead_letters_that_are_older_than_the_position_are_known(
    feed: Feed, recovery: list[str], clock: WallClock
) -> None:
    """By their time, since they were written on a clock that had been set back after it."""
    with feed.flow(*recovery) as flow:
        wait_until(lambda: flow.output().count("source.start") == 4, what="all partitions")
        stop(flow)
    feed.send()
    clock.move(-ASTRAY)
    one_epoch = [*recovery, "-s", "60"]  # which takes no position before it is killed
    with feed.flow(*one_epoch, **clock.variables) as flow:
        feed.wait_until_done()
        flow.signal(SIGKILL)
        flow.wait(END)
    with feed.flow(*recovery) as flow:
        wait_until(
            lambda: sum(committed(feed.broker, feed.topics).values()) == MESSAGES,
            timedelta(seconds=20),
            what="all read again",
        )
        stop(flow)
    assert max(feed.expect_all().failed.values()) == 1


def test_a_signal_before_the_start_ends_at_once(
    feed: Feed, recovery: list[str], model_api: ModelApi
) -> None:
    """While the checks wait for what does not answer, nothing has begun that had to be ended."""
    model_api.control(name="hang")
    with feed.flow(*recovery, START_TIMEOUT="60") as flow:
        wait_until(lambda: model_api.state()["in_flight"] > 0, what="the check of the model")
        stop(flow)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_broker_that_is_away_does_not_hold_an_end_up(
    feed: Feed, recovery: list[str], how: str
) -> None:
    """Commits are under way that nobody answers, and the last one gets no answer either."""
    port = free_port()

    def epochs() -> float:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        found = re.search(r"^fraud_epoch_duration_seconds_count (.+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0

    with feed.flow(*recovery, HTTP_PORT=str(port)) as flow:
        flow.wait_for("source.start")
        wait_until(lambda: epochs() >= 12)  # of four partitions
        feed.broker.kill() if how == "killed" else feed.broker.pause()
        since = epochs()
        wait_until(lambda: epochs() >= since + 8)  # each commits with it
        flow.signal(SIGTERM)
        assert flow.wait(END) == 0
        assert "source.commit_failed" in flow.output()
    feed.broker.kill()  # a frozen one would need a while to be itself again


def test_a_cluster_of_processes_ends_in_good_order(feed: Feed, recovery: list[str]) -> None:
    """SIGTERM to both under load: 0 from each; another two do the rest."""
    feed.send()
    with cluster(feed.folder / "a", feed.variables | SLOWLY, recovery, processes=2) as flows:
        feed.wait_midway()
        for flow in flows:
            flow.signal(SIGTERM)
        assert [flow.wait(END) for flow in flows] == [0, 0]
        assert not any("Traceback" in flow.output() for flow in flows)
    with cluster(feed.folder / "b", feed.variables, recovery, processes=2) as flows:
        feed.wait_until_done()
        for flow in flows:
            flow.signal(SIGTERM)
        assert [flow.wait(END) for flow in flows] == [0, 0]
        shares = [flow.output().count("source.start") for flow in flows]
    assert shares == [2, 2]
    feed.expect_all()


def test_a_process_of_a_cluster_that_is_killed_loses_nothing(
    feed: Feed, recovery: list[str]
) -> None:
    """The other ends by itself; both are started again."""
    feed.send()
    with cluster(feed.folder / "a", feed.variables | SLOWLY, recovery, processes=2) as flows:
        feed.wait_midway()
        flows[1].signal(SIGKILL)
        assert flows[0].wait(END) != 0
    with cluster(feed.folder / "b", feed.variables, recovery, processes=2) as flows:
        feed.wait_until_done()
        for flow in flows:
            flow.signal(SIGTERM)
        assert [flow.wait(END) for flow in flows] == [0, 0]
    feed.expect_all()


def test_the_group_alone_is_enough_to_resume(feed: Feed) -> None:
    """Without a recovery directory: the next run starts at the group's offsets, none is lost."""
    feed.send()
    with feed.flow("-s", "1", **SLOWLY) as flow:
        wait_until(
            lambda: sum(committed(feed.broker, feed.topics).values()) > 0,
            timedelta(seconds=20),
            what="a commit",
        )
        assert sum(committed(feed.broker, feed.topics).values()) < MESSAGES / 2
        stop(flow)
    offsets = committed(feed.broker, feed.topics)
    with feed.flow("-s", "1", LOG_FORMAT="json") as flow:
        feed.wait_until_done()
        stop(flow)
        starts = [line for line in json_lines(flow) if line["event"] == "source.start"]
    assert {line["partition"]: line["offset"] for line in starts} == {
        part: offsets.get(part, 0) for part in range(4)
    }
    feed.expect_all()


def test_what_is_committed_to_the_group_is_durable(feed: Feed, recovery: list[str]) -> None:
    """At a kill under load no committed position is without its row or its dead letter."""
    feed.send()
    with feed.flow(*recovery, **SLOWLY) as flow:
        wait_until(
            lambda: sum(committed(feed.broker, feed.topics).values()) > 100,
            timedelta(seconds=20),
            what="a commit",
        )
        flow.signal(SIGKILL)
        flow.wait(END)
    done = account(feed.broker, feed.topics, feed.url)
    durable = done.stored | done.duplicates | set(done.failed)
    below = {
        (partition, position)
        for partition, offset in committed(feed.broker, feed.topics).items()
        for position in range(offset)
    }
    assert len(below) > 100
    assert below <= durable


def test_it_goes_on_reading_what_comes_later(feed: Feed, recovery: list[str]) -> None:
    """A stream has no end: after a pause new messages are done as the first ones were."""
    with feed.flow(*recovery) as flow:
        for seed in (1, 2, 3):
            feed.send(50, seed=seed)
            feed.wait_until_done()
        stop(flow)
    feed.expect_all()
