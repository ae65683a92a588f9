"""Starting and ending steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ...errors import ErrorInfo, JetloomError, PayloadTooLarge
from ...messages import (
    EmitRequest,
    Emitted,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
    TimerDropped,
    UndoStarted,
    encode,
    escape_token,
    join_name,
)
from ...types import JSON, StepStatus
from ...workflows import Step
from ._draft import Draft, is_undo, step_of
from ._retry import delay_seconds, retries
from ._settle import settle


def start_step(draft: Draft, step_id: str, attempt: int, handler: str) -> None:
    """Starts the next attempt of a step whose turn it is, or ends it at once when there is nothing to run."""
    compiled = draft.definition
    step = compiled.step(step_id)
    try:
        if attempt == 1 and step.when is not None and not compiled.when(step_id, **draft.scope):
            skip(draft, step_id, "when")
            return
        value = compiled.input_of(step_id, **draft.scope)
        if step.wait is not None:
            _start_wait(draft, step)
        elif step.uses is None:
            complete(draft, step_id, value)
        else:
            draft.inputs[(step_id, attempt)] = value
            begin(draft, step_id, attempt, handler or handler_of(step.uses))
    except JetloomError as error:
        fail(draft, step_id, attempt, error.to_info())


def begin(draft: Draft, unit: str, attempt: int, handler: str, where: str = "") -> None:
    """Journals the start of an attempt: here when the handler is in this process, as a task otherwise."""
    around = draft.around
    undo = is_undo(unit)
    step = draft.definition.step(step_of(unit) if undo else unit)
    timeout = step.timeout
    if undo:
        timeout = step.saga.timeout if step.saga is not None else None
    deadline = around.now + timeout if timeout is not None else None
    local = where != "task" and around.serves(handler)
    cover = draft.cover() if local else ""
    if undo:
        draft.add(UndoStarted(step.id, attempt, "here" if local else "task", handler, cover, deadline))
    else:
        draft.add(StepStarted(step.id, attempt, "here" if local else "task", handler, cover, deadline))
    if deadline is not None and not local:
        draft.set_timer(
            join_name("timeout", unit, attempt, draft.stamp.n), deadline, "timeout", unit, attempt
        )


def _start_wait(draft: Draft, step: Step) -> None:
    wait = step.wait
    if wait is None:
        return
    draft.add(StepStarted(step.id, 1, "wait"))
    now = draft.around.now
    if wait.message is not None:
        if wait.timeout is not None:
            draft.set_timer(join_name("timeout", step.id, 1), now + wait.timeout, "timeout", step.id, 1)
        return
    seconds = draft.definition.wait_seconds(step.id, **draft.scope)
    draft.set_timer(join_name("sleep", step.id, 1), now + max(0.0, seconds), "sleep", step.id, 1)


def complete(
    draft: Draft, step_id: str, output: JSON, emits: Sequence[EmitRequest] = (), *, noted: bool = False
) -> None:
    """A step gave its output: its events and its completion stand in one entry. Raises what a schema or expression
    says.
    """
    compiled = draft.definition
    unit = draft.state.unit(step_id)
    try:
        compiled.check_step_output(step_id, output)
        if compiled.step(step_id).emit:
            declared = compiled.emits_of(step_id, **draft.scope, output=output)
            emits = [*emits, *(EmitRequest(kind, payload, key or "") for kind, payload, key in declared)]
        if emits:
            check_events(draft, step_id, emits)
    except JetloomError as error:
        if unit.status is StepStatus.PENDING:
            raise
        fail(draft, step_id, unit.attempt, error.to_info())
        return
    if emits:
        emit_events(draft, step_id, emits)
    draft.add(StepCompleted(step_id, output, noted=noted))
    drop_timers_of(draft, step_id)


def check_events(draft: Draft, unit: str, emits: Sequence[EmitRequest]) -> None:
    """Raises `PayloadTooLarge`: what is journaled must be publishable, or its run would never come to rest."""
    limit = draft.around.payload_max
    for emit in emits:
        size = len(encode(emit.payload))
        if size > limit:
            raise PayloadTooLarge(f"event {emit.type} of {unit!r}", size, limit)


def emit_events(draft: Draft, unit: str, emits: Sequence[EmitRequest]) -> None:
    """Events travel in the entry that ends what emitted them; without a key they get the unit and the call's index."""
    for index, emit in enumerate(emits):
        key = escape_token(emit.key) if emit.key else join_name(unit, index)
        draft.add(Emitted(key, emit.type, emit.payload))


def fail(draft: Draft, step_id: str, attempt: int, error: ErrorInfo, *, noted: bool = False) -> None:
    """An attempt failed: retry, or skip the step, or end the run."""
    state = draft.state
    step = draft.definition.step(step_id)
    if state.phase != "open":
        draft.add(StepFailed(step_id, attempt, error, "settle", noted=noted))
        drop_timers_of(draft, step_id)
        return
    unit = state.unit(step_id)
    failures = unit.failures
    if step.wait is None and retries(step.retry, failures, error):
        draft.add(StepFailed(step_id, attempt, error, "retry", noted=noted))
        drop_timers_of(draft, step_id)
        due = draft.around.now + delay_seconds(step.retry, failures, error, draft.around.random)
        draft.set_timer(join_name("retry", step_id, attempt + 1), due, "retry", step_id, attempt + 1)
        return
    if step.on_error == "skip":
        draft.add(StepFailed(step_id, attempt, error, "skip", noted=noted))
        drop_timers_of(draft, step_id)
        return
    draft.add(StepFailed(step_id, attempt, error, "fail", noted=noted))
    drop_timers_of(draft, step_id)
    settle(draft, "failed", _because(step_id, error), compensate=True)


def skip(draft: Draft, step_id: str, reason: Literal["when", "on_error", "timeout", "action"]) -> None:
    draft.add(StepSkipped(step_id, reason))
    drop_timers_of(draft, step_id)


def drop_timers_of(draft: Draft, unit: str) -> None:
    """Drops what still waits for this unit."""
    if draft.state.timers:
        for timer in [timer for timer in draft.state.timers.values() if timer.step == unit]:
            draft.add(TimerDropped(timer.name))


def _because(step_id: str, error: ErrorInfo) -> ErrorInfo:
    details = dict(error.details or {})
    details.setdefault("step", step_id)
    return ErrorInfo(error.code, error.message, error.error_class, error.retry_after_ms, details)


def handler_of(uses: str) -> str:
    """The handler of `handler@version`."""
    return uses.partition("@")[0]
