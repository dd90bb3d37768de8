"""The contracts against the servers that they are for, each with the model of docs/contracts.md.

`make test-contracts` installs the servers, each in an environment of its own.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import httpx
import pytest

from operators.errors import DependencyError, ScoringError
from operators.model.check import check
from operators.model.client import ModelClient
from operators.model.contracts import CONTRACTS, BadAnswerError
from operators.model.errors import RefusedError, UnavailableError
from operators.records import Prediction, Transaction
from settings import Settings
from tests.contracts.models.faults import FOREIGN
from tests.contracts.servers import MLflow, MLServer
from tests.kit.factories import settings, transaction

pytestmark = [pytest.mark.contracts, pytest.mark.timeout(300)]

IDS: Final = [UUID(int=0xABCDEF << 64 | number) for number in range(5)]

BATCH: Final = [
    transaction(id=IDS[0], description="Zahlung für 🎉 \u2028 \\ \"'", amount=Decimal(200)),
    transaction(id=IDS[1], merchant=None, amount=Decimal("-7500.5")),
    transaction(id=IDS[2], amount=Decimal("99999999999999.9999"), merchant="Bäckerei 文"),
    transaction(id=IDS[3], amount=Decimal("-99999999999999.9999"), description=""),
    # Others have no fraction of a second.
    transaction(
        id=IDS[4],
        amount=Decimal(0),
        timestamp=datetime(2026, 1, 5, 8, 0, 0, 250_000, UTC),
        operation_type="",
        side="",
    ),
]

# Of the documented model: a tenth of a thousandth of the amount, whatever its sign, up to 1.
SCORES: Final = dict(zip(IDS, (0.02, 0.75005, 1.0, 1.0, 0.0), strict=True))
LABELS: Final = {
    identity: "legitimate" if score < 0.5 else "fraud" for identity, score in SCORES.items()
}


class Served(NamedTuple):
    """A contract and where the models are that speak it."""

    contract: str
    urls: dict[str, str]
    """Base URL by model."""

    def settings(self, model: str = "fraud", **overrides: Any) -> Settings:
        """Settings of a stream that asks one of them."""
        ours = {
            "ml_api_contract": self.contract,
            "ml_api_url": self.urls[model],
            "ml_api_model": model,
            "start_timeout": 20,
            "ml_api_timeout": 20,
        }
        return settings(**(ours | overrides))


@pytest.fixture(scope="module", params=["oip", "mlflow"])
def served(request: pytest.FixtureRequest, servers_folder: Path) -> Iterator[Served]:
    """A server of each kind, with the documented model and the one with faults."""
    with ExitStack() as running:
        if request.param == "oip":
            mlserver = running.enter_context(MLServer(servers_folder / "mlserver"))
            urls = {"fraud": mlserver.url, "faulty": mlserver.url}
        else:
            fraud = running.enter_context(MLflow(servers_folder / "mlflow"))
            faulty = running.enter_context(MLflow(servers_folder / "mlflow-faulty", faulty=True))
            urls = {"fraud": fraud.url, "faulty": faulty.url}
        yield Served(request.param, urls)


def _ask(given: Settings, batch: Sequence[Transaction]) -> dict[UUID, Prediction]:
    async def ask() -> dict[int, Prediction]:
        api = ModelClient(given)
        try:
            return await api.predict(batch)
        finally:
            await api.close()

    return {UUID(int=key): prediction for key, prediction in asyncio.run(ask()).items()}


def _faulty(first: str) -> list[Transaction]:
    """A batch whose first description says what the model is to do wrong."""
    return [BATCH[0]._replace(description=first), *BATCH[1:]]


def _post(served: Served, batch: Sequence[Transaction]) -> httpx.Response:
    contract = CONTRACTS[served.contract]
    return httpx.post(
        f"{served.urls['faulty']}/{contract.path.format(model='faulty')}",
        content=contract.encode(batch),
        headers={"content-type": "application/json"},
        trust_env=False,
        timeout=20,
    )


def test_a_mixed_batch_is_scored(served: Served) -> None:
    """Any text, a null merchant, negative amounts and amounts of 18 digits arrive as they are."""
    predictions = _ask(served.settings(), BATCH)

    assert {identity: row[0] for identity, row in predictions.items()} == LABELS
    assert {identity: row[1] for identity, row in predictions.items()} == pytest.approx(SCORES)
    assert {row.model_version for row in predictions.values()} == {"7"}


@pytest.mark.parametrize("count", [1, 1_000])
def test_batches_of_any_size_are_scored(served: Served, count: int) -> None:
    """Also where every merchant is null, and the column has nothing to tell its type by."""
    batch = [transaction(id=UUID(int=number), merchant=None) for number in range(count)]

    assert _ask(served.settings(), batch).keys() == {item.id for item in batch}


def test_the_empty_batch_is_answered(served: Served) -> None:
    """So the check at start passes."""
    given = served.settings()

    assert _ask(given, []) == {}
    assert check(given).startswith(served.urls["fraud"])


def test_the_order_of_the_answer_does_not_matter(served: Served) -> None:
    """A server that turns the batch round gives everyone the own score."""
    turned = _ask(served.settings("faulty"), _faulty("shuffles"))

    assert {identity: row.prediction for identity, row in turned.items()} == LABELS


@pytest.mark.parametrize("fault", ["doubles", "nan", "above", "empty", "no ids", "lies"])
def test_a_wrong_answer_is_bad(served: Served, fault: str) -> None:
    """It has status 200 and is not taken."""
    answer = _post(served, _faulty(fault))

    assert answer.status_code == httpx.codes.OK
    with pytest.raises(BadAnswerError, match="answer"):
        CONTRACTS[served.contract].decode(answer.content)


@pytest.mark.parametrize(
    ("fault", "ids"),
    [("drops", set(IDS[:-1])), ("foreign", {UUID(FOREIGN), *IDS[1:]})],
)
def test_an_answer_to_other_transactions_is_told_by_its_ids(
    served: Served, fault: str, ids: set[UUID]
) -> None:
    """Of a right form, so that only the comparison with the request finds it."""
    answer = CONTRACTS[served.contract].decode(_post(served, _faulty(fault)).content)

    assert {UUID(int=key) for key in answer} == ids
    with pytest.raises(UnavailableError, match="ids"):
        _ask(served.settings("faulty"), _faulty(fault))


def test_a_refusal_blames_nobody(served: Served) -> None:
    """The batch has to be cut to find the culprit, which its neighbours pass without."""
    batch = [*BATCH[:2], BATCH[2]._replace(description="refused"), *BATCH[3:]]
    given = served.settings("faulty")

    with pytest.raises(RefusedError) as caught:
        _ask(given, batch)

    assert (caught.value.status, caught.value.blamed) == (400, set())
    assert _ask(given, batch[:2]).keys() == set(IDS[:2])
    assert _ask(given, batch[3:]).keys() == set(IDS[3:])


def test_a_model_that_raises(served: Served) -> None:
    """Is a sick server's for MLServer; MLflow says 400 as if it were the transaction's fault."""
    sick = {"oip": UnavailableError, "mlflow": RefusedError}[served.contract]

    with pytest.raises(sick):
        _ask(served.settings("faulty"), _faulty("raises"))


def test_the_check_finds_the_wrong_contract(served: Served) -> None:
    """There is nothing at the path of the other."""
    other = {"oip": "mlflow", "mlflow": "oip"}[served.contract]

    with pytest.raises(DependencyError, match="404"):
        check(served.settings(ml_api_contract=other))


def test_the_name_of_the_model_counts_where_the_path_has_it(served: Served) -> None:
    """An unknown one is found by the check at start."""
    given = served.settings(ml_api_model="nobody")

    if served.contract == "mlflow":
        assert check(given).endswith("/invocations")
        return
    with pytest.raises(DependencyError, match="nobody/infer answered 404"):
        check(given)
    with pytest.raises(ScoringError, match="404"):
        _ask(given, BATCH)
