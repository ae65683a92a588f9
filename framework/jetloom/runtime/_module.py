"""What a module is, and the decorators that say what it handles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

from ..types import Duration, seconds

if TYPE_CHECKING:
    # The bus takes 0.1 s to import; who only declares a module does not pay for it.
    from ..bus import Mode, Retry, Start
    from ._runtime import Runtime

MARK = "__jetloom__"
"""The attribute under which a decorated function keeps its declarations."""

NO_METADATA: Mapping[str, str] = {}

type Missed = Literal["skip", "once", "all"]
type HealthKind = Literal["live", "ready"]


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
    of the module's settings. The host calls, in this order: `init` when everything it depends on is up, `ready` when
    every module takes work, `drain` when the process is about to stop, `shutdown` in reverse order, after the last
    handler has ended.
    """

    id: ClassVar[str] = ""
    version: ClassVar[str] = "0.1.0"
    description: ClassVar[str] = ""
    depends_on: ClassVar[tuple[str, ...]] = ()
    config: ClassVar[type[msgspec.Struct] | None] = None
    buckets: ClassVar[tuple[str, ...]] = ()
    """KV buckets that exist before `init`; others are made at their first use."""

    rt: Runtime
    """The module's own runtime: the host sets it before it calls `init`."""

    async def init(self, rt: Runtime) -> None:
        """Called once, within 60 s; what it raises ends the start, and modules that are up are shut down again. Modules
        that don't depend on each other are started at the same time."""

    async def ready(self) -> None:
        """Called once, when requests and events of every module are let in. What it raises ends the start."""

    async def drain(self) -> None:
        """Called once at a stop, before the handlers are stopped, with a part of the drain's time."""

    async def shutdown(self) -> None:
        """Called once for each `init` that returned."""


class OnMark(msgspec.Struct, frozen=True, kw_only=True):
    pattern: str
    name: str
    mode: Mode
    start: Start
    where: str
    key: str
    batch: int
    batch_wait: float
    dedupe: float
    timeout: float | None
    retry: Retry | None
    concurrency: int
    ack_wait: float


class EndpointMark(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    concurrency: int
    timeout: float | None
    group: str
    idempotent: bool
    metadata: dict[str, str]


class StepMark(msgspec.Struct, frozen=True):
    name: str
    undo: str | None
    concurrency: int


class EveryMark(msgspec.Struct, frozen=True, kw_only=True):
    spec: str
    name: str
    tz: str
    missed: Missed
    missed_max: int
    timeout: float | None
    retry: Retry | None


class HealthMark(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: HealthKind
    timeout: float
    interval: float


class BackgroundMark(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    restarts_max: int


type Mark = OnMark | EndpointMark | StepMark | EveryMark | HealthMark | BackgroundMark


def on[F: Callable[..., object]](
    event_type: str,
    *,
    name: str = "",
    mode: Mode = "group",
    start: Start = "all",
    where: str = "",
    key: str = "",
    batch: int = 0,
    batch_wait: Duration = 1.0,
    dedupe: Duration = 0.0,
    timeout: Duration | None = None,
    retry: Retry | None = None,
    concurrency: int = 16,
    ack_wait: Duration = 30.0,
) -> Callable[[F], F]:
    """Handles events of a type, or of a pattern (`shop.order.*`, `shop.>`), one delivery per module.

    The method takes an `Event[Payload]`, or a `list[Event[Payload]]` with `batch` set, and may be sync (it then runs in
    a thread). `name` (the method's) names the durable subscription: keep it, or the new one begins at `start`.

    - `mode`: `group` (durable, one replica gets each event), `broadcast` (every replica), `live` (every replica, only
      what is stored while it listens, never again).
    - `start`: `all`, `new`, a time or a sequence; for a subscription that is made.
    - `where`: a CEL condition, such as `event.payload.amount > 100`.
    - `key`: a CEL expression, such as `event.payload.order`: events of one key are handled in order.
    - `dedupe`: an event whose id was handled within that time is passed over, whatever published it again.
    - `concurrency` events are handled at once (calls, with `batch`). `timeout` ends one call.

    An error is retried as `retry` says (without one 5 times, as `Retry()` does) unless it is terminal; then the event
    goes to the dead letters.
    """
    return _marker(
        lambda function: OnMark(
            pattern=event_type,
            name=name or _name(function),
            mode=mode,
            start=start,
            where=where,
            key=key,
            batch=batch,
            batch_wait=seconds(batch_wait),
            dedupe=seconds(dedupe),
            timeout=None if timeout is None else seconds(timeout),
            retry=retry,
            concurrency=concurrency,
            ack_wait=seconds(ack_wait),
        )
    )


def endpoint[F: Callable[..., object]](
    name: str = "",
    *,
    concurrency: int = 100,
    timeout: Duration | None = None,
    group: str = "q",
    idempotent: bool = False,
    metadata: Mapping[str, str] = NO_METADATA,
) -> Callable[[F], F]:
    """Answers requests on `<ns>.rpc.<module>.<name>`: a NATS micro service that any client can call.

    The method takes one argument (or none) and returns the answer; an async generator answers in parts. More than
    `concurrency` at once are answered busy. `idempotent` lets a typed client repeat a call whose outcome is unknown.
    `group` is the queue group: instances of another group each get every request as well.
    """
    return _marker(
        lambda function: EndpointMark(
            name=name or _name(function),
            concurrency=concurrency,
            timeout=None if timeout is None else seconds(timeout),
            group=group,
            idempotent=idempotent,
            metadata=dict(metadata),
        )
    )


def every[F: Callable[..., object]](
    spec: str | timedelta,
    *,
    name: str = "",
    tz: str = "UTC",
    missed: Missed = "once",
    missed_max: int = 100,
    timeout: Duration | None = None,
    retry: Retry | None = None,
) -> Callable[[F], F]:
    """Calls the method at the times of a cron line (`*/5 * * * *`, seconds as a sixth field in front) or of an interval
    (`30s`, `timedelta(minutes=5)`), once over all replicas of the module.

    The method takes a `Tick`, or nothing. NATS keeps and fires the schedule. What was missed while no replica ran:
    `skip` passes over it, `once` is called for the latest, `all` for each, at most `missed_max`.
    """
    text = spec if isinstance(spec, str) else f"{spec.total_seconds():g}s"
    return _marker(
        lambda function: EveryMark(
            spec=text,
            name=name or _name(function),
            tz=tz,
            missed=missed,
            missed_max=missed_max,
            timeout=None if timeout is None else seconds(timeout),
            retry=retry,
        )
    )


def health[F: Callable[..., object]](
    name: str = "", *, kind: HealthKind = "ready", timeout: Duration = 5.0, interval: Duration = 10.0
) -> Callable[[F], F]:
    """A check of the module, or of something it depends on. It passes when the method returns None or True; it fails
    with what it raises, or the text that it returns. A failing `live` check asks for a restart, a failing `ready` one
    for no traffic. It is called every `interval`, and each call is limited to `timeout`.
    """
    return _marker(
        lambda function: HealthMark(
            name=name or _name(function), kind=kind, timeout=seconds(timeout), interval=seconds(interval)
        )
    )


def background[F: Callable[..., object]](*, name: str = "", restarts_max: int = 10) -> Callable[[F], F]:
    """A task that runs from after `init` until `shutdown`. One that raises is started again with backoff; after
    `restarts_max` failures without a good minute in between the process says that it is not live. Returning ends it.
    """
    return _marker(lambda function: BackgroundMark(name=name or _name(function), restarts_max=restarts_max))


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
