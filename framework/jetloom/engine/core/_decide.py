"""The decision: inputs and a state in, records out. Pure: time, randomness and what is held arrive as `Surroundings`.

`decide` reacts to each input, then `advance` looks at the state as a whole and starts whatever may start. Nothing is
remembered to be done "when it happens": what a crash interrupts is found again by looking at the state.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ...errors import ErrorClass, ErrorInfo, JetloomError
from ...messages import (
    Action,
    ActionTaken,
    Cancel,
    Cancelled,
    Continued,
    Deferred,
    Driven,
    Finished,
    Held,
    Kept,
    MailboxAddress,
    Parked,
    Paused,
    Poked,
    Released,
    Result,
    RunMessage,
    RunStarted,
    Start,
    StepUnknown,
    Suspect,
    Taken,
    TimerDropped,
    TimerFired,
    Undoing,
    encode,
    join_name,
)
from ...types import StepStatus
from ._covers import RESUMES_MAX, changes, elsewhere, refuses
from ._draft import Draft, is_undo, step_of
from ._fold import message_id
from ._inputs import (
    Arrived,
    BodyEnded,
    Definition,
    Input,
    Release,
    Suspected,
    TakeOver,
    TimerDue,
    Unsendable,
    body_as_json,
    decode_body,
)
from ._saga import advance_undo, plan_of, undo_ended, undo_failed
from ._settle import settle
from ._state import RunState
from ._steps import begin, complete, fail, skip, start_step

DEFERRED_MAX = 1_000


def decide(draft: Draft, inputs: Iterable[Input], *, room: int) -> int:
    """Reacts to whole inputs while they fit `room` bytes, then advances; how many it took, at least one.

    The records of one input above `room` go to a blob: half an input's records would make its message spent and leave
    the rest without a lawful cover. Raises `NoCover`.
    """
    taken = 0
    for item in inputs:
        size = item.size if isinstance(item, Arrived | BodyEnded) else 256
        if taken and draft.weight + size > room:
            break
        draft.weight += size
        taken += 1
        _react(draft, item)
    advance(draft)
    return taken


def adopt(draft: Draft, start: Start, inc: int, message: Arrived) -> None:
    """A run that is not driven only records what it is told; a cancel ends it. Its start still waits."""
    draft.state.inc = inc
    draft.add(_run_started(draft, start))
    if isinstance(message.body, Cancel):
        draft.applied.append(message.ref)
        cancel = message.body
        draft.add(Cancelled(message.address.id, cancel.reason, cancel.actor, cancel.compensate))
        draft.add(Finished("cancelled", error=_cancel_error(cancel)))
    elif isinstance(message.body, RunMessage):
        draft.applied.append(message.ref)
        _keep(draft, message.address, message.body)
    elif isinstance(message.body, Action):
        draft.applied.append(message.ref)
        _act(draft, message.address.id, message.body)
    elif message.address.kind == "poke":
        # Recorded also when it has nothing to do: another engine that holds it must not take it for a cover later.
        draft.applied.append(message.ref)
        draft.add(Poked(message.sequence))


def _react(draft: Draft, item: Input) -> None:
    state = draft.state
    if state.finished is not None:
        return
    match item:
        case Arrived():
            _arrived(draft, item)
        case BodyEnded():
            _body_ended(draft, item)
        case Unsendable(unit, attempt, error):
            if state.unit(unit).where == "task":
                _ended(draft, BodyEnded(unit, attempt, error=error))
        case TimerDue(name):
            timer = state.timers.get(name)
            if timer is not None and timer.cover and timer.due <= draft.around.now:
                _fire(draft, name)
        case TakeOver(ref):
            _take_over(draft, ref)
        case Suspected(ref, poison):
            _suspected(draft, item, ref, poison)
        case Definition():
            _definition_came(draft)
        case Release(refs):
            for ref in refs:
                if state.holds(ref, draft.around.engine):
                    draft.add(Released(ref))


# -- messages
def _arrived(draft: Draft, item: Arrived) -> None:
    state = draft.state
    if state.n == 0 and not draft.records:
        if not isinstance(item.body, Start):
            return
        draft.state.inc = item.sequence
        draft.applied.append(item.ref)
        draft.add(_run_started(draft, item.body))
        _drive(draft)
        return
    if elsewhere(state, item) or not changes(state, item):
        return
    draft.applied.append(item.ref)
    if draft.compiled is None and item.address.kind != "poke" and not _cancels_nothing(state, item):
        _defer(draft, item)
        return
    if draft.compiled is not None and state.parked is not None and state.parked.reason == "definition":
        # What waited came first; and no decision of a person may end the waiting in its place.
        _definition_came(draft)
        if not changes(state, item):
            return
    _apply_message(draft, item)


def _cancels_nothing(state: RunState, item: Arrived) -> bool:
    """A cancel that no undo can follow needs no definition; any other waits for it, to roll back what was done."""
    return item.address.kind == "cancel" and not state.steps


def _apply_message(draft: Draft, item: Arrived) -> None:
    address, body = item.address, item.body
    match body:
        case Start():
            _drive(draft)
        case Result():
            _result(draft, address, body, item.size)
        case RunMessage():
            _keep(draft, address, body)
        case Cancel():
            _cancel(draft, address, body)
        case Action():
            _act(draft, address.id, body)
        case None if address.kind == "poke":
            draft.add(Poked(item.sequence))
            lost = tuple(ref for ref in item.lost if ref in draft.state.covers)
            if lost:
                draft.add(Held(item.ref, instead_of=lost))
                _move_unserved(draft, item.ref)
        case None:
            _fire(draft, address.name)


def _run_started(draft: Draft, start: Start) -> RunStarted:
    return RunStarted(
        start.workflow,
        start.fingerprint or (draft.compiled.fingerprint if draft.compiled is not None else ""),
        start.hash,
        start.nonce,
        input=start.input,
        actor=start.actor,
        labels=start.labels,
        not_before=start.not_before,
        timeout=start.timeout,
        parent=start.parent,
        notify=start.notify,
        trace=start.trace,
        trace_state=start.trace_state,
    )


def _drive(draft: Draft) -> None:
    draft.add(Driven())
    if draft.compiled is None:
        draft.add(Parked("definition"))
        return
    _set_out(draft)


def _set_out(draft: Draft) -> None:
    """What a run begins with once its definition is known: its timers, and the check of its input."""
    started, now = draft.state.started, draft.around.now
    if started is None or draft.compiled is None:
        return
    definition = draft.compiled.definition
    timeout = started.timeout if started.timeout is not None else definition.timeout
    begins = max(now, started.not_before or now)
    if timeout is not None:
        draft.set_timer("run", begins + timeout, "run")
    if started.not_before is not None and started.not_before > now:
        draft.set_timer("start", started.not_before, "start")
    try:
        draft.compiled.check_input(started.input)
    except JetloomError as error:
        settle(draft, "failed", error.to_info(), compensate=False)


def _defer(draft: Draft, item: Arrived) -> None:
    if len(draft.state.deferred) < DEFERRED_MAX:
        subject = msgspec.json.encode(item.address._asdict()).decode()
        draft.add(Deferred(item.ref, subject, body_as_json(item.body)))
    if draft.state.parked is None:
        draft.add(Parked("definition"))


def _definition_came(draft: Draft) -> None:
    state = draft.state
    if state.parked is None or state.parked.reason != "definition":
        return
    deferred = list(state.deferred)
    draft.add(Continued())
    if draft.compiled is not None and state.phase == "open" and not state.steps and not state.timers:
        # It was driven by an engine that did not know the definition.
        _set_out(draft)
    for record in deferred:
        address = MailboxAddress(**msgspec.json.decode(record.subject))
        item = Arrived(record.message, 0, address, decode_body(address, encode(record.body)))
        if changes(state, item):
            _apply_message(draft, item)


def _result(draft: Draft, address: MailboxAddress, result: Result, size: int) -> None:
    _ended(
        draft,
        BodyEnded(
            address.step,
            address.attempt,
            output=result.output,
            emits=result.emits,
            error=None
            if result.outcome == "ok"
            else result.error or ErrorInfo("task.failed", "no error was given"),
            cancelled=result.error is not None and result.error.code == "step.cancelled",
            noted=result.noted,
            size=size,
        ),
    )


def _keep(draft: Draft, address: MailboxAddress, message: RunMessage) -> None:
    draft.add(Kept(address.id, address.name, message.payload, message.actor))
    if draft.compiled is None or draft.state.phase != "open":
        return
    for step in draft.compiled.definition.steps:
        if (
            step.wait is not None
            and step.wait.message == address.name
            and draft.state.unit(step.id).status is StepStatus.WAITING
        ):
            take_message(draft, step.id, address.name)
            return


def take_message(draft: Draft, step: str, name: str) -> bool:
    """Gives the first kept message of that name, in mailbox order, to a waiting step."""
    for kept in draft.state.kept:
        if kept.name == name:
            draft.add(Taken(message_id(kept.name, kept.id), step))
            complete(draft, step, kept.payload)
            return True
    return False


def _cancel(draft: Draft, address: MailboxAddress, cancel: Cancel) -> None:
    draft.add(Cancelled(address.id, cancel.reason, cancel.actor, cancel.compensate))
    state = draft.state
    if state.phase in ("settling", "undoing"):
        return
    if state.phase == "new" or draft.compiled is None:
        _drop_timers(draft)
        draft.add(Finished("cancelled", error=_cancel_error(cancel)))
        return
    compensate = cancel.compensate
    if compensate is None:
        compensate = draft.definition.definition.on_cancel == "compensate"
    settle(draft, "cancelled", _cancel_error(cancel), compensate=compensate)


def _cancel_error(cancel: Cancel) -> ErrorInfo:
    return ErrorInfo("run.cancelled", cancel.reason or f"cancelled by {cancel.actor}", ErrorClass.TERMINAL)


def _act(draft: Draft, identity: str, action: Action) -> None:
    state = draft.state
    refused = refuses(state, action)
    step = action.step or (state.parked.step if state.parked is not None else "")
    taken = ActionTaken(identity, action.verb, step, action.actor, refused or "done", action.reason)
    if refused:
        draft.add(taken)
        return
    draft.add(taken)
    if action.verb == "pause":
        draft.add(Paused())
        return
    paused, parked = state.paused, state.parked
    draft.add(Continued())
    # Each verb ends one of the two: a resumed run may still wait for a person, and a decided one may be paused.
    if action.verb == "resume" and parked is not None:
        draft.add(parked)
    elif action.verb != "resume" and paused:
        draft.add(Paused())
    if action.verb == "skip" and not is_undo(step):
        for name, unit in list(state.steps.items()):
            if unit.status is StepStatus.UNKNOWN:
                skip(draft, name, "action")


# -- what happens in this process
def _body_ended(draft: Draft, item: BodyEnded) -> None:
    unit = draft.state.unit(item.unit)
    if unit.where != "here" or not draft.state.holds(unit.cover, draft.around.engine):
        return
    _ended(draft, item)


def _ended(draft: Draft, item: BodyEnded) -> None:
    """An attempt ended, wherever it ran."""
    state = draft.state
    if not state.pending(item.unit, item.attempt):
        return
    if is_undo(item.unit):
        if item.error is None and not item.cancelled:
            undo_ended(draft, item)
        else:
            undo_failed(draft, item.unit, item.attempt, item.error or ErrorInfo("step.cancelled", "stopped"))
        return
    if state.phase == "settling" and item.cancelled:
        draft.add(StepUnknown(item.unit, item.attempt))
    elif item.error is None and not item.cancelled:
        complete(draft, item.unit, item.output, item.emits, noted=item.noted)
    else:
        error = item.error or ErrorInfo("step.cancelled", "the body was cancelled")
        fail(draft, item.unit, item.attempt, error, noted=item.noted)


def _take_over(draft: Draft, ref: str) -> None:
    state = draft.state
    cover = state.covers.get(ref)
    if cover is None:
        return
    draft.add(Held(ref))
    units = [(name, unit) for name, unit in state.iter_attempts("here") if unit.cover == ref]
    if cover.resumes > RESUMES_MAX:
        _crash_loop(draft, ref, [name for name, _ in units])
        return
    _move_unserved(draft, ref)


def _move_unserved(draft: Draft, ref: str) -> None:
    """What this engine took over and can't run itself becomes a task of the same attempt."""
    state = draft.state
    if draft.compiled is None or state.phase == "settling":
        return
    for name, unit in state.iter_attempts("here"):
        if unit.cover == ref and not draft.around.serves(unit.handler):
            begin(draft, name, unit.attempt, unit.handler, where="task")


def _crash_loop(draft: Draft, ref: str, units: list[str]) -> None:
    """Whoever takes this work dies of it: a person decides. Its timers go on, on the server."""
    for timer in [timer for timer in draft.state.timers.values() if timer.cover == ref]:
        draft.add(TimerDropped(timer.name))
        again = join_name(timer.name, "n", draft.stamp.n)
        draft.add(msgspec.structs.replace(timer, name=again, cover=""))
    for name in units:
        unit = draft.state.unit(name)
        if is_undo(name):
            undo_failed(draft, name, unit.attempt, ErrorInfo("run.crash_loop", "its engines died"), park=True)
        else:
            draft.add(StepUnknown(name, unit.attempt))
    if draft.state.parked is None and draft.state.phase != "settling":
        draft.add(Parked("crash_loop", step_of(units[0]) if units else ""))


def _suspected(draft: Draft, item: Suspected, ref: str, poison: bool) -> None:
    if draft.state.n == 0 and not draft.records:
        if item.start is None:
            return
        draft.state.inc = item.sequence
        draft.add(_run_started(draft, item.start))
    if poison:
        if draft.state.phase == "new":
            error = ErrorInfo("run.poison", "its engines died while they started it", ErrorClass.TERMINAL)
            draft.add(Finished("failed", error=error))
        return
    draft.add(Suspect(ref))


# -- timers
def _fire(draft: Draft, name: str) -> None:
    state = draft.state
    timer = state.timers[name]
    draft.add(TimerFired(name))
    match timer.kind:
        case "sleep":
            complete(draft, timer.step, None)
        case "timeout":
            _timed_out(draft, timer.step, timer.attempt)
        case "run":
            error = ErrorInfo("run.timeout", "the run took longer than its timeout", ErrorClass.TERMINAL)
            settle(draft, "failed", error, compensate=True)
        case "retry":
            draft.frontier.again.append(timer.step)
        case "grace":
            for unit, attempt in state.iter_attempts():
                if not is_undo(unit):
                    draft.add(StepUnknown(unit, attempt.attempt))
        case "start" | "undo":
            pass  # `advance` finds what waited for it


def _timed_out(draft: Draft, step: str, attempt: int) -> None:
    unit = draft.state.unit(step)
    if unit.status is StepStatus.WAITING and not is_undo(step):
        wait = draft.definition.step(step).wait
        if wait is not None and wait.on_timeout == "skip":
            skip(draft, step, "timeout")
            return
        error = ErrorInfo(
            "wait.timeout", f"step {step!r} waited longer than its timeout", ErrorClass.TERMINAL
        )
        fail(draft, step, attempt, error)
    elif draft.state.pending(step, attempt):
        error = ErrorInfo("step.timeout", f"{step!r} took longer than its timeout", ErrorClass.RETRYABLE)
        if is_undo(step):
            undo_failed(draft, step, attempt, error)
        else:
            fail(draft, step, attempt, error)


# -- the run as a whole
def advance(draft: Draft) -> None:
    """Starts whatever the state allows, until it allows nothing more."""
    state = draft.state
    if draft.compiled is None or state.n + len(draft.records) == 0:
        return
    if state.phase == "open":
        _advance_open(draft)
    if state.phase == "settling" and not state.running:
        if "grace" in state.timers:
            draft.add(TimerDropped("grace"))
        plan = plan_of(draft)
        if plan:
            draft.add(Undoing(plan))
        else:
            _finish(draft)
    if state.phase == "undoing" and not state.paused and state.parked is None and advance_undo(draft):
        _finish(draft)


def _advance_open(draft: Draft) -> None:
    state, frontier = draft.state, draft.frontier
    if state.paused or state.parked is not None or "start" in state.timers:
        return
    while frontier.again and state.phase == "open":
        step = frontier.again.pop(0)
        unit = state.unit(step)
        if unit.status in (StepStatus.RETRYING, StepStatus.UNKNOWN):
            handler = unit.handler or draft.definition.step(step).uses or ""
            start_step(draft, step, unit.attempt + 1, handler)
    while frontier.ready and state.phase == "open":
        step_id = frontier.ready.pop(0)
        unit = state.steps.get(step_id)
        if unit is None or unit.status is StepStatus.PENDING:
            start_step(draft, step_id, 1, "")
            if state.kept:
                _take_kept(draft, step_id)
    if state.phase == "open" and frontier.left == 0:
        _complete_run(draft)


def _take_kept(draft: Draft, step_id: str) -> None:
    wait = draft.definition.step(step_id).wait
    waiting = draft.state.unit(step_id).status is StepStatus.WAITING
    if waiting and wait is not None and wait.message is not None:
        take_message(draft, step_id, wait.message)


def _complete_run(draft: Draft) -> None:
    try:
        output = draft.definition.output_of(**draft.scope)
        draft.definition.check_output(output)
    except JetloomError as error:
        settle(draft, "failed", error.to_info(), compensate=True)
        return
    _drop_timers(draft)
    draft.add(Finished("completed", output=output))


def _finish(draft: Draft) -> None:
    settling = draft.state.settling
    if settling is None:
        return
    _drop_timers(draft)
    draft.add(Finished(settling.status, error=settling.error))


def _drop_timers(draft: Draft) -> None:
    for name in list(draft.state.timers):
        draft.add(TimerDropped(name))
