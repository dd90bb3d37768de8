"""Ask the model what the stream will ask it."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

from operators.errors import DependencyError, ScoringError
from operators.model.client import ModelClient
from operators.model.errors import RefusedError, UnavailableError
from operators.model.transport import CERTIFICATE
from operators.records import Transaction
from settings import Settings

__all__ = ["check"]


def check(settings: Settings) -> str:
    """Ask the model's API for a prediction, or for none with `ML_API_CHECK=false`.

    :returns: The URL that answered.

    :raises DependencyError: It did not answer, or not as the contract says.

    """
    client = ModelClient(settings)

    async def ask() -> None:
        try:
            async with asyncio.timeout(settings.start_timeout.total_seconds()):
                await client.predict([_made_up()] if settings.ml_api_check else [])
        finally:
            await client.close()

    try:
        asyncio.run(ask())
    except TimeoutError:
        msg = f"ML_API_URL: the model at {client.url}: no answer"
        raise DependencyError(msg) from None
    except UnavailableError as error:
        setting = "ML_API_URL, ML_API_CONTRACT" if error.kind == "answer" else "ML_API_URL"
        msg = f"{setting}: the model at {client.url}: {error}"
        raise DependencyError(msg) from None
    except RefusedError as error:
        to = "a made-up transaction (ML_API_CHECK)" if settings.ml_api_check else "an empty batch"
        # Some servers, such as nginx, complete the handshake with a client that shows no
        # certificate, or a wrong one, and refuse each of its requests then.
        more = f", {CERTIFICATE}" if client.url.startswith("https:") else ""
        msg = f"ML_API_URL, ML_API_CONTRACT{more}: the model at {client.url}: {error} to {to}"
        raise DependencyError(msg) from None
    except ScoringError as error:
        raise DependencyError(str(error)) from None
    return client.url


def _made_up() -> Transaction:
    """A transaction that nobody made, with which a model cannot be wrong to be content."""
    return Transaction(
        uuid4(), None, "check", Decimal(1), datetime.now(UTC), "check", "PURCHASE", "DEBIT"
    )
