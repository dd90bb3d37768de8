"""Signals to `python -m bytewax.run dataflow`: a graceful end, whatever is going on."""

from datetime import timedelta
from signal import SIGINT, SIGTERM, Signals

import pytest

from lab.servers import ModelApi, Postgres, wait_until
from tests.kit.feed import END, LONG, MESSAGES, SLOWLY, Feed, stop
from tests.kit.flow import cluster


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
    feed.expect_all()


def test_a_signal_while_the_model_hangs_ends_in_good_order(
    feed: Feed, recovery: list[str], model_api: ModelApi
) -> None:
    """What is in flight is left to the next run."""
    with feed.flow(*recovery) as flow:
        flow.wait_for("source.start")
        model_api.control(name="hang")
        feed.send(500)
        wait_until(lambda: model_api.state()["in_flight"] > 0, LONG, what="a request")
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
        wait_until(lambda: model_api.state()["in_flight"] > 0, LONG, what="a request")
        flow.signal(SIGTERM)
        flow.wait_for("signal=SIGTERM")
        flow.signal(SIGTERM)
        assert flow.wait(timedelta(seconds=30)) == -SIGTERM
    model_api.reset()
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    feed.expect_all()


def test_a_signal_before_the_start_ends_at_once(
    feed: Feed, recovery: list[str], model_api: ModelApi
) -> None:
    """While the checks wait for what does not answer, nothing has begun that had to be ended."""
    model_api.control(name="hang")
    with feed.flow(*recovery, START_TIMEOUT="60") as flow:
        wait_until(lambda: model_api.state()["in_flight"] > 0, LONG, what="the check of the model")
        stop(flow)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_broker_that_is_away_does_not_hold_an_end_up(
    feed: Feed, recovery: list[str], model_api: ModelApi, how: str
) -> None:
    """What is done meanwhile cannot be committed, and the last commit gets no answer either."""
    with feed.flow(*recovery) as flow:
        flow.wait_for("source.start")
        model_api.control(name="hang")
        feed.send(50)
        wait_until(lambda: model_api.state()["in_flight"] > 0, LONG, what="a request")
        feed.broker.kill() if how == "killed" else feed.broker.pause()
        model_api.reset()
        wait_until(lambda: feed.rows() > 0, LONG, what="a row")
        flow.signal(SIGTERM)
        assert flow.wait(END) == 0, flow.output()
        assert "source.commit_failed" in flow.output() or "source.no_answer" in flow.output()
        assert "Traceback" not in flow.output()
    feed.broker.kill()  # a frozen one would need a while to be itself again


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_database_that_is_away_does_not_hold_an_end_up(
    feed: Feed, recovery: list[str], postgres: Postgres, how: str
) -> None:
    """What is in hand is left to the next run."""
    feed.send()
    with feed.flow(*recovery, **SLOWLY) as flow:
        feed.wait_midway()
        postgres.kill() if how == "killed" else postgres.pause()
        stop(flow)
        assert "score.interrupted" in flow.output()
    postgres.recover()
    with feed.flow(*recovery) as flow:
        feed.wait_until_done()
        stop(flow)
    feed.expect_all()


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
