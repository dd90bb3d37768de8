"""The StatefulSet's pods as processes on this machine, shorter than `make k8s-rehearsal`."""

import sys
from datetime import timedelta
from pathlib import Path

import pytest

from lab.servers import KafkaServer, ModelApi, Postgres, wait_until
from tests.rehearsal.rehearsal import Rehearsal

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 and 127.0.0.3 are Linux' alone"),
    pytest.mark.timeout(400),
]


def test_three_pods_survive_a_killed_process_and_a_deleted_pod(
    tmp_path: Path, broker: KafkaServer, postgres: Postgres, model_api: ModelApi
) -> None:
    """All work again each time, none is started again as a whole, and nothing is lost."""
    rehearsal = Rehearsal(tmp_path, broker=broker, postgres=postgres, model=model_api)
    rehearsal.migrate()
    with rehearsal.pods() as pods:
        assert len(pods) == 3
        rehearsal.kill_process(pods[1], pods)
        rehearsal.delete(pods[2], pods)
        rehearsal.wait_until_done(pods)
        rehearsal.end(pods)
    code, report = rehearsal.audit()
    assert code == 0, report


def test_a_cluster_that_does_not_come_together_fails_its_liveness_probe(
    tmp_path: Path, broker: KafkaServer, postgres: Postgres, model_api: ModelApi
) -> None:
    """After `LIVE_TIMEOUT`, so that the kubelet ends it; until then it waits, alive and not ready.

    A process that waits for the others does not hear SIGTERM: the manifests give it 10 seconds.
    """
    rehearsal = Rehearsal(
        tmp_path,
        broker=broker,
        postgres=postgres,
        model=model_api,
        settings={"LIVE_TIMEOUT": "6"},
    )
    rehearsal.migrate()
    with rehearsal.pods(missing=1) as pods:
        first = pods[0].stream
        wait_until(lambda: first.probe("startup"), timedelta(seconds=30), what="its first answer")
        assert not first.probe("readiness")
        wait_until(lambda: not first.probe("liveness"), timedelta(seconds=30), what="the limit")
        assert first.running
        assert not first.probe("readiness")
