"""An entry in the making: records are folded as they are added, so that a decision sees what it has decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypedDict

import msgspec

from ...messages import (
    Cancelled,
    Emitted,
    Finished,
    Held,
    Record,
    RunStarted,
    Settling,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepUnknown,
    TimerSet,
    join_name,
)
from ...messages import TimerKind as Kind
from ...types import JSON, StepStatus
from ...workflows import Compiled
from ._fold import APPLY, Stamp
from ._outputs import TAKES_BACK, Output, undone_by
from ._state import UNDO, Outputs, RunState

HOLD = 5.0
"""Seconds up to which a timer is held in an engine's memory, under a cover. Above ACK_WAIT, so that a schedule's
granularity (0.25 s) never dominates a wait; held ones are limited by `Surroundings.hold_timers`."""


_MOVES = frozenset((StepCompleted, StepSkipped, StepFailed, StepUnknown))
"""Records that may change which steps may start."""


class Scope(TypedDict):
    """The names that expressions know."""

    input: JSON
    outputs: Mapping[str, JSON]
    trigger: JSON
    run: JSON


class NoCover(Exception):
    """New local work, and no message that may cover it: fold the leader's journal and decide again."""


class Surroundings(msgspec.Struct, frozen=True):
    """What a decision is told about the engine that takes it. `random` gives uniform numbers in [0, 1)."""

    engine: str
    now: float
    holding: Callable[[str], bool]
    """Whether this engine holds the message that a cover names."""
    serves: Callable[[str], bool]
    """Whether a handler is in this process."""
    random: Callable[[], float]
    hold_timers: bool = True
    payload_max: int = 1024 * 1024
    """Bytes of one message's body."""


class Frontier:
    """Which steps wait for how many others: kept beside a state, so that an ended step costs its dependents only.

    `ready` and `again` are standing conditions: steps and retries that may start as soon as nothing holds them back.
    """

    __slots__ = ("again", "left", "ready", "waiting")

    def __init__(self, state: RunState, compiled: Compiled) -> None:
        self.again: list[str] = []
        if not state.steps:
            self.waiting = compiled.graph.waiting.copy()
            self.ready = list(compiled.graph.roots)
            self.left = len(self.waiting)
            return
        self.waiting: dict[str, int] = {}
        self.ready: list[str] = []
        self.left = 0
        retrying = {timer.step for timer in state.timers.values() if timer.kind == "retry"}
        steps = state.steps
        done = (StepStatus.COMPLETED, StepStatus.SKIPPED)
        for step in compiled.definition.steps:
            unit = steps.get(step.id)
            if unit is not None and unit.status in done:
                continue
            self.left += 1
            if unit is not None and unit.status is not StepStatus.PENDING:
                if unit.status is StepStatus.UNKNOWN or (
                    unit.status is StepStatus.RETRYING and step.id not in retrying
                ):
                    self.again.append(step.id)
                continue
            count = sum(
                1 for other in step.depends_on if other not in steps or steps[other].status not in done
            )
            self.waiting[step.id] = count
            if count == 0:
                self.ready.append(step.id)

    def ended(self, step: str, compiled: Compiled) -> None:
        """A step is completed or skipped."""
        self.left -= 1
        for dependent in compiled.graph.dependents.get(step, ()):
            self.waiting[dependent] -= 1
            if self.waiting[dependent] == 0:
                self.ready.append(dependent)


class Draft:
    """The next entry of a run. It folds into `state` at once: a state with an open draft is not what is journaled."""

    __slots__ = (
        "_cover",
        "_frontier",
        "_lifecycle",
        "_scope",
        "applied",
        "around",
        "compiled",
        "inputs",
        "records",
        "stamp",
        "state",
        "wants",
        "weight",
    )

    def __init__(
        self,
        state: RunState,
        compiled: Compiled | None,
        around: Surroundings,
        frontier: Frontier | None = None,
    ) -> None:
        self.state = state
        self.compiled = compiled
        self.around = around
        self.records: list[Record] = []
        self.applied: list[str] = []
        self.inputs: dict[tuple[str, int], JSON] = {}
        self.wants: list[Output] = []
        """What this entry takes back: tasks and schedules of work that it ends."""
        self.weight = 0
        self.stamp = Stamp(state.n + 1, around.now, around.engine)
        self._scope: Scope | None = None
        self._frontier = frontier
        self._cover = ""
        self._lifecycle = compiled is not None and compiled.definition.events == "lifecycle"

    @property
    def definition(self) -> Compiled:
        if self.compiled is None:
            raise TypeError(f"run {self.state.run} has no definition")
        return self.compiled

    @property
    def frontier(self) -> Frontier:
        if self._frontier is None:
            self._frontier = Frontier(self.state, self.definition)
        return self._frontier

    @property
    def known_frontier(self) -> Frontier | None:
        return self._frontier

    def around_now(self, around: Surroundings) -> None:
        """Goes on with the draft at a later moment (head start).

        The entry keeps its first time, which is folded already.
        """
        self.around = around

    def add(self, record: Record) -> None:
        if self._lifecycle:
            event = _lifecycle(record, self.stamp.n, len(self.records), self.state)
            if event is not None:
                self._append(event)
        self._append(record)
        if type(record) in _MOVES and self._frontier is not None and self.state.phase == "open":
            self._move(self._frontier, record)

    def _move(self, frontier: Frontier, record: Record) -> None:
        if isinstance(record, StepCompleted | StepSkipped) or (
            isinstance(record, StepFailed) and record.next == "skip"
        ):
            frontier.ended(record.step, self.definition)
        elif isinstance(record, StepUnknown):
            # A crash loop ended it: it begins again when a person says so.
            frontier.again.append(record.step)

    def _append(self, record: Record) -> None:
        if type(record) in TAKES_BACK:
            self.wants.extend(undone_by(self.state, record))
        self.records.append(record)
        APPLY[type(record)](self.state, record, self.stamp)

    def cover(self) -> str:
        """A message that may cover new work: live before this entry with this engine as holder, or applied by it.

        Raises `NoCover`.
        """
        if self._cover in self.state.covers:
            # A poke of this very entry may have replaced it meanwhile.
            return self._cover
        around = self.around
        for ref, cover in self.state.covers.items():
            if cover.holder == around.engine and not cover.released and around.holding(ref):
                self._cover = ref
                return ref
        for ref in self.applied:
            if around.holding(ref):
                self._append(Held(ref))
                self._cover = ref
                return ref
        raise NoCover(self.state.run)

    def set_timer(self, name: str, due: float, kind: Kind, step: str = "", attempt: int = 0) -> None:
        """A timer under a cover when it is short and there is one; otherwise it is scheduled on the server."""
        cover = ""
        if due - self.around.now <= HOLD and self.around.hold_timers:
            try:
                cover = self.cover()
            except NoCover:
                cover = ""
        self.add(TimerSet(name, due, kind, step=step, attempt=attempt, cover=cover))

    @property
    def scope(self) -> Scope:
        """What expressions see; a view, which goes on with the state."""
        if self._scope is None:
            started = self.state.started
            labels: dict[str, JSON] = dict(started.labels) if started is not None else {}
            run: dict[str, JSON] = {
                "id": self.state.run,
                "workflow": started.workflow if started is not None else "",
                "labels": labels,
            }
            given = started.input if started is not None else None
            self._scope = {"input": given, "outputs": Outputs(self.state), "trigger": None, "run": run}
        return self._scope


def _lifecycle(record: Record, n: int, index: int, state: RunState) -> Emitted | None:
    """The lifecycle event of a record, for definitions that ask for them."""
    payload: dict[str, JSON] = {"run": state.run, "workflow": state.started.workflow if state.started else ""}
    match record:
        case RunStarted():
            kind, payload["workflow"] = "started", record.workflow
        case Finished():
            kind = record.status
            if record.error is not None:
                payload["error"] = record.error.code
        case Settling() if record.compensate:
            kind = "compensating"
        case StepStarted():
            kind = "step.started"
            payload |= {"step": record.step, "attempt": record.attempt}
        case StepCompleted():
            kind = "step.completed"
            payload["step"] = record.step
        case StepFailed():
            kind = "step.retrying" if record.next == "retry" else "step.failed"
            payload |= {"step": record.step, "attempt": record.attempt, "error": record.error.code}
        case StepSkipped():
            kind = "step.skipped"
            payload["step"] = record.step
        case Cancelled():
            kind = "cancel_requested"
            payload["reason"] = record.reason
        case _:
            return None
    return Emitted(join_name("lifecycle", n, index), f"workflow.{kind}", payload)


def is_undo(unit: str) -> bool:
    return unit.startswith(UNDO)


def step_of(unit: str) -> str:
    """The step id behind a unit."""
    return unit.removeprefix(UNDO)
