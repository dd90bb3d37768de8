"""What a contract with a model server is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from operators.records import Prediction, Transaction

__all__ = ["BadAnswerError", "Contract", "blames_nobody"]


class BadAnswerError(ValueError):
    """An answer with status 200 that is not the contract's: the server's fault."""


@dataclass(frozen=True)
class Contract:
    """A way to ask a model server over HTTP: a path and pure functions."""

    path: str
    """Below the API's base URL; `{model}` stands for `ML_API_MODEL`."""

    encode: Callable[[Sequence[Transaction]], bytes]
    """Transactions, each id once, to the body of a request (JSON)."""

    decode: Callable[[bytes], dict[int, Prediction]]
    """The body of an answer with status 200 to predictions by the `int` of the transaction's
    id, never by position.

    Raises `BadAnswerError` for anything but valid predictions, each id once. Its message holds no
    value of the answer.
    """

    blame: Callable[[bytes], set[int]]
    """The body of a refusal (400, 413, 422) to the positions in the request that it names as the
    culprits; empty if it names none. Whatever it is given, it does not raise."""


def blames_nobody(_body: bytes) -> set[int]:
    """`Contract.blame` of servers whose refusals name no element."""
    return set()
