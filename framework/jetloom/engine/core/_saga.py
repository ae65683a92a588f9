"""Rolling back: a journaled phase with its own cursor, backwards, through crashes."""

from __future__ import annotations

from ...errors import ErrorInfo, PayloadTooLarge
from ...messages import Parked, UndoCompleted, UndoFailed, join_name
from ...types import StepStatus
from ...workflows import Retry
from ._draft import Draft, step_of
from ._inputs import BodyEnded
from ._retry import delay_seconds, retries
from ._state import UNDO
from ._steps import begin, check_events, drop_timers_of, emit_events, handler_of


def plan_of(draft: Draft) -> tuple[str, ...]:
    """Completed and unknown steps with an undo, latest first in the journal's order."""
    state = draft.state
    if state.settling is None or not state.settling.compensate:
        return ()
    undoable = [
        (state.unit(step.id).order, step.id)
        for step in draft.definition.definition.steps
        if step.saga is not None and state.unit(step.id).status in (StepStatus.COMPLETED, StepStatus.UNKNOWN)
    ]
    return tuple(step for _, step in sorted(undoable, reverse=True))


def advance_undo(draft: Draft) -> bool:
    """Starts the next undo of the plan if its turn has come; True when the plan is done."""
    state = draft.state
    for step_id in state.plan:
        name = UNDO + step_id
        unit = state.unit(name)
        match unit.status:
            case StepStatus.COMPLETED | StepStatus.FAILED:
                continue
            case StepStatus.PENDING:
                _start(draft, step_id, 1)
                return False
            case StepStatus.RETRYING:
                if not any(timer.step == name for timer in state.timers.values()):
                    _start(draft, step_id, unit.attempt + 1)
                return False
            case _:
                return False
    return True


def _start(draft: Draft, step_id: str, attempt: int) -> None:
    saga = draft.definition.step(step_id).saga
    if saga is not None:
        begin(draft, UNDO + step_id, attempt, handler_of(saga.uses))


def undo_ended(draft: Draft, item: BodyEnded) -> None:
    try:
        check_events(draft, item.unit, item.emits)
    except PayloadTooLarge as error:
        undo_failed(draft, item.unit, item.attempt, error.to_info())
        return
    emit_events(draft, item.unit, item.emits)
    draft.add(UndoCompleted(step_of(item.unit)))
    drop_timers_of(draft, item.unit)


def undo_failed(draft: Draft, name: str, attempt: int, error: ErrorInfo, *, park: bool = False) -> None:
    """Retried by policy; then a critical undo waits for a person, another is recorded and passed."""
    step_id = step_of(name)
    saga = draft.definition.step(step_id).saga
    policy = saga.retry if saga is not None else Retry()
    failures = draft.state.unit(name).failures
    if not park and retries(policy, failures, error):
        draft.add(UndoFailed(step_id, attempt, error, "retry"))
        drop_timers_of(draft, name)
        due = draft.around.now + delay_seconds(policy, failures, error, draft.around.random)
        draft.set_timer(join_name("undo", step_id, attempt + 1), due, "undo", name, attempt + 1)
        return
    critical = park or (saga is not None and saga.is_critical)
    draft.add(UndoFailed(step_id, attempt, error, "park" if critical else "pass"))
    drop_timers_of(draft, name)
    if critical:
        draft.add(Parked("undo", name))
