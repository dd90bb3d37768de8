"""`python -m bytewax.run dataflow`, killed and started again."""

from signal import SIGKILL, SIGTERM

from tests.kit.feed import END, SLOWLY, Feed, stop
from tests.kit.flow import cluster


def test_a_kill_loses_nothing(feed: Feed, recovery: list[str]) -> None:
    """Kill -9 midway, twice: rows and dead letters are there once."""
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
