"""`python -m bytewax.run dataflow` as it is run in production: what it does and what it tells."""

from signal import SIGKILL

import pytest

from lab.servers import wait_until
from tests.kit.accounts import account
from tests.kit.feed import END, LONG, MESSAGES, SLOWLY, TOKEN, Feed, json_lines, stop
from tests.kit.kafka import committed


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_message_ends_in_its_one_place(feed: Feed, recovery: list[str], workers: str) -> None:
    """By kind and by position; the totals at the end say the same; no secret is told."""
    feed.send()
    with feed.flow(*recovery, "-w", workers, LOG_FORMAT="json") as flow:
        feed.wait_until_done()
        stop(flow)
        lines = list(json_lines(flow))
        output = flow.output()
    feed.expect_all()
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
    slowly = {"BATCH_SIZE": "5", "SCORING_CONCURRENCY": "2", "IN_HAND_MESSAGES": "200"}
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


def test_it_goes_on_reading_what_comes_later(feed: Feed, recovery: list[str]) -> None:
    """A stream has no end: after a pause new messages are done as the first ones were."""
    with feed.flow(*recovery) as flow:
        for seed in (1, 2, 3):
            feed.send(50, seed=seed)
            feed.wait_until_done()
        stop(flow)
    feed.expect_all()


def test_the_group_alone_is_enough_to_resume(feed: Feed) -> None:
    """Without a recovery directory: the next run starts at the group's offsets, none is lost."""
    feed.send()
    with feed.flow("-s", "1", **SLOWLY) as flow:
        wait_until(lambda: feed.committed() > 0, LONG, what="a commit")
        assert feed.committed() < MESSAGES / 2
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
    """At a kill under load no committed position is without its row or its dead letter.

    Commits do not wait for epochs: `done` is what is committed.
    """
    feed.send()
    with feed.flow(*recovery, "-s", "60", **SLOWLY) as flow:
        wait_until(lambda: feed.committed() > 100, LONG, what="a commit")
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
