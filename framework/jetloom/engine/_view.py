"""A run's journal, for people: its status, its step table, what it waits for, its entries as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from ..errors import ErrorInfo
from ..messages import Entry, decode_entry
from ..runtime import JournalLine, RunView, StepView
from ..stores import Line
from ..types import JSON, RunStatus, StepStatus
from ..workflows import Compiled, Step
from ._commit import unpack_history
from ._run import strip_snapshot
from .core import UNDO, RunState, Unit, fold_entry, handler_of


def fold_lines(run: str, lines: Sequence[Line]) -> RunState:
    """The state that these lines fold into; n = 0 without any."""
    state = RunState(run)
    for line in lines:
        state = fold_entry(state, line.entry, line.records)
    return state


def entries_of(lines: Sequence[Line]) -> list[Entry]:
    """Every entry of a run, oldest first: those inside a snapshot's history too."""
    entries: list[Entry] = []
    for line in lines:
        snapshot = line.snapshot
        if snapshot is not None:
            entries = [decode_entry(part) for part in unpack_history(snapshot) if part]
        entries.append(strip_snapshot(line))
    return entries


def journal_lines(lines: Sequence[Line], after: int) -> list[JournalLine]:
    """The entries above ordinal `after`, with their records as plain data."""
    return [
        JournalLine(
            entry.n,
            entry.at,
            entry.by,
            cast("list[dict[str, JSON]]", msgspec.to_builtins(list(entry.records))),
        )
        for entry in entries_of(lines)
        if entry.n > after
    ]


def view_of(state: RunState, compiled: Compiled | None) -> RunView:
    """What is known of one run. Steps come in the definition's order, undos behind their steps."""
    started, finished = state.started, state.finished
    return RunView(
        run=state.run,
        inc=state.inc,
        workflow=started.workflow if started is not None else "",
        status=state.status,
        n=state.n,
        version=compiled.definition.version if compiled is not None else "",
        fingerprint=started.fingerprint if started is not None else "",
        started_at=state.started_at or None,
        ended_at=state.finished_at or None,
        input=started.input if started is not None else None,
        output=finished.output if finished is not None else None,
        error=_error(state),
        actor=started.actor if started is not None else None,
        labels=dict(started.labels) if started is not None else {},
        waits_for=waits_of(state, compiled),
        steps=_steps(state, compiled),
    )


def _error(state: RunState) -> ErrorInfo | None:
    if state.finished is not None:
        return state.finished.error
    return state.settling.error if state.settling is not None else None


def _steps(state: RunState, compiled: Compiled | None) -> list[StepView]:
    ids = [step.id for step in compiled.definition.steps] if compiled is not None else []
    ids += [name for name in state.steps if not name.startswith(UNDO) and name not in set(ids)]
    views: list[StepView] = []
    for step_id in ids:
        step = compiled.definition.step(step_id) if compiled is not None else None
        views.append(_step(state, step_id, step))
        undo = state.steps.get(UNDO + step_id)
        if undo is not None:
            views.append(_undo(step_id, undo, step))
    return views


def _step(state: RunState, step_id: str, step: Step | None) -> StepView:
    unit = state.unit(step_id)
    status = unit.status
    undo = state.steps.get(UNDO + step_id)
    if undo is not None:
        done = undo.status is StepStatus.COMPLETED
        status = StepStatus.COMPENSATED if done else StepStatus.COMPENSATING
    return StepView(
        id=step_id,
        status=status,
        attempt=unit.attempt,
        uses=(step.uses or "") if step is not None else unit.handler,
        where=unit.where,
        started_at=unit.started_at,
        ended_at=unit.ended_at,
        output=unit.output,
        error=unit.error,
        waits_for=_waits(state, step_id, unit, step),
    )


def _undo(step_id: str, unit: Unit, step: Step | None) -> StepView:
    uses = handler_of(step.saga.uses) if step is not None and step.saga is not None else unit.handler
    return StepView(
        id=UNDO + step_id,
        status=unit.status,
        attempt=unit.attempt,
        uses=uses,
        where=unit.where,
        started_at=unit.started_at,
        ended_at=unit.ended_at,
        error=unit.error,
    )


def _waits(state: RunState, step_id: str, unit: Unit, step: Step | None) -> str:
    if unit.status is StepStatus.RUNNING and unit.where == "task":
        return f"a worker of {unit.handler}"
    if unit.status is StepStatus.WAITING:
        if step is not None and step.wait is not None and step.wait.message is not None:
            return f"message {step.wait.message}"
        return "a timer"
    if unit.status is StepStatus.RETRYING:
        return "a retry's delay"
    return ""


def waits_of(state: RunState, compiled: Compiled | None) -> list[str]:
    """What an unfinished run waits for, in words."""
    if state.finished is not None:
        return []
    found: list[str] = []
    if state.parked is not None:
        about = f" because of {state.parked.step}" if state.parked.step else ""
        if state.parked.reason == "definition":
            found.append("its definition, which is not registered")
        else:
            found.append(f"a person ({state.parked.reason}){about}")
    if state.paused:
        found.append("being resumed")
    for name, unit in state.steps.items():
        step = None
        if compiled is not None and not name.startswith(UNDO):
            step = next((item for item in compiled.definition.steps if item.id == name), None)
        reason = _waits(state, name, unit, step)
        if reason:
            found.append(f"{name}: {reason}")
    if state.status is RunStatus.PENDING:
        found.append("its start")
    return found
