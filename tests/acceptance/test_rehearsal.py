"""The StatefulSet's pods as processes on this machine, shorter than `make k8s-rehearsal`."""

import sys
from pathlib import Path

import pytest

from ops.servers import KafkaServer, ModelApi, Postgres
from tests.rehearsal.rehearsal import Rehearsal


@pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 and 127.0.0.3 are Linux' alone")
@pytest.mark.timeout(240)
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
