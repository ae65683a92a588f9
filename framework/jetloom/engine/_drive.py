"""Driving one run: one loop, one append in flight.

Each turn looks at the state, in an order that never changes: start what may start, decide about what arrived, publish,
acknowledge, leave. Nothing is done "when it happens": whatever a crash, a refusal or a lost connection interrupts is
found again by the next turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from zlib import crc32

from ..errors import Disconnected, JetloomError, OutcomeUnknown, RequestTimeout
from ..lifecycle import TaskSet
from ..messages import INBOX, Start, StopNotice, encode
from ..stores import Line
from ..types import RunStatus, StepStatus
from ._commit import Outcome, commit, retention_of
from ._constants import CHECK, HEADER_ROOM, INDEX_LAZY, LAZY, PACING, RETRY
from ._context import Context
from ._executor import Body, Executor
from ._intake import Intake
from ._outputs import derive_again, input_of, perform
from ._receive import Receiver
from ._run import Message, Run
from ._shell import Shell
from .core import (
    BodyEnded,
    Draft,
    Input,
    NoCover,
    Release,
    RunState,
    Standing,
    TakeOver,
    Unit,
    current,
    decide,
    is_undo,
    may_ack,
    may_start,
    standing,
    suspicious,
)

logger = logging.getLogger("jetloom.engine")

LOST_CONNECTION_PAUSE = 0.1
GRAIN = 1e-6
"""Seconds by which a timeout may end early: rounding must not make the loop spin."""


class Driver:
    """Drives the runs of one engine."""

    def __init__(self, shell: Shell, executor: Executor, receiver: Receiver) -> None:
        self._shell = shell
        self._executor = executor
        self._receiver = receiver
        self._intake = Intake(shell)
        self._notices = TaskSet("end-notice", shell.metrics)

    async def drive(self, run: Run) -> None:
        """Turns until nothing is left to do for the run here."""
        # Runs that began together don't look at their journals together.
        run.since = self._shell.clock.monotonic() + CHECK * crc32(run.id.encode()) / 2**32
        while True:
            run.wake.clear()
            try:
                busy = await self._turn(run)
            except (RequestTimeout, Disconnected, OutcomeUnknown):
                # The server is away or has no leader: whatever this turn wanted, the next one will want again.
                await asyncio.sleep(LOST_CONNECTION_PAUSE)
                continue
            if run.idle:
                return
            if not busy:
                await self._wait(run)

    async def _turn(self, run: Run) -> bool:
        """One look at everything; whether another one is due at once."""
        if run.state is None and not await self._load(run):
            return not run.idle
        if run.hinted:
            run.hinted = False
            await self.refresh(run)
        if run.compiled is None:
            await self._find_definition(run)
        if run.bodies:
            self._stop_bodies(run)
        if run.draining:
            return await self._give_back(run)
        state = run.state
        if state is not None and state.running and run.draft is None and await self._start_bodies(run, state):
            return True
        if await self._decide(run):
            return True
        if run.outputs:
            await perform(self._shell, run, now=self._now())
        if run.owing and run.draft is None and await derive_again(self._shell, run, now=self._now()):
            run.owing = False
        return await self._conclude(run)

    def _now(self) -> float:
        return self._shell.clock.monotonic()

    # -- state
    async def _load(self, run: Run) -> bool:
        """Folds the journal; False when there is none and nothing here can begin one."""
        shell = self._shell
        start = _start_of(run)
        now = self._now()
        fresh = start is not None and len(run.messages) == 1 and self._head_start(start, now)
        if fresh:
            run.state, run.last, run.state_tick = RunState(run.id), 0, -1
            run.index_known = True
        else:
            tick = shell.tick()
            lines = await shell.journals.read(run.id)
            run.lose()
            run.state = RunState(run.id)
            for line in lines:
                run.fold(line, shell.id, first=True)
            run.state_tick = tick
            if not lines and start is not None and not (start.count == 1 and start.sure(now)):
                # The run may be over and expired: only a start that is still stored may begin it.
                stream = shell.names.mailbox_stream(shell.names.shard(run.id))
                if await shell.transport.get(stream, start.arrived.sequence) is None:
                    run.messages.pop(start.ref, None)
                start.verified = True
        if run.state.n == 0 and _start_of(run) is None:
            await self._receiver.adopt(run)
            if _unknown(run):
                return False
        await self._find_definition(run)
        return True

    def _head_start(self, start: Message, now: float) -> bool:
        delivery = start.delivery
        return (
            delivery is not None
            and start.count == 1
            and "Jetloom-New" in delivery.headers
            and start.sure(now)
        )

    async def _find_definition(self, run: Run) -> None:
        state = run.state
        if state is None or run.compiled is not None:
            return
        if state.started is not None:
            run.compiled = await self._shell.definitions.find(
                state.started.workflow, state.started.fingerprint
            )
            return
        start = _start_of(run)
        if start is not None and isinstance(start.arrived.body, Start):
            body = start.arrived.body
            run.compiled = await self._shell.definitions.find(body.workflow, body.fingerprint)

    async def refresh(self, run: Run) -> None:
        """Folds what the leader's journal has beyond the state."""
        shell = self._shell
        if run.state is None:
            return
        tick = shell.tick()
        tail = await shell.journals.tail(run.id)
        if tail == run.last:
            run.state_tick = tick
            return
        lines: Sequence[Line] = await shell.journals.read(run.id, after=run.last) if tail else ()
        if run.draft is not None:
            run.reset()
        if not lines or not _follows(run.state, lines[0]):
            # Expired, and perhaps begun anew under the same id.
            run.lose()
            run.wake.set()
            return
        for line in lines:
            run.fold(line, shell.id)
        run.state_tick = tick

    # -- bodies
    def _stop_bodies(self, run: Run) -> None:
        state = run.state
        if state is None:
            return
        for (name, attempt), body in list(run.bodies.items()):
            unit = state.unit(name)
            if run.draft is None and (
                not state.pending(name, attempt)
                or unit.where != "here"
                or not state.holds(unit.cover, self._shell.id)
            ):
                body.cancel(lost=True)
                del run.bodies[(name, attempt)]
            elif state.phase == "settling" and not is_undo(name):
                body.cancel()

    async def _start_bodies(self, run: Run, state: RunState) -> bool:
        """Starts the pending attempts under covers in this engine's hand; True when the state had to be read first."""
        now, waiting = self._now(), {(item.unit, item.attempt) for item in run.ended}
        for name, unit in state.iter_attempts("here"):
            key = (name, unit.attempt)
            if key in run.bodies or key in waiting or not state.holds(unit.cover, self._shell.id):
                continue
            message = run.messages.get(unit.cover)
            hold = message.hold if message is not None and message.sure(now) else None
            settling = state.phase == "settling" and not is_undo(name)
            match may_start(run.state_tick, hold, settling=settling):
                case "start":
                    self._start(run, name, unit)
                case "read":
                    await self.refresh(run)
                    return True
                case "never":
                    if message is not None:
                        run.ended.append(BodyEnded(name, unit.attempt, cancelled=True))
                case "wait":
                    continue
        return False

    def _start(self, run: Run, name: str, unit: Unit) -> None:
        state, shell = run.state, self._shell
        handler = shell.handlers.get(unit.handler)
        if state is None or state.started is None or handler is None or run.compiled is None:
            return
        inc, attempt = state.inc, unit.attempt
        context = Context(
            shell.transport,
            shell.names,
            run=run.id,
            inc=inc,
            unit=name,
            attempt=attempt,
            actor=state.started.actor,
            deadline=unit.deadline,
            trace=state.started.trace,
            trace_state=state.started.trace_state,
        )

        def report(body: Body, ended: BodyEnded) -> None:
            if body.lost or run.bodies.get((name, attempt)) is not body:
                return
            del run.bodies[(name, attempt)]
            run.ended.append(ended)
            run.wake.set()

        try:
            value = input_of(run, name, attempt)
        except JetloomError as error:
            run.ended.append(BodyEnded(name, attempt, error=error.to_info()))
            return
        body = run.bodies[(name, attempt)] = Body()
        self._executor.start(body, handler, context, value, unit.deadline, report)

    # -- deciding
    async def _decide(self, run: Run) -> bool:
        state = run.state
        if state is None:
            return False
        inputs = await self._intake.gather(run)
        if run.draft is not None and not inputs:
            if self._now() + GRAIN < run.draft_since + LAZY:
                return False
            return await self._write(run, run.draft, [])
        if not inputs:
            return False
        if run.compiled is None:
            await self._find_definition(run)
        if run.refused_at >= 0:
            await self._pace(run)
        shell = self._shell
        around = shell.surroundings(run, shell.clock.now())
        draft = run.draft
        if draft is None:
            draft = Draft(state, run.compiled, around, run.frontier)
        else:
            draft.around_now(around)
        fresh = state.n == 0 and not draft.records
        self._intake.observe_lateness(state, inputs, around.now)
        if fresh and not self._may_begin(run, _start_of(run)):
            run.lose()
            return True
        try:
            taken = decide(draft, inputs, room=shell.transport.server.max_payload // 2)
        except NoCover:
            run.reset()
            await self.refresh(run)
            return True
        if not draft.records:
            self._intake.forget(run, inputs[:taken])
            # Offered again they would change nothing again: only what was not taken is worth another turn.
            return taken < len(inputs)
        if fresh and run.state_tick < 0 and len(inputs) == 1 and self._all_local(run, draft):
            self._begin_head_start(run, draft)
            return True
        return await self._write(run, draft, inputs[:taken])

    def _may_begin(self, run: Run, start: Message | None) -> bool:
        """Whether a run without a journal may begin on what was read: its start is sure, or was found still stored."""
        if start is None:
            return True
        # Unread, it must be sure since it came: one that is sure again, of a later delivery, may have been driven.
        first = start.count == 1 and start.sure(self._now())
        return first if run.state_tick < 0 else start.verified or first

    async def _write(self, run: Run, draft: Draft, inputs: list[Input]) -> bool:
        outcome = await commit(self._shell, run, draft)
        if outcome is Outcome.ACCEPTED:
            for item in inputs:
                if type(item) is TakeOver:
                    run.owing = True
            self._after_own_entry(run, draft)
            self._intake.forget(run, inputs)
            if draft.state.finished is not None:
                # Who waits for the end hears of it before this process does the rest.
                await asyncio.sleep(0)
        else:
            self._stop_bodies(run)
        return True

    async def _give_back(self, run: Run) -> bool:
        """Drain: journals what has ended, releases the covers that are still live, and gives every message back."""
        if run.draft is not None:
            # Before anything is decided: a head start's state holds what nobody has journaled.
            run.reset()
        state = run.state
        if state is not None and run.messages:
            if run.ended and run.compiled is not None and await self._decide(run):
                return True
            refs = tuple(
                ref for ref in state.covers if state.holds(ref, self._shell.id) and ref in run.messages
            )
            if refs:
                around = self._shell.surroundings(run, self._shell.clock.now())
                draft = Draft(state, run.compiled, around, run.frontier)
                decide(draft, [Release(refs)], room=1)
                if await commit(self._shell, run, draft) is Outcome.REFUSED:
                    return True
        for message in list(run.messages.values()):
            await self._receiver.nak(run, message)
        run.ended.clear()
        run.taken.clear()
        run.outputs.clear()
        return False

    def _after_own_entry(self, run: Run, draft: Draft) -> None:
        state, shell = run.state, self._shell
        if state is None:
            return
        if draft.stamp.n == 1:
            shell.count("jetloom_runs_started_total", workflow=run.workflow)
        if draft.state.finished is not None:
            self._notify(run, state)
            self._count_end(run, state)
        for cover in state.covers.values():
            if cover.holder != shell.id:
                run.hints.add(cover.holder)

    def _notify(self, run: Run, state: RunState) -> None:
        """Tells who waits for it that the run has ended: a hint, not waited for."""
        inbox = state.started.notify if state.started is not None else ""
        if inbox.startswith(INBOX) and state.finished is not None:
            data = encode(state.finished)
            if len(data) > self._shell.transport.server.max_payload - HEADER_ROOM:
                data = b""
            self._notices.spawn(self._tell(inbox, data), eager=True)

    async def _tell(self, inbox: str, data: bytes) -> None:
        with contextlib.suppress(Disconnected):
            await self._shell.transport.publish(inbox, data)

    def _count_end(self, run: Run, state: RunState) -> None:
        self._shell.count("jetloom_runs_ended_total", workflow=run.workflow, status=state.status.value)
        self._shell.observe(
            "jetloom_run_duration_seconds",
            max(0.0, state.finished_at - state.started_at),
            workflow=run.workflow,
            status=state.status.value,
        )

    async def _pace(self, run: Run) -> None:
        """Whoever was refused a moment ago lets the others append first, and collects inputs meanwhile."""
        clock = self._shell.clock
        if run.state is None or run.refused_at < 0 or clock.monotonic() - run.refused_at > PACING:
            return
        others = len(set(run.state.recent) - {self._shell.id})
        if others:
            await asyncio.sleep((0.5 + clock.random()) * 0.001 * others)

    # -- head start
    def _all_local(self, run: Run, draft: Draft) -> bool:
        """Whether the first steps may begin before the first append: all local, none with an undo."""
        state, compiled = draft.state, draft.compiled
        if compiled is None or state.phase != "open" or state.finished is not None or not state.running:
            return False
        return all(
            unit.where == "here" and compiled.step(name).saga is None
            for name, unit in state.steps.items()
            if unit.status in (StepStatus.RUNNING, StepStatus.WAITING)
        )

    def _begin_head_start(self, run: Run, draft: Draft) -> None:
        run.draft, run.draft_since = draft, self._now()
        run.inputs.update(draft.inputs)
        for name, unit in draft.state.iter_attempts("here"):
            if (name, unit.attempt) not in run.bodies:
                self._start(run, name, unit)

    # -- the end of a turn
    async def _conclude(self, run: Run) -> bool:
        """Acknowledges what is spent. True when the state moved on and must be looked at anew."""
        if run.draft is not None or run.state is None:
            return False
        if run.hints:
            await self._send_hints(run)
        kept = self._kept(run)
        if kept is None and not run.bodies and not run.ended:
            await self._write_index(run)
        for message in list(run.messages.values()):
            if message is kept or run.messages.get(message.ref) is not message:
                continue
            if await self._conclude_one(run, message):
                return True
        return False

    def _kept(self, run: Run) -> Message | None:
        """The spent message that stays un-acknowledged while the row of the run waits: should this engine die, it comes
        again, and brings the row about."""
        state = run.state
        if state is None or state.status is not RunStatus.RUNNING or run.indexed is RunStatus.RUNNING:
            run.row_due = 0.0
            return None
        now = self._now()
        if not run.row_due:
            run.row_due = now + INDEX_LAZY
        if now + GRAIN >= run.row_due:
            return None
        for message in run.messages.values():
            if (
                message.hold.mine
                and message.sure(now)
                and standing(state, message.arrived, self._shell.id) is Standing.SPENT
            ):
                return message
        return None

    async def _conclude_one(self, run: Run, message: Message) -> bool:
        state, shell = run.state, self._shell
        if state is None:
            return True
        found = standing(state, message.arrived, shell.id)
        poison = found is Standing.CHANGES and suspicious(state, message.arrived, message.count) == "poison"
        if (poison or found is Standing.TOO_MANY) and not current(run.state_tick, message.hold):
            await self.refresh(run)
            return True
        match found:
            case Standing.CHANGES if poison:
                await self._receiver.dead_letter(message, "message.poison")
                await self._receiver.ack(run, message)
                return False
            case Standing.MINE | Standing.CHANGES:
                return False
            case Standing.THEIRS:
                self._receiver.ask(run, message)
                return False
            case Standing.TOO_MANY:
                await self._receiver.dead_letter(message, "run.too_many_messages")
                await self._receiver.ack(run, message)
                return False
            case Standing.UNKNOWN_RUN:
                await self._receiver.adopt(run)
                return False
            case Standing.SPENT | Standing.ELSEWHERE:
                verdict = may_ack(
                    state,
                    run.state_tick,
                    message.arrived,
                    message.hold,
                    outputs_open=bool(run.outputs),
                    derived=run.derived or found is Standing.ELSEWHERE,
                )
                if verdict == "read":
                    await self.refresh(run)
                    return True
                if verdict == "derive":
                    if not await derive_again(shell, run, now=self._now()):
                        return run.hinted
                    return True
                if verdict == "ack":
                    await self._receiver.conclude(run, message, elsewhere=found is Standing.ELSEWHERE)
                return False

    async def _send_hints(self, run: Run) -> None:
        for engine in list(run.hints):
            run.hints.discard(engine)
            notice = StopNotice(run.id, run.inc, "", 0)
            await self._shell.transport.publish(self._shell.names.changed(engine), encode(notice))

    async def _write_index(self, run: Run) -> None:
        state = run.state
        if state is None or state.n == 0 or run.indexed is state.status:
            return
        await self._receiver.write_index(run, state.status, retention_of(run))

    async def _wait(self, run: Run) -> None:
        """Until something arrives, a timer is due, or it is time to look again."""
        state = run.state
        timeout = RETRY if run.outputs or run.owing else CHECK
        if run.draft is not None:
            timeout = max(0.0, run.draft_since + LAZY - self._now())
        elif state is not None:
            due = [
                timer.due
                for timer in state.timers.values()
                if timer.cover in run.messages and state.holds(timer.cover, self._shell.id)
            ]
            if due:
                timeout = min(timeout, max(0.0, min(due) - self._shell.clock.now()))
            if run.row_due > self._now() + GRAIN:
                timeout = min(timeout, run.row_due - self._now())
        await run.wake.wait(timeout)
        now = self._now()
        if run.draft is None and now - max(run.checked, run.since) >= CHECK:
            run.checked = now
            run.hinted = True
            if run.bodies:
                await self._write_index_of_busy(run)

    async def _write_index_of_busy(self, run: Run) -> None:
        if run.state is not None and run.indexed is None:
            await self._receiver.write_index(run, RunStatus.RUNNING, retention_of(run))


def _start_of(run: Run) -> Message | None:
    for message in run.messages.values():
        if message.arrived.address.kind == "start":
            return message
    return None


def _follows(state: RunState | None, line: Line) -> bool:
    """Whether an entry continues this state, or replaces it."""
    if line.snapshot is not None or state is None:
        return True
    return line.entry.n == state.n + 1 and line.entry.inc == (state.inc or line.entry.inc)


def _unknown(run: Run) -> bool:
    return run.state is None or run.state.n == 0
