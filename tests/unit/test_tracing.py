"""Tracing while it is off, and when it cannot be had."""

import sys

import pytest

from telemetry import tracing
from tests.kit.checkout import run_script
from tests.kit.factories import received, scored


def test_nothing_of_it_is_imported_while_it_is_off() -> None:
    """Neither by the stream, nor by what the stream calls."""
    script = (
        "import sys, dataflow\n"
        "from telemetry import tracing\n"
        "from tests.kit.factories import settings\n"
        "dataflow.build(settings())\n"
        "with tracing.scoring([]), tracing.request(1), tracing.writing([]):\n"
        "    tracing.answered(200), tracing.headers(), tracing.traceparent()\n"
        "tracing.end()\n"
        "print(*(name for name in sys.modules if 'opentelemetry' in name or 'spans' in name))\n"
    )
    assert run_script(script) == ""


def test_off_there_is_no_context() -> None:
    """No header for the model, and none for a dead letter."""
    with tracing.scoring([received()]), tracing.writing([scored()]):
        assert tracing.headers() == {}
        assert tracing.traceparent() is None


def test_without_the_extra_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, with what has to be installed."""
    monkeypatch.setitem(sys.modules, "telemetry.spans", None)
    with pytest.raises(tracing.TracingError) as caught:
        tracing.start()
    assert str(caught.value).startswith("TRACING: ")
    assert "opentelemetry-sdk" in str(caught.value)
    assert "\n" not in str(caught.value)
