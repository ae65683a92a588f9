"""What the engine gives to modules, declared here so that modules need not know the engine."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from ..errors import ErrorInfo
from ..types import JSON, Actor, RunStatus, StepStatus

if TYPE_CHECKING:
    from ..messages import ActionVerb
    from ..workflows import Definition


class StepContext(Protocol):
    """What a step's body knows and can ask for."""

    @property
    def run(self) -> str: ...

    @property
    def inc(self) -> int:
        """The incarnation of the run id."""
        ...

    @property
    def step(self) -> str: ...

    @property
    def attempt(self) -> int:
        """1 for the first try."""
        ...

    @property
    def key(self) -> str:
        """The idempotency key for outside systems: the same for every attempt of this step of this run."""
        ...

    @property
    def deadline(self) -> datetime | None: ...

    @property
    def actor(self) -> Actor:
        """Who started the run."""
        ...

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]: ...

    def emit(self, event_type: str, payload: object = None, *, key: str = "") -> None:
        """The event is published if and only if this step's completion is journaled, exactly once.

        Without a key it gets the step and the call's index. Raises `NameInvalid`.
        """
        ...

    async def heartbeat(self, details: JSON = None) -> None:
        """Records how far a long step is; the next attempt reads it with `resume_details`."""
        ...

    async def resume_details(self) -> JSON:
        """What the last `heartbeat` of this step recorded, in this or an earlier attempt; None without one."""
        ...


type StepFunction = Callable[[StepContext, JSON], Awaitable[JSON]]
"""A step's body in its untyped form: plain JSON in and out. Typed handlers are wrapped into it."""


class StepHandler(msgspec.Struct, frozen=True):
    """A named body; `concurrency` of them at once in one process."""

    name: str
    function: StepFunction
    concurrency: int = 100


class StepView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row of a run's step table. Times are seconds since the epoch."""

    id: str
    status: StepStatus
    attempt: int = 0
    uses: str = ""
    where: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    output: JSON = None
    error: ErrorInfo | None = None
    waits_for: str = ""


class RunView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of one run. `n` is the journal's last ordinal; times are seconds since the epoch."""

    run: str
    inc: int
    workflow: str
    status: RunStatus
    n: int = 0
    version: str = ""
    fingerprint: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    input: JSON = None
    output: JSON = None
    error: ErrorInfo | None = None
    actor: Actor | None = None
    labels: dict[str, str] = {}
    waits_for: list[str] = []
    steps: list[StepView] = []


class RunSummary(msgspec.Struct, frozen=True):
    """One row of a list of runs, as the index has it."""

    run: str
    workflow: str
    status: RunStatus
    inc: int
    since: float


class JournalLine(msgspec.Struct, frozen=True):
    """One journal entry for reading: its ordinal, time, engine, and its records as plain data."""

    n: int
    at: float
    by: str
    records: list[dict[str, JSON]]


class Started(msgspec.Struct, frozen=True):
    """`started` is False when the run existed already with the same workflow and input."""

    run: str
    inc: int
    started: bool


class Workflows(Protocol):
    """Starts, steers and reads runs; reads need no engine."""

    async def start(
        self,
        workflow: str | Definition,
        input: JSON = None,
        *,
        id: str | None = None,
        token: str | None = None,
        labels: Mapping[str, str] | None = None,
        not_before: datetime | None = None,
        timeout: timedelta | None = None,
        actor: Actor | None = None,
    ) -> Started:
        """Returns when the start is stored. The same id or token again answers with the existing run.

        `workflow` is a registered one's name, or a definition, which is registered first.

        Raises `WorkflowNotFound`, `SchemaMismatch`, `RunConflict` (other workflow or input), `NameInvalid`.
        """
        ...

    async def run(
        self,
        workflow: str | Definition,
        input: JSON = None,
        *,
        id: str | None = None,
        token: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: timedelta | None = None,
        patience: timedelta | None = None,
        actor: Actor | None = None,
    ) -> JSON:
        """Starts a run and waits for its result: `start` and `result` in one, at a third of the messages.

        `timeout` ends the run, `patience` only the waiting. Raises what both raise.
        """
        ...

    async def result(self, run: str, *, timeout: timedelta | None = None) -> JSON:
        """Waits for the end. Raises `RunFailed`, `RunCancelled`, `RunNotFound`, `WaitTimeout`."""
        ...

    async def message(
        self, run: str, name: str, payload: JSON = None, *, id: str | None = None, actor: Actor | None = None
    ) -> None:
        """Sends a message; an id sent twice is one message. Raises `RunNotFound`."""
        ...

    async def cancel(
        self, run: str, *, reason: str = "", compensate: bool | None = None, actor: Actor | None = None
    ) -> None:
        """Asks durably; returns when the request is stored. A run that has ended stays as it is."""
        ...

    async def action(
        self, run: str, verb: ActionVerb, *, step: str = "", reason: str = "", actor: Actor | None = None
    ) -> None: ...

    async def show(self, run: str) -> RunView:
        """Raises `RunNotFound`."""
        ...

    async def journal(self, run: str, *, after: int = 0) -> Sequence[JournalLine]: ...

    def tail(self, run: str, *, after: int = 0) -> AsyncIterator[JournalLine]:
        """The journal after ordinal `after`, then what is added, until the run ends."""
        ...

    async def list(
        self, *, status: RunStatus | None = None, workflow: str | None = None, limit: int = 50, after: int = 0
    ) -> tuple[Sequence[RunSummary], int]:
        """A page and the cursor of the next one (0: no more)."""
        ...

    async def register(self, text: str, *, source: str = "") -> Sequence[str]:
        """Registers the definitions of a YAML text; their names. Raises `DefinitionInvalid`, `VersionConflict`."""
        ...


type EndedStatus = Literal["completed", "failed", "cancelled"]
