"""Send dead letters back to the topic that they came from, each at most once.

The error topic itself says what was sent: behind a dead letter that was replayed there is a mark
(`ops.replayed`). Message and mark are written in one Kafka transaction, so there is never one
without the other. A replay reads the whole topic first:

    dead letters    a b c d e f .        which of them fit the options, have no mark yet,
    marks             b       .  d       and can be sent: a, c …

then it reads those again and sends them. So it needs no state of its own: after a kill, or with
other options, the next one finds the marks and goes on. What fails again becomes another dead
letter, with a position and an id of its own, after this replay has looked: only the next one finds
it, and `dlq.replays` in it says how often the message has come back.

Two at once: the later fences the earlier before it reads (`ops.replay.sender`), so that no marks
are added behind its back.
"""

from ops.replay.command import replay

__all__ = ["replay"]
