"""The status page in a real browser, of a stream that runs for real."""

from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM

import pytest

from lab.sample import transactions
from lab.servers import KafkaServer, ModelApi, free_port, wait_until
from tests.browser.browser import Browser
from tests.kit.environment import environment
from tests.kit.flow import Flow
from tests.kit.kafka import Topics, produce

pytestmark = pytest.mark.browser

SECRET = "4929-1234-CARDHOLDER"  # noqa: S105 - stands for a customer's data


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser of the test's own."""
    with Browser(tmp_path / "browser") as running:
        yield running


@pytest.fixture
def variables(
    broker: KafkaServer, topics: Topics, database_url: str, model_api: ModelApi
) -> dict[str, str]:
    """Of a stream whose breaker opens soon."""
    return environment(
        broker, topics, database_url=database_url, model_url=model_api.url,
        HTTP_PORT=str(free_port()), BATCH_SIZE="10", SCORING_CONCURRENCY="2", MAX_RETRIES="0",
    )  # fmt: skip


@pytest.fixture
def flow(variables: dict[str, str], tmp_path: Path) -> Iterator[Flow]:
    """A stream that has begun."""
    with Flow(tmp_path / "flow", variables) as running:
        running.wait_for("source.start")
        yield running


@pytest.fixture
def page(flow: Flow, browser: Browser, variables: dict[str, str]) -> Browser:
    """The browser on the page of a stream that works."""
    assert flow.running
    browser.open(f"http://127.0.0.1:{variables['HTTP_PORT']}/")
    browser.wait_for("state", lambda text: text == "● working")
    return browser


def _values(count: int) -> list[bytes]:
    return [sample.value for sample in transactions(count, seed=5, broken=0, repeated=0)]


def _rate(text: str) -> float:
    return float(text.removesuffix("/s").replace(",", "")) if text.endswith("/s") else 0.0


def test_rates_move_with_the_messages(page: Browser, broker: KafkaServer, topics: Topics) -> None:
    """From nothing to what passes, on each edge of the way to the database, and back."""
    page.wait_for("rate-read", lambda text: text == "0/s")
    produce(broker, topics.transactions, _values(500))
    for edge in ("read", "score", "store"):  # in this order, as each is seen for seconds
        page.wait_for(f"rate-{edge}", lambda text: _rate(text) > 0)
    page.wait_for("total-store", lambda text: text == "500")
    assert page.text("p99").endswith("s")
    page.wait_for("rate-store", lambda text: text == "0/s")
    assert page.evaluate("document.querySelectorAll('#latency .line').length") == 2


def test_a_model_that_is_down_is_seen(
    page: Browser, broker: KafkaServer, topics: Topics, model_api: ModelApi
) -> None:
    """In words and with a sign, not by colour alone; and that it is over."""
    assert page.text("breaker").startswith("breaker✓ closed")
    model_api.control(name="outage")
    produce(broker, topics.transactions, _values(500))
    page.wait_for("breaker", lambda text: text.startswith("breaker▲ open"))
    page.wait_for("state", lambda text: text == "▲ degraded")
    model_api.reset()
    page.wait_for("breaker", lambda text: text.startswith("breaker✓ closed"))


def test_failures_are_listed_without_their_content(
    page: Browser, broker: KafkaServer, topics: Topics
) -> None:
    """Stage, disposition, code and position; nothing of the message is on the page."""
    [sent] = produce(broker, topics.transactions, [b'{"description": "' + SECRET.encode()])
    page.wait_for("failures", lambda text: "not_json" in text)
    cells = page.evaluate("[...document.querySelectorAll('#failures td')].map(c => c.textContent)")
    assert cells[1:] == ["decode", "poison", "not_json", str(sent.partition()), str(sent.offset())]
    source = "document.documentElement.outerHTML + JSON.stringify(answers)"
    assert SECRET not in page.evaluate(source)


def test_the_keyboard_reaches_what_scrolls(page: Browser) -> None:
    """In the order of the page, each with a name for those who do not see it."""
    reached = []
    for _ in range(2):
        page.press_tab()
        reached.append(page.evaluate("document.activeElement.getAttribute('aria-labelledby')"))
    assert reached == ["graph-title", "failures-title"]


def test_it_is_dark_and_still_where_that_is_preferred(
    page: Browser, broker: KafkaServer, topics: Topics
) -> None:
    """By the reader's own settings."""
    moves = "getComputedStyle(document.getElementById('edge-read')).animationName"
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    produce(broker, topics.transactions, _values(500))
    page.wait_for("rate-read", lambda text: _rate(text) > 0)
    assert page.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches") is False
    assert "moving" in page.evaluate("document.getElementById('edge-read').getAttribute('class')")
    assert page.evaluate(moves) == "flow"
    assert page.evaluate(colour, prefers_color_scheme="dark") != light
    assert page.evaluate(moves, prefers_reduced_motion="reduce") == "none"


def test_a_stream_that_is_told_to_end_says_so(
    page: Browser, flow: Flow, broker: KafkaServer, topics: Topics, model_api: ModelApi
) -> None:
    """While it waits for what it has in hand."""
    model_api.control(name="hang")
    produce(broker, topics.transactions, _values(5))
    wait_until(lambda: model_api.state()["in_flight"] > 0)
    flow.signal(SIGTERM)
    page.wait_for("state", lambda text: text == "■ stopping")


def test_a_page_whose_stream_has_ended_says_so(page: Browser, flow: Flow) -> None:
    """It does not go on to show what was as if it were so."""
    flow.kill()
    page.wait_for("state", lambda text: text.startswith("■ no answer"))
