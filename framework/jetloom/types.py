"""Types that every unit shares."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    type JSON = None | bool | int | float | str | list[JSON] | dict[str, JSON]
    """What JSON can say. Objects have string keys."""
else:
    # msgspec can't build a decoder for a recursive alias; the type is for the checker only.
    JSON = Any


type Duration = timedelta | float
"""A length of time as a caller gives it; a number is seconds."""


def seconds(duration: Duration) -> float:
    """A duration as the units below pass it on."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


class ActorKind(StrEnum):
    """Who can ask for something."""

    HUMAN = "human"
    AI_AGENT = "ai_agent"
    SYSTEM = "system"
    MODULE = "module"


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asked: carried by events, runs, tasks and the journal."""

    kind: ActorKind
    id: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @classmethod
    def parse(cls, text: str) -> Actor:
        """Reads `kind:id`, the form of the header; anything else is a `system` of that id."""
        kind, _, rest = text.partition(":")
        if rest and kind in ActorKind:
            return cls(ActorKind(kind), rest)
        return cls(ActorKind.SYSTEM, text)


SYSTEM = Actor(ActorKind.SYSTEM, "jetloom")


class RunStatus(StrEnum):
    """Where a run is; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    WAITING_HUMAN = "waiting_human"
    COMPENSATING = "compensating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)


class StepStatus(StrEnum):
    """Where a step of a run is."""

    PENDING = "pending"
    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    WAITING = "waiting"
    FALLBACK = "fallback"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
