"""One interpretation of every record. Folding needs no definition, no clock and no decision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple

import msgspec

from ...errors import invariant
from ...messages import (
    ActionTaken,
    Cancelled,
    Continued,
    Deferred,
    Driven,
    Emitted,
    Entry,
    Finished,
    Held,
    Kept,
    Parked,
    Paused,
    Poked,
    Record,
    Released,
    RunStarted,
    Settling,
    Snapshot,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepUnknown,
    Suspect,
    Taken,
    TimerDropped,
    TimerFired,
    TimerSet,
    UndoCompleted,
    UndoFailed,
    Undoing,
    UndoStarted,
)
from ...types import StepStatus
from ._state import RECENT_ENTRIES, UNDO, Cover, RunState, Unit


class Stamp(NamedTuple):
    """Ordinal, time and writer of the entry that a record stands in."""

    n: int
    at: float
    by: str


_decoder = msgspec.json.Decoder(RunState)


def fold_entry(state: RunState, entry: Entry, records: Sequence[Record]) -> RunState:
    """The state after `entry`, folded in place unless a snapshot replaces it. `records` may come from the entry's blob.

    A snapshot holds the state after its entry; the records behind it are that entry's own, for readers of the history.

    Raises `InvariantBroken` when the entry does not follow the state: a reader starts over then.
    """
    if records and isinstance(records[0], Snapshot):
        state = _decoder.decode(records[0].state)
        invariant(entry.n == state.n, f"entry {entry.n} holds a snapshot of {state.n} in run {state.run}")
        return state
    invariant(entry.n == state.n + 1, f"entry {entry.n} after {state.n} in run {state.run}")
    if state.n == 0:
        state.inc = entry.inc
    invariant(entry.inc == state.inc, f"entry of incarnation {entry.inc} in {state.inc} of run {state.run}")
    stamp = Stamp(entry.n, entry.at, entry.by)
    if entry.blob is not None:
        state.stored = True
    for record in records:
        apply(state, record, stamp)
    close(state, stamp, entry.sent)
    return state


def apply(state: RunState, record: Record, stamp: Stamp) -> None:
    """Folds one record in place."""
    APPLY[type(record)](state, record, stamp)


def close(state: RunState, stamp: Stamp, sent: Sequence[int] = ()) -> None:
    """Ends an entry: covers without work are gone, its ordinal is the state's."""
    state.n = stamp.n
    state.at = stamp.at
    for ordinal in sent:
        state.unsent.pop(ordinal, None)
    for ref in [ref for ref, cover in state.covers.items() if cover.work <= 0]:
        del state.covers[ref]
    state.recent.append(stamp.by)
    if len(state.recent) > RECENT_ENTRIES:
        del state.recent[0]


def copy_state(state: RunState) -> RunState:
    """An equal state that shares nothing that folding changes in place."""
    return msgspec.structs.replace(
        state,
        steps=dict(zip(state.steps, map(copy, state.steps.values()), strict=True)),
        running=state.running.copy(),
        covers=dict(zip(state.covers, map(copy, state.covers.values()), strict=True)),
        timers=state.timers.copy(),
        kept=state.kept.copy(),
        seen=state.seen.copy(),
        deferred=state.deferred.copy(),
        unsent={ordinal: emits.copy() for ordinal, emits in state.unsent.items()},
        suspects=state.suspects.copy(),
        recent=state.recent.copy(),
    )


# -- covers
def _under(state: RunState, ref: str) -> None:
    cover = state.covers.get(ref)
    invariant(cover is not None, f"work under cover {ref}, which nobody holds, in run {state.run}")
    if cover is not None:
        cover.work += 1


def _over(state: RunState, ref: str) -> None:
    cover = state.covers.get(ref)
    if cover is not None:
        cover.work -= 1
        cover.resumes = 0


def _held(state: RunState, record: Held, stamp: Stamp) -> None:
    cover = state.covers.get(record.cover)
    if cover is None:
        cover = state.covers[record.cover] = Cover(stamp.by, stamp.n)
    else:
        if not cover.released:
            cover.resumes += 1
        cover.holder, cover.epoch, cover.released = stamp.by, stamp.n, False
    for old in record.instead_of:
        replaced = state.covers.pop(old, None)
        if replaced is None:
            continue
        cover.work += replaced.work
        for unit in state.steps.values():
            if unit.cover == old:
                unit.cover = record.cover
        for name, timer in state.timers.items():
            if timer.cover == old:
                state.timers[name] = msgspec.structs.replace(timer, cover=record.cover)


def _released(state: RunState, record: Released, _: Stamp) -> None:
    cover = state.covers.get(record.cover)
    if cover is not None:
        cover.released = True


def _suspect(state: RunState, record: Suspect, _: Stamp) -> None:
    state.suspects[record.message] = state.suspects.get(record.message, 0) + 1


# -- run
def _run_started(state: RunState, record: RunStarted, stamp: Stamp) -> None:
    state.started = record
    state.started_at = stamp.at


def _driven(state: RunState, _: Driven, __: Stamp) -> None:
    state.driven = True
    state.phase = "open"


def _settling(state: RunState, record: Settling, _: Stamp) -> None:
    state.settling = record
    state.phase = "settling"
    state.parked = None
    for unit in state.steps.values():
        if unit.status is StepStatus.WAITING:
            unit.status = StepStatus.PENDING
        elif unit.status is StepStatus.RETRYING:
            unit.status = StepStatus.FAILED


def _undoing(state: RunState, record: Undoing, _: Stamp) -> None:
    state.phase = "undoing"
    state.plan = record.plan


def _paused(state: RunState, _: Paused, __: Stamp) -> None:
    state.paused = True


def _continued(state: RunState, _: Continued, __: Stamp) -> None:
    state.paused = False
    state.parked = None
    # What was deferred is decided in this very entry; its ids stay spent through what that records.
    state.deferred.clear()


def _parked(state: RunState, record: Parked, _: Stamp) -> None:
    state.parked = record


def _deferred(state: RunState, record: Deferred, _: Stamp) -> None:
    state.deferred.append(record)


def _finished(state: RunState, record: Finished, stamp: Stamp) -> None:
    state.finished = record
    state.finished_at = stamp.at
    state.phase = "finished"
    state.parked = None


# -- steps and undos
def _begin(state: RunState, name: str, record: StepStarted | UndoStarted, at: float) -> None:
    attempt, where, cover = record.attempt, record.where, record.cover
    unit = state.steps.get(name)
    if unit is None:
        unit = state.steps[name] = Unit()
    if unit.cover:
        # The same attempt moves to a task: it leaves its cover.
        _over(state, unit.cover)
    unit.status = StepStatus.WAITING if where == "wait" else StepStatus.RUNNING
    if unit.attempt != attempt or unit.started_at is None:
        unit.started_at = at
    unit.attempt, unit.where, unit.cover, unit.deadline = attempt, where, cover, record.deadline
    unit.handler = record.handler
    unit.ended_at = None
    if unit.status is StepStatus.RUNNING:
        state.running[name] = attempt
    if cover:
        _under(state, cover)


def _end(state: RunState, name: str, status: StepStatus, at: float) -> Unit:
    unit = state.steps.get(name)
    if unit is None:
        unit = state.steps[name] = Unit()
    if unit.cover:
        _over(state, unit.cover)
        unit.cover = ""
    state.running.pop(name, None)
    unit.status = status
    unit.ended_at = at
    return unit


def _order(state: RunState, unit: Unit) -> None:
    state.ended += 1
    unit.order = state.ended


def _step_started(state: RunState, record: StepStarted, stamp: Stamp) -> None:
    _begin(state, record.step, record, stamp.at)


def _step_completed(state: RunState, record: StepCompleted, stamp: Stamp) -> None:
    unit = _end(state, record.step, StepStatus.COMPLETED, stamp.at)
    unit.output, unit.error = record.output, None
    state.marked = state.marked or record.noted
    _order(state, unit)


def _step_failed(state: RunState, record: StepFailed, stamp: Stamp) -> None:
    status = {"retry": StepStatus.RETRYING, "skip": StepStatus.SKIPPED}.get(record.next, StepStatus.FAILED)
    unit = _end(state, record.step, status, stamp.at)
    unit.error = record.error
    unit.failures += 1
    state.marked = state.marked or record.noted
    if status is not StepStatus.RETRYING:
        _order(state, unit)


def _step_skipped(state: RunState, record: StepSkipped, stamp: Stamp) -> None:
    _order(state, _end(state, record.step, StepStatus.SKIPPED, stamp.at))


def _step_unknown(state: RunState, record: StepUnknown, stamp: Stamp) -> None:
    _order(state, _end(state, record.step, StepStatus.UNKNOWN, stamp.at))


def _undo_started(state: RunState, record: UndoStarted, stamp: Stamp) -> None:
    _begin(state, UNDO + record.step, record, stamp.at)


def _undo_completed(state: RunState, record: UndoCompleted, stamp: Stamp) -> None:
    unit = _end(state, UNDO + record.step, StepStatus.COMPLETED, stamp.at)
    unit.error = None
    _order(state, unit)


def _undo_failed(state: RunState, record: UndoFailed, stamp: Stamp) -> None:
    status = {"retry": StepStatus.RETRYING, "park": StepStatus.WAITING}.get(record.next, StepStatus.FAILED)
    unit = _end(state, UNDO + record.step, status, stamp.at)
    unit.error = record.error
    unit.failures += 1


# -- the rest
def _timer_set(state: RunState, record: TimerSet, _: Stamp) -> None:
    state.timers[record.name] = record
    if record.cover:
        _under(state, record.cover)


def _timer_gone(state: RunState, record: TimerFired | TimerDropped, _: Stamp) -> None:
    timer = state.timers.pop(record.name, None)
    if timer is not None and timer.cover:
        _over(state, timer.cover)


def _kept(state: RunState, record: Kept, _: Stamp) -> None:
    state.seen.add(message_id(record.name, record.id))
    state.kept.append(record)


def _taken(state: RunState, record: Taken, _: Stamp) -> None:
    state.kept = [kept for kept in state.kept if message_id(kept.name, kept.id) != record.id]


def _cancelled(state: RunState, record: Cancelled, _: Stamp) -> None:
    if state.cancelled is None:
        state.cancelled = record


def _poked(state: RunState, record: Poked, _: Stamp) -> None:
    state.poked = max(state.poked, record.sequence)


def _action(state: RunState, record: ActionTaken, _: Stamp) -> None:
    state.seen.add(action_id(record.id))
    if record.verdict != "done":
        return
    unit = state.steps.get(record.step)
    if unit is not None and record.verb == "retry":
        unit.failures = 0
        if record.step.startswith(UNDO):
            unit.status = StepStatus.RETRYING
    if unit is not None and record.verb == "skip" and record.step.startswith(UNDO):
        unit.status = StepStatus.FAILED


def _emitted(state: RunState, record: Emitted, stamp: Stamp) -> None:
    state.marked = True
    state.unsent.setdefault(stamp.n, []).append(record)


def _misplaced(state: RunState, _: Snapshot, stamp: Stamp) -> None:
    invariant(False, f"a snapshot inside entry {stamp.n} of run {state.run}")


def message_id(name: str, identity: str) -> str:
    """What tells two messages of a run apart, in `seen`."""
    return f"m:{name}:{identity}"


def action_id(identity: str) -> str:
    return f"a:{identity}"


APPLY: dict[type, Callable[[RunState, Any, Stamp], None]] = {
    RunStarted: _run_started,
    Driven: _driven,
    Settling: _settling,
    Undoing: _undoing,
    Paused: _paused,
    Continued: _continued,
    Parked: _parked,
    Deferred: _deferred,
    Finished: _finished,
    StepStarted: _step_started,
    StepCompleted: _step_completed,
    StepFailed: _step_failed,
    StepSkipped: _step_skipped,
    StepUnknown: _step_unknown,
    UndoStarted: _undo_started,
    UndoCompleted: _undo_completed,
    UndoFailed: _undo_failed,
    Held: _held,
    Released: _released,
    Suspect: _suspect,
    TimerSet: _timer_set,
    TimerFired: _timer_gone,
    TimerDropped: _timer_gone,
    Kept: _kept,
    Taken: _taken,
    Cancelled: _cancelled,
    Poked: _poked,
    ActionTaken: _action,
    Emitted: _emitted,
    Snapshot: _misplaced,
}
