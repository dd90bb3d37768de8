"""Requests to the stand-in for the model."""

from typing import Any

import httpx

ID = "3f2504e0-4f89-11d3-9a0c-0305e82c33{:02}"


def make_batch(count: int = 4, **fields: Any) -> list[dict[str, Any]]:
    """Transactions as a request has them."""
    return [
        {
            "id": ID.format(number),
            "description": f"order {number}",
            "amount": 12.5,
            "timestamp": "2026-01-05T08:00:00",
            "merchant": None,
            "operation_type": "PURCHASE",
            "side": "DEBIT",
        }
        | fields
        for number in range(count)
    ]


def set_fault(api: httpx.Client, name: str, **parameters: Any) -> None:
    """Let the stand-in have a fault from now on."""
    api.post("/control", json={"name": name, **parameters}).raise_for_status()


def predict(api: httpx.Client, batch: Any = None) -> httpx.Response:
    """Ask for predictions; of four transactions if none are given."""
    return api.post("/predict", json=make_batch() if batch is None else batch)


def predicted(api: httpx.Client) -> list[dict[str, Any]]:
    """The elements of an answer that is good."""
    rows: list[dict[str, Any]] = predict(api).raise_for_status().json()
    return rows
