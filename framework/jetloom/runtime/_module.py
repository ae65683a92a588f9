"""What a module is, and the decorators that say what it handles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

from ..bus import Retry

if TYPE_CHECKING:
    from ._runtime import Runtime

MARK = "__jetloom__"
"""The attribute under which a decorated function keeps its declarations."""

RETRY = Retry()


class Undo[I, O](msgspec.Struct, frozen=True):
    """What an undo handler gets: the step's input, its output (None when it is not known), and how it ended.

    With outcome `unknown` the step may have done its work or not: the undo finds out, or undoes idempotently.
    """

    input: I
    output: O | None = None
    outcome: Literal["completed", "unknown"] = "completed"


class Module:
    """A deployable asyncio service.

    `depends_on` names modules of the same process that start before this one and stop after it. `config` is the type
    of the module's settings. `init` runs when everything it depends on is up; `shutdown` in reverse order, after the
    last handler has ended.
    """

    id: ClassVar[str] = ""
    version: ClassVar[str] = "0.1.0"
    description: ClassVar[str] = ""
    depends_on: ClassVar[tuple[str, ...]] = ()
    config: ClassVar[type[msgspec.Struct] | None] = None
    buckets: ClassVar[tuple[str, ...]] = ()
    """KV buckets that exist before `init`; others are made at their first use."""

    async def init(self, rt: Runtime) -> None:
        """Called once; what it raises ends the start, and modules that are up are shut down again."""

    async def shutdown(self) -> None:
        """Called once for each `init` that returned."""


class OnMark(msgspec.Struct, frozen=True):
    pattern: str
    name: str
    retry: Retry
    concurrency: int
    ack_wait: float


class EndpointMark(msgspec.Struct, frozen=True):
    name: str
    concurrency: int
    timeout: float | None


class StepMark(msgspec.Struct, frozen=True):
    name: str
    undo: str | None
    concurrency: int


type Mark = OnMark | EndpointMark | StepMark


def on[F: Callable[..., object]](
    event_type: str,
    *,
    name: str = "",
    retry: Retry = RETRY,
    concurrency: int = 16,
    ack_wait: float = 30.0,
) -> Callable[[F], F]:
    """Handles events of a type, or of a pattern (`shop.order.*`, `shop.>`), one delivery per module.

    The method takes an `Event[Payload]` and may be sync (it then runs in a thread). `name` (the method's) names the
    durable subscription: keep it, or the new one starts from the oldest event. `concurrency` events are handled at
    once. An error is retried as `retry` says unless it is terminal; then the event goes to the dead letters.
    """
    return _marker(lambda function: OnMark(event_type, name or _name(function), retry, concurrency, ack_wait))


def endpoint[F: Callable[..., object]](
    name: str, *, concurrency: int = 100, timeout: float | None = None
) -> Callable[[F], F]:
    """Answers requests on `<ns>.rpc.<module>.<name>`: a NATS micro service that any client can call.

    The method takes one argument (or none) and returns the answer. More than `concurrency` at once are answered busy.
    """
    return _marker(lambda _: EndpointMark(name, concurrency, timeout))


def step[F: Callable[..., object]](
    name: str, *, undo: str | None = None, concurrency: int = 100
) -> Callable[[F], F]:
    """The body of a workflow's step: `uses: <name>`.

    The method takes `(self, ctx, input)`, `(self, input)`, `(self, ctx)` or `(self)`; the context is recognised by its
    annotation `StepContext`. An undo handler takes an `Undo[Input, Output]`. `undo` names the handler that undoes this
    one, for readers and tools; what a run rolls back stands in its definition.
    """
    return _marker(lambda _: StepMark(name, undo, concurrency))


def marks_of(function: object) -> tuple[Mark, ...]:
    found: object = getattr(function, MARK, ())
    return found if isinstance(found, tuple) else ()  # pyright: ignore[reportUnknownVariableType]


def _name(function: object) -> str:
    return str(getattr(function, "__name__", "handler"))


def _marker[F: Callable[..., object]](make: Callable[[object], Mark]) -> Callable[[F], F]:
    def mark(function: F) -> F:
        setattr(function, MARK, (*marks_of(function), make(function)))
        return function

    return mark
