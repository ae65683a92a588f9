"""What must exist because the journal says so. Derived from the entry that was just written, and again from the whole
state by whoever takes a run over: sending any of it twice is refused or harmless."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from ...messages import (
    Emitted,
    Record,
    Settling,
    StepFailed,
    StepStarted,
    TimerDropped,
    TimerSet,
    UndoFailed,
    UndoStarted,
)
from ._state import UNDO, RunState


class SendTask(msgspec.Struct, frozen=True):
    unit: str
    attempt: int
    handler: str
    deadline: float | None


class WithdrawTask(msgspec.Struct, frozen=True):
    unit: str
    attempt: int
    handler: str


class SetSchedule(msgspec.Struct, frozen=True):
    name: str
    due: float


class DropSchedule(msgspec.Struct, frozen=True):
    name: str


class PublishEvent(msgspec.Struct, frozen=True):
    """An event of entry `n`. Its marker is the event: stored once while the marker lives."""

    n: int
    event: Emitted


class SchedulePurge(msgspec.Struct, frozen=True):
    """Markers and blobs of an ended run leave after its journal has."""

    ended_at: float


type Output = SendTask | WithdrawTask | SetSchedule | DropSchedule | PublishEvent | SchedulePurge


TAKES_BACK = frozenset((TimerDropped, StepFailed, UndoFailed, Settling))
"""Records that `undone_by` has something to say about; the many others need not ask."""

_WANTS = frozenset((StepStarted, UndoStarted, TimerSet, Emitted))


def undone_by(state: RunState, record: Record) -> Iterator[Output]:
    """What `record`, which is about to be folded into `state`, takes back."""
    match record:
        case TimerDropped(name):
            timer = state.timers.get(name)
            if timer is not None and not timer.cover:
                yield DropSchedule(name)
        case StepFailed(step, attempt, error) | UndoFailed(step, attempt, error) if (
            error.code == "step.timeout"
        ):
            name = step if isinstance(record, StepFailed) else UNDO + step
            unit = state.unit(name)
            if unit.where == "task" and state.pending(name, attempt):
                yield WithdrawTask(name, attempt, unit.handler)
        case Settling():
            yield from _withdrawals(state)
        case _:
            return


def wanted_by(state: RunState, n: int, records: Iterable[Record]) -> Iterator[Output]:
    """What the entry `n`, which led to `state`, makes necessary."""
    for record in records:
        if type(record) not in _WANTS:
            continue
        match record:
            case StepStarted(step, attempt, "task") if state.pending(step, attempt):
                yield SendTask(step, attempt, record.handler, record.deadline)
            case UndoStarted(step, attempt, "task") if state.pending(UNDO + step, attempt):
                yield SendTask(UNDO + step, attempt, record.handler, record.deadline)
            case TimerSet() if not record.cover and record.name in state.timers:
                yield SetSchedule(record.name, record.due)
            case Emitted():
                yield PublishEvent(n, record)
            case _:
                continue
    if state.finished is not None:
        yield from _at_the_end(state)


def derive(state: RunState) -> Iterator[Output]:
    """All that must exist now."""
    for n, events in state.unsent.items():
        for event in events:
            yield PublishEvent(n, event)
    if state.finished is not None:
        yield from _at_the_end(state)
        return
    if state.phase == "settling":
        yield from _withdrawals(state)
    else:
        for name, unit in state.iter_attempts("task"):
            yield SendTask(name, unit.attempt, unit.handler, unit.deadline)
    for timer in state.timers.values():
        if not timer.cover:
            yield SetSchedule(timer.name, timer.due)


def _withdrawals(state: RunState) -> Iterator[Output]:
    for name, unit in state.iter_attempts("task"):
        yield WithdrawTask(name, unit.attempt, unit.handler)


def _at_the_end(state: RunState) -> Iterator[Output]:
    if state.marked or state.stored:
        yield SchedulePurge(state.finished_at)
