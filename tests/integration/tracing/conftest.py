"""A collector for each test of tracing."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.integration.tracing.collector import Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that takes everything."""
    with closing(Collector()) as listener:
        yield listener
