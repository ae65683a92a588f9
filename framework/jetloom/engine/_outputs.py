"""Making exist what the journal says must exist.

Every output has a name of its own, so that sending it again is refused or harmless. Tasks, children and schedules leave
their streams when they are consumed: before one is sent again, `ensure` looks whether it, or what it led to, is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum

from ..errors import ConditionFailed, Disconnected, OutcomeUnknown, PayloadTooLarge, Refused, RequestTimeout
from ..messages import (
    H_ACTOR,
    H_ATTEMPT,
    H_DEADLINE,
    H_HANDLER,
    H_INC,
    H_KEY,
    H_REPLY,
    H_RUN,
    H_STEP,
    H_TRACE,
    H_TRACE_STATE,
    H_VERSION,
    VERSION,
    EventHeaders,
    StopNotice,
    Task,
    UndoInput,
    encode,
    to_headers,
    to_rfc3339,
)
from ..transport import Schedule
from ..types import JSON
from ._commit import retention_of
from ._constants import OUTPUTS_AT_ONCE, PURGE_AFTER
from ._run import Run
from ._shell import Shell
from .core import (
    DropSchedule,
    Output,
    Outputs,
    PublishEvent,
    SchedulePurge,
    SendTask,
    SetSchedule,
    Unsendable,
    WithdrawTask,
    derive,
    is_undo,
    step_of,
)

PURGE_TIMER = "purge"


class Done(Enum):
    DONE = "done"
    LATER = "later"
    """No verdict, or nothing sure is held: looked at again."""
    MOVED = "moved"
    """The journal went on: fold it, and send what is still pending then."""


async def perform(shell: Shell, run: Run, *, now: float) -> bool:
    """Sends the open outputs of own entries; whether none is left open."""
    while run.outputs:
        batch = run.outputs[:OUTPUTS_AT_ONCE]
        # The first send goes out at once only under a message that was sure without a break since before the append.
        since = min((m.hold.sure_since for m in run.messages.values() if m.sure(now)), default=-1)
        sending = [
            _send(shell, run, output, ensure=not 0 <= since < before, sure=since >= 0)
            for output, before in batch
        ]
        # Most entries have one output, which needs no task of its own.
        results = await asyncio.gather(*sending) if len(sending) > 1 else [await sending[0]]
        failed = [item for item, result in zip(batch, results, strict=True) if result is not Done.DONE]
        for (output, _), result in zip(batch, results, strict=True):
            if isinstance(output, PublishEvent) and result is Done.DONE:
                _note_sent(run, output, failed)
        run.outputs[: len(batch)] = failed
        if failed:
            return False
    return True


async def derive_again(shell: Shell, run: Run, *, now: float) -> bool:
    """V: makes sure that all exists which the folded state says must exist; whether it does."""
    state = run.state
    if state is None:
        return False
    wanted = list(derive(state))
    sure = any(message.sure(now) for message in run.messages.values())
    for start in range(0, len(wanted), OUTPUTS_AT_ONCE):
        batch = wanted[start : start + OUTPUTS_AT_ONCE]
        results = await asyncio.gather(
            *(_send(shell, run, output, ensure=True, sure=sure) for output in batch)
        )
        if any(result is not Done.DONE for result in results):
            return False
    run.sent.update(state.unsent)
    run.derived, run.doubtful = True, False
    return True


def _note_sent(run: Run, output: PublishEvent, failed: Sequence[tuple[Output, int]]) -> None:
    waiting = [item for item, _ in (*run.outputs[OUTPUTS_AT_ONCE:], *failed)]
    if not any(isinstance(item, PublishEvent) and item.n == output.n for item in waiting):
        run.sent.add(output.n)


async def _send(shell: Shell, run: Run, output: Output, *, ensure: bool, sure: bool) -> Done:
    try:
        match output:
            case SendTask():
                return await _task(shell, run, output, ensure=ensure, sure=sure)
            case WithdrawTask():
                await _withdraw(shell, run, output)
            case SetSchedule():
                return await _schedule(shell, run, output, ensure=ensure)
            case DropSchedule(name):
                subject = shell.names.timer(run.id, run.inc, name)
                await shell.transport.purge(shell.names.timers_stream(shell.names.shard(run.id)), subject)
            case PublishEvent():
                await _event(shell, run, output)
            case SchedulePurge(ended_at):
                await _set(shell, run, PURGE_TIMER, ended_at + retention_of(run) + PURGE_AFTER)
    except PayloadTooLarge as error:
        # Only a task can be: events are checked before they are journaled. Its attempt fails by name.
        if isinstance(output, SendTask):
            run.unsendable.append(Unsendable(output.unit, output.attempt, error.to_info()))
            run.wake.set()
        return Done.LATER
    except ConditionFailed:
        shell.count("jetloom_outputs_total", kind=type(output).__name__, outcome="present")
        return Done.DONE
    except (OutcomeUnknown, RequestTimeout, Disconnected, Refused):
        # Refused: a full stream. The run keeps its messages, and asks again until there is room.
        shell.count("jetloom_outputs_total", kind=type(output).__name__, outcome="failed")
        return Done.LATER
    shell.count("jetloom_outputs_total", kind=type(output).__name__, outcome="sent")
    return Done.DONE


# -- tasks
async def _task(shell: Shell, run: Run, task: SendTask, *, ensure: bool, sure: bool) -> Done:
    state = run.state
    if state is None or not state.pending(task.unit, task.attempt):
        return Done.DONE
    if not sure or run.compiled is None:
        # Without the definition nobody can say what the input is.
        return Done.LATER
    names, transport = shell.names, shell.transport
    subject = names.task(task.handler, run.id, state.inc, task.unit, task.attempt)
    reply = names.result(run.id, task.handler, state.inc, task.unit, task.attempt)
    if ensure:
        if await transport.last(names.tasks_stream, subject) is not None:
            return Done.DONE
        if await transport.last(names.mailbox_stream(names.shard(run.id)), reply) is not None:
            return Done.DONE
        if await shell.journals.tail(run.id) != run.last:
            run.hinted = True
            run.wake.set()
            return Done.MOVED
    headers = {
        H_VERSION: VERSION,
        H_RUN: run.id,
        H_INC: str(state.inc),
        H_STEP: task.unit,
        H_ATTEMPT: str(task.attempt),
        H_HANDLER: task.handler,
        H_KEY: f"{run.id}.{state.inc}.{task.unit}",
        H_REPLY: reply,
    }
    if state.started is not None:
        headers[H_ACTOR] = str(state.started.actor)
        for name, value in ((H_TRACE, state.started.trace), (H_TRACE_STATE, state.started.trace_state)):
            if value:
                headers[name] = value
    if task.deadline is not None:
        headers[H_DEADLINE] = to_rfc3339(task.deadline)
    appended = await transport.append(
        subject,
        encode(Task(input_of(run, task.unit, task.attempt))),
        headers=headers,
        expected=0,
        message_id=f"{run.id}.{state.inc}.{task.unit}.{task.attempt}",
    )
    if appended.duplicate:
        # The stream knows the id, which says that it was stored, not that it is: it is looked for, and sent once the
        # stream has forgotten it.
        return Done.LATER if ensure else await _task(shell, run, task, ensure=True, sure=sure)
    run.inputs.pop((task.unit, task.attempt), None)
    return Done.DONE


def input_of(run: Run, unit: str, attempt: int) -> JSON:
    """What a unit's body gets: derived from the journal, so the same on every engine and every attempt."""
    state, compiled = run.state, run.compiled
    if state is None or compiled is None or state.started is None:
        return None
    known = run.inputs.get((unit, attempt))
    if known is not None:
        return known
    labels: dict[str, JSON] = dict(state.started.labels)
    value = compiled.input_of(
        step_of(unit),
        input=state.started.input,
        outputs=Outputs(state),
        trigger=None,
        run={"id": state.run, "workflow": state.started.workflow, "labels": labels},
    )
    if not is_undo(unit):
        return value
    done = state.unit(step_of(unit))
    outcome = "completed" if done.status == "completed" else "unknown"
    return {"input": value, "output": done.output, "outcome": outcome}


async def _withdraw(shell: Shell, run: Run, task: WithdrawTask) -> None:
    subject = shell.names.task(task.handler, run.id, run.inc, task.unit, task.attempt)
    await shell.transport.purge(shell.names.tasks_stream, subject)
    notice = StopNotice(run.id, run.inc, task.unit, task.attempt)
    await shell.transport.publish(shell.names.stop(task.handler), encode(notice))


# -- timers
async def _schedule(shell: Shell, run: Run, timer: SetSchedule, *, ensure: bool) -> Done:
    state = run.state
    if state is None or timer.name not in state.timers:
        return Done.DONE
    if ensure:
        stream = shell.names.timers_stream(shell.names.shard(run.id))
        for subject in (
            shell.names.timer(run.id, state.inc, timer.name),
            shell.names.wake(run.id, state.inc, timer.name),
        ):
            if await shell.transport.last(stream, subject) is not None:
                return Done.DONE
        if await shell.journals.tail(run.id) != run.last:
            run.hinted = True
            run.wake.set()
            return Done.MOVED
    await _set(shell, run, timer.name, timer.due)
    return Done.DONE


async def _set(shell: Shell, run: Run, name: str, due: float) -> None:
    wake = shell.names.wake(run.id, run.inc, name)
    await shell.transport.append(
        shell.names.timer(run.id, run.inc, name),
        b"",
        expected=0,
        schedule=Schedule(f"@at {to_rfc3339(due)}", wake),
    )


# -- events
async def _event(shell: Shell, run: Run, output: PublishEvent) -> None:
    state, event = run.state, output.event
    if state is None:
        return
    headers = EventHeaders(
        id=f"{run.id}.{state.inc}.{event.key}",
        type=event.type,
        source=f"workflow/{run.workflow}",
        time=state.at,
        actor=state.started.actor if state.started is not None else None,
        trace=state.started.trace if state.started is not None else "",
        correlation=run.id,
    )
    subject = shell.names.emit(run.id, state.inc, event.key, event.type)
    await shell.transport.append(subject, encode(event.payload), headers=to_headers(headers), expected=0)


__all__ = ["PURGE_TIMER", "Done", "UndoInput", "derive_again", "input_of", "perform"]
