"""Prove from the stores themselves that every message ended in exactly one place.

The stores are the tables `transactions` and `duplicates` and the error topic. Each names the
messages that it holds by their positions, so positions are all that is compared: partition by
partition, in the order of offsets, in one pass (`spans`).

    positions in the stores    0 1 2 3 4   6 7 8 . . .
    committed offset                             ^
    a gap before it            5: is there a record? read the topic there, and only there
    after it                   in progress

**While the flow runs.** The order of the reads makes the result true at any time. What the stream
commits to its consumer group is its low watermark: everything before it is durable. So the
committed offsets are read first, and everything before them has to be in the stores that are read
later; rows and dead letters are added, never moved. What is at or after a committed offset may be
anywhere on its way, and is only looked at for positions that are in two places, which is wrong at
any time.

**A gap is not a loss.** Offsets of transaction markers and of compacted or aborted messages hold no
record. So the topic is read where the stores have gaps, from the first offset of a gap to its last.
Offsets below the log start cannot be looked at any more: those that no store knows are told as
gone, and not judged.

**Replays.** A dead letter that is sent to the topic again becomes a message with a position of its
own, which ends in a place of its own; the dead letter stays the place of the first one. So nothing
here depends on replays, they are only counted: the marks that `ops.replay` leaves behind dead
letters (`put_back`), and dead letters of messages that were replays (`replayed`).
"""

from ops.audit.account import Account, Audit
from ops.audit.command import audit
from ops.audit.comparison import compare

__all__ = ["Account", "Audit", "audit", "compare"]
