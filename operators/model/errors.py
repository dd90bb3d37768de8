"""How a request to the model can fail.

    ModelError
    ├── UnavailableError    it may succeed another time: the service is down, overloaded or wrong
    └── RefusedError        the service refuses the content

They stay in this package: what cannot be mended by another request is a `ScoringError`.
"""

from typing import Literal

__all__ = ["Kind", "ModelError", "RefusedError", "UnavailableError"]

Kind = Literal["overload", "status", "connection", "timeout", "answer"]
"""What was wrong with a request that may succeed another time."""


class ModelError(Exception):
    """Base of what a request can fail with."""


class UnavailableError(ModelError):
    """The request may succeed another time.

    :arg reason: For people.

    :arg after: Seconds for which the service asks to be left alone.

    :arg kind: For metrics; the vocabulary is fixed.

    """

    def __init__(self, reason: str, after: float = 0.0, *, kind: Kind) -> None:
        super().__init__(reason)
        self.after, self.kind = after, kind

    @property
    def overload(self) -> bool:
        """Whether the service has too much to do."""
        return self.kind in {"overload", "timeout"}


class RefusedError(ModelError):
    """The service refuses the content of the request.

    :arg status: Of the answer.

    :arg blamed: Positions in the request that the answer names.

    """

    def __init__(self, status: int, blamed: set[int]) -> None:
        super().__init__(f"the model answered {status}")
        self.status, self.blamed = status, blamed
