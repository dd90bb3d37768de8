"""What is to be replayed, and how fast: the options of the command, checked."""

import re
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from operators.records import Disposition, Stage
from ops.replay.letter import Letter

__all__ = ["Choice", "Offsets", "OptionError"]


class OptionError(ValueError):
    """An option is wrong; the message names it in one line."""


class Offsets(NamedTuple):
    """Offsets of one partition of the topic that is read."""

    partition: int
    first: int
    last: int | None
    """Included; None for all that follow."""

    def has(self, letter: Letter) -> bool:
        """Whether the original was there."""
        _, _, partition, offset = letter.origin
        is_behind = self.last is not None and offset > self.last
        return partition == self.partition and offset >= self.first and not is_behind


def _time(value: Any) -> Any:
    if value is None or isinstance(value, datetime):
        return value
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        msg = "must be an ISO 8601 time such as 2026-11-23T10:00:00Z"
        raise ValueError(msg) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _offsets(value: Any) -> Any:
    if isinstance(value, Offsets):
        return value
    match = re.fullmatch(r"(\d{1,9}):(\d{1,19})(-(\d{1,19})?)?", str(value), re.ASCII)
    if match is None:
        msg = "must be PARTITION:OFFSET, PARTITION:FIRST-LAST or PARTITION:FIRST-"
        raise ValueError(msg)
    first = int(match[2])
    last = (int(match[4]) if match[4] else None) if match[3] else first
    if last is not None and last < first:
        msg = "ends before it begins"
        raise ValueError(msg)
    return Offsets(int(match[1]), first, last)


Time = Annotated[datetime | None, BeforeValidator(_time)]


class Choice(BaseModel):
    """Filters, all of which have to fit; of one that is given more than once, one is enough."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, extra="forbid")

    stage: tuple[Stage, ...] = ()
    disposition: tuple[Disposition, ...] = ()
    code: tuple[str, ...] = ()
    """Patterns, as file names have them: `model.*`."""
    since: Time = None
    """The dead letter was written then or later."""
    until: Time = None
    """… and before."""
    offsets: tuple[Annotated[Offsets, BeforeValidator(_offsets)], ...] = ()
    id: tuple[str, ...] = ()
    max_replays: int = Field(3, ge=1, le=1_000)
    """A message that has been replayed so often stays where it is."""
    rate: float = Field(100.0, gt=0, allow_inf_nan=False)
    """Most messages a second."""

    @classmethod
    def of(cls, **options: Any) -> "Choice":
        """Check the options.

        :arg options: By field name, as they were typed; None for those that were not.

        :returns: The choice.

        :raises OptionError: Which of them is wrong.

        """
        given = {name: value for name, value in options.items() if value is not None}
        try:
            choice = cls(**given)
        except ValidationError as error:
            detail = error.errors()[0]
            name = str(detail["loc"][0]).replace("_", "-")
            text = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
            msg = f"--{name}: {text}"
            raise OptionError(msg) from None
        if choice.since and choice.until and choice.since >= choice.until:
            msg = "--until: must be after --since"
            raise OptionError(msg)
        return choice

    @property
    def is_everything(self) -> bool:
        """Whether no filter was given."""
        filters = (self.stage, self.disposition, self.code, self.offsets, self.id)
        return not any(filters) and self.since is None and self.until is None

    def fits(self, letter: Letter) -> bool:
        """Whether a dead letter is to be replayed, as far as the filters go."""
        return (
            (not self.stage or letter.stage in self.stage)
            and (not self.disposition or letter.disposition in self.disposition)
            and (not self.code or any(fnmatchcase(letter.code, each) for each in self.code))
            and (self.since is None or letter.failed_at >= self.since.timestamp() * 1000)
            and (self.until is None or letter.failed_at < self.until.timestamp() * 1000)
            and (not self.offsets or any(each.has(letter) for each in self.offsets))
            and (not self.id or letter.id in self.id)
        )
