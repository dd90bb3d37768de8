"""`python -m ops.recovery` and `python -m ops.hostfile`, which prepare a pod."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ops.hostfile import addresses
from tests.kit.checkout import CHECKOUT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m …` to its end."""
    return subprocess.run(  # noqa: S603 - a test's own
        [sys.executable, "-m", *map(str, arguments)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_three_at_once_make_the_partitions_once(tmp_path: Path) -> None:
    """As all pods of a cluster do on their one volume."""
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: run("ops.recovery", tmp_path), range(3)))
    assert [each.returncode for each in done] == [0, 0, 0]
    assert sorted(each.stdout for each in done) == [
        "made 4 recovery partitions\n",
        "recovery partitions are there\n",
        "recovery partitions are there\n",
    ]
    assert len(list((tmp_path / "partitions").glob("part-*.sqlite3"))) == 4


def test_partitions_that_are_there_are_left_alone(tmp_path: Path) -> None:
    """Whatever is in them."""
    (tmp_path / "partitions").mkdir()
    (tmp_path / "partitions" / "part-0.sqlite3").write_text("snapshots")
    assert run("ops.recovery", tmp_path).returncode == 0
    assert [path.name for path in (tmp_path / "partitions").iterdir()] == ["part-0.sqlite3"]


def test_half_made_partitions_are_made_anew(tmp_path: Path) -> None:
    """What a kill left behind is not taken for the whole."""
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "part-0.sqlite3").write_text("half")
    assert run("ops.recovery", tmp_path).returncode == 0
    assert len(list((tmp_path / "partitions").glob("part-*.sqlite3"))) == 4
    assert not (tmp_path / "unfinished").exists()


def test_a_hostfile_names_every_pod_in_order(tmp_path: Path) -> None:
    """Bytewax takes the number of a line as the number of the process."""
    file = tmp_path / "hosts"
    assert run("ops.hostfile", file, "fraud", "3").returncode == 0
    assert file.read_text() == "fraud-0.fraud:9999\nfraud-1.fraud:9999\nfraud-2.fraud:9999\n"
    assert file.read_text().splitlines() == addresses("fraud", 3)


def test_a_hostfile_for_no_process_is_refused(tmp_path: Path) -> None:
    """As is a number that is none: the replicas were not copied, see k8s/."""
    for number in ("0", "", "$(PROCESSES)"):
        assert run("ops.hostfile", tmp_path / "hosts", "fraud", number).returncode != 0
    assert not (tmp_path / "hosts").exists()


def test_the_scripts_of_the_helm_chart_know_its_recovery_directory(tmp_path: Path) -> None:
    """One makes the partitions, the other runs the stream on them; and says if there are none."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)

    def said(script: str, **variables: str) -> str:
        command = ["sh", "-c", f"sh ./{script}"]  # as the chart does
        done = subprocess.run(  # noqa: S603 - a test's own
            command,
            cwd=CHECKOUT / "k8s" / "helm",
            env={"PATH": f"{tmp_path}:{os.defpath}", **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    volume = {"BYTEWAX_RECOVERY_DIRECTORY": "/var/recovery"}
    assert said("entrypoint-recovery.sh", **volume) == "-m ops.recovery /var/recovery\n"
    stream = "-m ops.supervise python -m bytewax.run dataflow -r /var/recovery/partitions\n"
    assert said("entrypoint.sh", **volume) == stream
    assert "set configuration.recovery.enabled" in said("entrypoint.sh")
