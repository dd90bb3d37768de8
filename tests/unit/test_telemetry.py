"""What is logged, and how often, on a clock that the tests move."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from telemetry import TRACE_ID, Progress, log, log_to_stderr

Tick = Callable[[float], None]
LABELS: dict[str, dict[str, str | int]] = {
    "messages": {"partition": 0},
    "failed": {"stage": "decode", "disposition": "poison"},
}


def _read(progress: Progress, number: int) -> None:
    progress.count("messages", number, **LABELS["messages"])


@pytest.fixture(autouse=True)
def _own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logging is the process's; other tests get it back as it was."""
    monkeypatch.setattr("telemetry.worker._workers", {})  # a flow may have run on this thread
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("fraud").level
    yield
    root.handlers[:], root.level = before[:2]
    logging.getLogger("fraud").setLevel(before[2])
    structlog.reset_defaults()
    vars(log).pop("bind", None)  # where structlog caches what was configured


@pytest.fixture
def tick(monkeypatch: pytest.MonkeyPatch) -> Tick:
    """Move the clock on by seconds."""
    now = [1_000.0]
    monkeypatch.setattr("telemetry.progress.time", SimpleNamespace(monotonic=lambda: now[0]))

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged as JSON since the last call."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_comes_with_100_messages(tick: Tick, capsys: pytest.CaptureFixture[str]) -> None:
    """Below that there is none, however much time passes."""
    log_to_stderr("json", "INFO")
    progress = Progress()

    _read(progress, 99)
    tick(1_000)
    progress.report()
    assert _lines(capsys) == []

    _read(progress, 1)
    progress.report()
    assert len(_lines(capsys)) == 1


def test_a_line_comes_once_a_second_at_most(tick: Tick, capsys: pytest.CaptureFixture[str]) -> None:
    """However many messages pass; those of before count towards the next line."""
    log_to_stderr("json", "INFO")
    progress = Progress()
    _read(progress, 10_000)

    tick(0.9)
    progress.report()
    assert _lines(capsys) == []

    tick(0.1)
    progress.report()
    assert len(_lines(capsys)) == 1

    _read(progress, 10_000)
    tick(0.9)
    progress.report()
    assert _lines(capsys) == []

    tick(0.1)
    progress.report()
    assert len(_lines(capsys)) == 1


def test_every_line_needs_100_more_messages(tick: Tick, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted from the line before, not from the start."""
    log_to_stderr("json", "INFO")
    progress = Progress()
    _read(progress, 199)
    tick(1)
    progress.report()
    assert len(_lines(capsys)) == 1

    _read(progress, 99)
    tick(10)
    progress.report()
    assert _lines(capsys) == []

    _read(progress, 1)
    progress.report()
    assert len(_lines(capsys)) == 1


def test_a_line_holds_totals_and_the_rate_since_the_last(
    tick: Tick, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under names that dashboards and scripts rely on."""
    log_to_stderr("json", "INFO")
    progress = Progress()
    _read(progress, 1_000)
    tick(2)
    progress.report()
    _lines(capsys)
    _read(progress, 250)
    progress.count("stored", 1_100)
    progress.count("duplicates", 20)
    progress.count("failed", 30, **LABELS["failed"])
    progress.lag(0, 7)
    progress.lag(1, 5)
    tick(2)

    progress.report()

    [line] = _lines(capsys)
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() == timedelta(0)
    assert line == {
        "event": "progress",
        "level": "info",
        "messages": 1_250,
        "stored": 1_100,
        "duplicates": 20,
        "failed": 30,
        "lag": 12,
        "rate": 125.0,
    }


def test_totals_begin_at_zero_and_add_up() -> None:
    """All of them are there from the start, so that nobody has to handle absence."""
    progress = Progress()
    names = ("messages", "stored", "duplicates", "failed")
    assert progress.totals() == {**dict.fromkeys(names, 0), "lag": 0}

    for number, name in enumerate(names):
        for more in (number, 10):
            progress.count(name, more, **LABELS.get(name, {}))

    assert progress.totals() == {
        "messages": 10,
        "stored": 11,
        "duplicates": 12,
        "failed": 13,
        "lag": 0,
    }


def test_the_lag_of_a_partition_is_the_latest_told() -> None:
    """It is a state, not a count."""
    progress = Progress()
    for messages in (100, 3):
        progress.lag(0, messages)

    assert progress.totals()["lag"] == 3


def test_the_last_line_is_the_whole_run(tick: Tick, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of a run too short for any other line; the rate is the mean."""
    log_to_stderr("json", "INFO")
    progress = Progress()
    _read(progress, 50)
    progress.count("stored", 50)
    tick(20)

    progress.finish("end")

    [line] = _lines(capsys)
    line.pop("timestamp")
    assert line == {
        "event": "end",
        "level": "info",
        "messages": 50,
        "stored": 50,
        "duplicates": 0,
        "failed": 0,
        "lag": 0,
        "rate": 2.5,
        "seconds": 20.0,
    }


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in the texts, tracebacks included, and whoever logs."""
    log_to_stderr("json", "INFO")
    try:
        raise ValueError("line\nbreak")  # noqa: EM101, TRY003, TRY301 - what is logged
    except ValueError:
        log.exception("own\nevent", field='quotes " and\nbreaks')
        logging.getLogger("library").exception("its %s\n", "text")

    own, foreign = _lines(capsys)

    assert own["event"] == "own\nevent"
    assert own["field"] == 'quotes " and\nbreaks'
    assert foreign["event"] == "its text\n"
    for line in (own, foreign):
        assert line["level"] == "error"
        assert "ValueError: line\nbreak" in line["exception"]
        time = datetime.fromisoformat(line["timestamp"])
        assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """One line with level, event and fields, without colours where nobody sees them."""
    log_to_stderr("text", "INFO")

    log.warning("score.interrupted", unfinished=7)

    [line] = capsys.readouterr().err.splitlines()
    assert "warning" in line
    assert line.endswith("score.interrupted unfinished=7")
    assert "\x1b" not in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_goes_to_standard_output(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    """That belongs to the commands."""
    log_to_stderr(log_format, "INFO")

    log.info("event")

    out, err = capsys.readouterr()
    assert not out
    assert "event" in err


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("DEBUG", ["debug", "info", "warning", "error"]),
        ("INFO", ["info", "warning", "error"]),
        ("WARNING", ["warning", "error"]),
        ("ERROR", ["error"]),
    ],
)
def test_the_level_is_the_projects_own(
    capsys: pytest.CaptureFixture[str], level: str, shown: list[str]
) -> None:
    """Libraries are heard from warnings on, whatever it is."""
    log_to_stderr("json", level)
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(name)
        getattr(logging.getLogger("library"), name)(f"library {name}")

    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]

    assert [event for event in events if not event.startswith("library")] == shown
    assert [event for event in events if event.startswith("library")] == [
        "library warning",
        "library error",
    ]


def test_lines_of_a_trace_have_its_id(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of libraries too, and no others."""
    log_to_stderr("json", "INFO")

    token = TRACE_ID.set("4bf92f3577b34da6a3ce929d0e0e4736")
    log.info("inside")
    logging.getLogger("library").warning("inside")
    TRACE_ID.reset(token)
    log.info("outside")

    own, foreign, outside = _lines(capsys)
    assert own["trace_id"] == foreign["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert "trace_id" not in outside
