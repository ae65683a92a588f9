"""What can go wrong between a process and the memory server, as a plan that is asked at each operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable

type OpKind = Literal[
    "publish", "request", "subscribe", "append", "delete", "purge", "last", "get", "read", "follow", "state",
    "pull", "ack", "nak", "term", "beat", "beat_confirmed", "ensure", "assets", "remove", "flush",
]  # fmt: skip


class Op(NamedTuple):
    """An operation that leaves a process. `serial` counts the operations of its connection."""

    kind: OpKind
    connection: str
    subject: str
    serial: int


class Fate(NamedTuple):
    """What becomes of one operation.

    `there` and `back` are the latencies in seconds; commands of one connection never overtake each other, nor do
    answers. `think` is time that the server takes for itself: later commands of the connection may be applied before.
    `trouble`: `lost` never arrives; `muted` is applied and the answer never comes (both end in the caller's timeout);
    `cut_before` and `cut_after` take the connection down before and after the operation is applied.
    `down` is how long a cut connection stays down.
    """

    there: float = 0.0
    back: float = 0.0
    think: float = 0.0
    trouble: Literal["", "lost", "muted", "cut_before", "cut_after"] = ""
    down: float = 0.5


NO_TROUBLE = Fate()


class Faults(Protocol):
    """The plan. Every answer must come from a seed, so that a universe can be repeated."""

    def before(self, op: Op) -> Awaitable[None] | None:
        """Called in the caller's task before it sends; what it returns is awaited. A crash point."""
        ...

    def after(self, op: Op) -> Awaitable[None] | None:
        """Called in the caller's task when the answer is there (or the failure). A crash point."""
        ...

    def applied(self, op: Op) -> None:
        """Called by the server when it has applied the operation and not yet answered. A crash point."""
        ...

    def fate(self, op: Op) -> Fate: ...

    def transit(self, connection: str) -> float:
        """Seconds that a delivery to this connection takes."""
        ...

    def stale(self, op: Op) -> int:
        """How many changes of the stream a direct read is behind; 0 = none. Never asked for leader reads."""
        ...

    def split(self, op: Op) -> int:
        """After how many messages a long read is interrupted for a moment, so that writes pass under it; 0 = never."""
        ...

    def separated(self, sender: str, receiver: str) -> bool:
        """Whether core messages between two connections are lost."""
        ...

    def repeat(self, stream: str, consumer: str, sequence: int) -> bool:
        """Whether the message just delivered is delivered again at once, long before its `ack_wait`."""
        ...

    def redelivery_delay(self, stream: str, consumer: str, sequence: int) -> float:
        """Seconds that a redelivery is late."""
        ...

    def lateness(self, what: Literal["schedule", "expiry", "source"]) -> float:
        """Seconds by which the server is late with a timer of its own: up to 0.25 on a real one."""
        ...


class Calm:
    """Faults that never happen: subclass it and override what should."""

    def before(self, op: Op) -> Awaitable[None] | None:
        return None

    def after(self, op: Op) -> Awaitable[None] | None:
        return None

    def applied(self, op: Op) -> None:
        return None

    def fate(self, op: Op) -> Fate:
        return NO_TROUBLE

    def transit(self, connection: str) -> float:
        return 0.0

    def stale(self, op: Op) -> int:
        return 0

    def split(self, op: Op) -> int:
        return 0

    def separated(self, sender: str, receiver: str) -> bool:
        return False

    def repeat(self, stream: str, consumer: str, sequence: int) -> bool:
        return False

    def redelivery_delay(self, stream: str, consumer: str, sequence: int) -> float:
        return 0.0

    def lateness(self, what: Literal["schedule", "expiry", "source"]) -> float:
        return 0.0
