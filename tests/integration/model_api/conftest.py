"""A client of the stand-in for the model."""

from collections.abc import Iterator

import httpx
import pytest

from lab.servers import ModelApi


@pytest.fixture
def api(model_api: ModelApi) -> Iterator[httpx.Client]:
    """Client of the server, which has no faults at the start of each test."""
    with httpx.Client(base_url=model_api.url, trust_env=False, timeout=10) as client:
        yield client
