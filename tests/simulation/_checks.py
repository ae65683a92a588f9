"""The invariants, as functions that look at what the server stores, at the moment when it stores it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jetloom.engine.core import (
    UNDO,
    Arrived,
    Cover,
    PublishEvent,
    RunState,
    SchedulePurge,
    SendTask,
    SetSchedule,
    changes,
    derive,
    elsewhere,
)
from jetloom.messages import (
    Emitted,
    Entry,
    Finished,
    Held,
    Kept,
    Record,
    StepCompleted,
    StepFailed,
    StepSkipped,
    StepStarted,
    StepUnknown,
    Taken,
    TimerFired,
    TimerSet,
    UndoCompleted,
    UndoFailed,
    Undoing,
    UndoStarted,
)
from jetloom.transport import Stored
from jetloom.types import StepStatus
from tests.simulation._ledger import same_state

if TYPE_CHECKING:
    from tests.simulation._books import Execution
    from tests.simulation._ledger import Truth
    from tests.simulation._world import World

ANSWER_FRESH = 1.2
"""How old the answer may be on which a worker starts a body: a second, and the way."""
FIRES_EARLY = 0.0015
"""A schedule's time is written with milliseconds."""


class Checks:
    """Asked by the ledger and the books; a broken invariant ends the universe."""

    def __init__(self, world: World) -> None:
        self._world = world

    # -- I1, I2: one journal, one end
    def entry_comes(self, truth: Truth, entry: Entry, records: Sequence[Record]) -> bool:
        """Whether the entry can be folded at all."""
        state = truth.state
        if state.finished is not None:
            self._world.violate("I1", f"{truth.run}: entry {entry.n} after the finished record")
            return False
        if entry.n != state.n + 1:
            self._world.violate("I2", f"{truth.run}: entry {entry.n} after {state.n}")
            return False
        if state.n and entry.inc != state.inc:
            self._world.violate("I2", f"{truth.run}: incarnation {entry.inc} in {state.inc}")
            return False
        if not records:
            self._world.violate("I2", f"{truth.run}: entry {entry.n} says nothing")
        return True

    def record_comes(
        self, truth: Truth, before: RunState, entry: Entry, records: Sequence[Record], record: Record
    ) -> None:
        """`truth.state` is what the records before this one led to."""
        match record:
            case Held():
                self._held(truth, before, record)
            case StepStarted() | UndoStarted():
                self._started(truth, before, entry, records, record)
            case (
                StepCompleted()
                | StepFailed()
                | StepSkipped()
                | StepUnknown()
                | UndoCompleted()
                | UndoFailed()
            ):
                self._ended(truth, entry, record)
            case TimerSet():
                if record.name in truth.timers:
                    self._world.violate("I9", f"{truth.run}: timer {record.name} is set twice")
                truth.timers.add(record.name)
                if record.cover:
                    self._lawful(truth, before, entry, records, record.cover)
            case TimerFired():
                self._fired(truth, entry, record)
            case Kept():
                key = f"{record.name} {record.id}"
                if key in truth.applied:
                    self._world.violate("I15", f"{truth.run}: message {key} is applied twice")
                truth.applied.add(key)
            case Taken():
                truth.takes[record.id] = truth.takes.get(record.id, 0) + 1
                if truth.takes[record.id] > 1:
                    self._world.violate("I15", f"{truth.run}: message {record.id} is taken twice")
            case Undoing():
                self._plan(truth, record)
            case Finished():
                self._finish(truth)
            case _:
                return

    # -- I3, I5: covers
    def _held(self, truth: Truth, before: RunState, record: Held) -> None:
        """A cover is a stored message that is live already, or that this very entry applies."""
        world = self._world
        if not world.ledger.cover_stored(record.cover):
            if f"{truth.run} {record.cover}" not in world.ledger.robbed:
                world.violate("I5", f"{truth.run}: held {record.cover}, which is not stored")
            return
        for old in record.instead_of:
            if world.ledger.cover_stored(old):
                world.violate("I3", f"{truth.run}: a poke replaces {old}, which is stored")
        if before.live(record.cover):
            return
        message = world.ledger.cover_message(record.cover)
        if message is None or message.address.run != truth.run:
            world.violate("I3", f"{truth.run}: {record.cover} is no message of this run")
        elif before.n and (elsewhere(before, message) or not changes(before, message)):
            world.violate(
                "I3", f"{truth.run}: new work under {record.cover}, which this entry does not apply"
            )
        elif before.n == 0 and message.address.kind != "start":
            world.violate("I3", f"{truth.run}: its first entry is covered by a {message.address.kind}")

    def _lawful(
        self, truth: Truth, before: RunState, entry: Entry, records: Sequence[Record], cover: str
    ) -> None:
        known = before.covers.get(cover)
        if known is not None and known.holder == entry.by and not known.released:
            return
        if any(isinstance(record, Held) and record.cover == cover for record in records):
            return
        self._world.violate(
            "I3", f"{truth.run}: entry {entry.n} starts work under {cover}, held by {_holder(known)}"
        )

    def _started(
        self,
        truth: Truth,
        before: RunState,
        entry: Entry,
        records: Sequence[Record],
        record: StepStarted | UndoStarted,
    ) -> None:
        undo = isinstance(record, UndoStarted)
        name = UNDO + record.step if undo else record.step
        if record.where == "here":
            self._lawful(truth, before, entry, records, record.cover)
        if (name, record.attempt) in truth.ended:
            self._world.violate("I7", f"{truth.run}: {name}/{record.attempt} starts after it ended")
        unit = truth.state.unit(name)
        moved = unit.attempt == record.attempt and unit.status is StepStatus.RUNNING
        if record.attempt != unit.attempt + 1 and not moved:
            self._world.violate("I7", f"{truth.run}: {name}/{record.attempt} follows {unit.attempt}")
        if undo:
            self._undo_order(truth, record.step)
        elif truth.state.phase != "open":
            self._world.violate("I10", f"{truth.run}: {name} starts in {truth.state.phase}")

    def _ended(self, truth: Truth, entry: Entry, record: Record) -> None:
        """I13: only the holder of its cover ends a local attempt; no attempt ends twice."""
        undo = isinstance(record, UndoCompleted | UndoFailed)
        step = str(getattr(record, "step", ""))
        name = UNDO + step if undo else step
        state, world = truth.state, self._world
        unit = state.unit(name)
        attempt = int(getattr(record, "attempt", unit.attempt))
        if isinstance(record, StepCompleted | UndoCompleted) and unit.status is StepStatus.COMPLETED:
            world.violate("I10" if undo else "I7", f"{truth.run}: {name} completes twice")
        if (name, attempt) in truth.ended and attempt and not isinstance(record, StepSkipped):
            world.violate("I7", f"{truth.run}: {name}/{attempt} ends twice")
        by_body = not isinstance(record, StepSkipped | StepUnknown)
        error = getattr(record, "error", None)
        if error is not None and error.code in ("step.timeout", "run.crash_loop"):
            by_body = False
        if by_body and unit.status is StepStatus.RUNNING and unit.where == "here":
            cover = state.covers.get(unit.cover)
            if cover is None or cover.holder != entry.by:
                world.violate(
                    "I13",
                    f"{truth.run}: {entry.by} ends {name}/{attempt} under {unit.cover}, held by {_holder(cover)}",
                )
        truth.ended[(name, attempt)] = (world.now(), "body" if by_body else type(record).__name__)

    # -- I9: timers
    def _fired(self, truth: Truth, entry: Entry, record: TimerFired) -> None:
        timer = truth.state.timers.get(record.name)
        world = self._world
        if timer is None:
            world.violate("I9", f"{truth.run}: timer {record.name} fires and is not pending")
            return
        # The first entry of a head start bears the time at which it began.
        at = entry.at if entry.n > 1 else world.now()
        if at < timer.due - FIRES_EARLY:
            world.violate("I9", f"{truth.run}: timer {record.name} fires {timer.due - at:.3f} s early")
        if timer.cover:
            cover = truth.state.covers.get(timer.cover)
            if cover is None or cover.holder != entry.by:
                world.violate("I13", f"{truth.run}: {entry.by} fires {record.name}, held by {_holder(cover)}")

    # -- I10: undos
    def _plan(self, truth: Truth, record: Undoing) -> None:
        definition = self._world.definition_of(truth.state)
        done = (StepStatus.COMPLETED, StepStatus.UNKNOWN)
        expected = sorted(
            (
                (truth.state.unit(step.id).order, step.id)
                for step in definition.steps
                if step.saga is not None and truth.state.unit(step.id).status in done
            ),
            reverse=True,
        )
        if tuple(step for _, step in expected) != record.plan:
            self._world.violate("I10", f"{truth.run}: plan {record.plan}, expected {expected}")

    def _undo_order(self, truth: Truth, step: str) -> None:
        for other in truth.state.plan:
            if other == step:
                return
            if truth.state.unit(UNDO + other).status not in (StepStatus.COMPLETED, StepStatus.FAILED):
                self._world.violate("I10", f"{truth.run}: undo of {step} starts before that of {other} ended")
                return
        self._world.violate("I10", f"{truth.run}: undo of {step}, which is not in the plan")

    def _finish(self, truth: Truth) -> None:
        state, world = truth.state, self._world
        if state.running:
            world.violate("I1", f"{truth.run}: finishes with pending {sorted(state.running)}")
        ended = (StepStatus.COMPLETED, StepStatus.FAILED)
        left = [step for step in state.plan if state.unit(UNDO + step).status not in ended]
        if left:
            world.violate("I10", f"{truth.run}: finishes without the undos of {left}")
        if state.settling is not None and state.settling.compensate and not state.plan and state.driven:
            self._plan(truth, Undoing(()))

    # -- after the entry
    def entry_came(self, truth: Truth, before: RunState, entry: Entry, records: Sequence[Record]) -> None:
        """I5: what is pending now is covered by stored messages. I3: nothing that left changes anything again."""
        self._covered(truth)
        del before, entry, records

    def _covered(self, truth: Truth) -> None:
        ledger = self._world.ledger
        for ref in truth.state.covers:
            if not ledger.cover_stored(ref) and f"{truth.run} {ref}" not in ledger.robbed:
                self._world.violate("I5", f"{truth.run}: work under {ref}, which is not stored")

    # -- I4, I5, I6: what leaves
    def message_left(self, message: Arrived, identity: str) -> None:
        """A message or wake was acknowledged or deleted."""
        world, address = self._world, message.address
        if f"{address.run} {message.ref}" in world.ledger.robbed:
            return
        truth = world.ledger.truths.get(address.run)
        dead = identity in world.ledger.dead
        what = f"{address.run}: {address.kind} {message.ref}"
        if truth is None or truth.state.n == 0:
            if address.kind == "start" or (address.kind not in ("result", "wake", "poke") and not dead):
                world.violate("I4", f"{what} left, and its run has no journal")
            return
        state = truth.state
        if state.live(message.ref):
            world.violate("I5", f"{what} left while work is pending under it")
        elif elsewhere(state, message):
            if address.kind in ("message", "action", "cancel") and not dead:
                world.violate("I4", f"{what} of another incarnation left without a dead letter")
        elif changes(state, message) and not dead:
            world.violate("I4", f"{what} left without being applied")
        self._covered(truth)
        if dead and address.kind in ("result", "wake"):
            # Poison: what it would have done is for the sweep to find missing.
            world.ledger.robbed.add(f"{truth.run} *")
        missing = self.missing(truth)
        if missing and f"{truth.run} *" not in world.ledger.robbed:
            world.violate("I5/I6", f"{what} left, and {missing}")

    def task_left(self, message: Stored) -> None:
        """A task left: its result is known, or nobody wants it."""
        world = self._world
        address = world.names.parse_task(message.subject)
        if address is None:
            return
        world.note(f"server drops task {address.run} {address.step}/{address.attempt}")
        result = world.names.result(address.run, address.handler, address.inc, address.step, address.attempt)
        state = world.ledger.truth(address.run).state
        wanted = state.pending(address.step, address.attempt) and state.phase != "settling"
        if result not in world.ledger.results and wanted:
            world.violate("I6", f"{address.run}: task {address.step}/{address.attempt} left without a result")

    def missing(self, truth: Truth) -> str:
        """What must exist, does not, and no stored message will bring it; empty when all is well."""
        ledger, names, state = self._world.ledger, self._world.names, truth.state
        if ledger.waiting.get(truth.run):
            return ""
        for output in derive(state):
            match output:
                case SendTask():
                    task = names.task(output.handler, state.run, state.inc, output.unit, output.attempt)
                    if not ledger.task_stored(task):
                        return f"no task of {output.unit}/{output.attempt} exists"
                case SetSchedule():
                    if names.timer(state.run, state.inc, output.name) not in ledger.timers.subjects:
                        return f"no schedule of {output.name} exists"
                case PublishEvent():
                    event = output.event
                    if names.emit(state.run, state.inc, event.key, event.type) not in ledger.markers.subjects:
                        return f"event {event.key} of entry {output.n} does not exist"
                case SchedulePurge():
                    if names.timer(state.run, state.inc, "purge") not in ledger.timers.subjects:
                        return "its purge is not scheduled"
                case _:
                    continue
        return "" if _moves(state) else f"nothing moves it ({state.status.value}, {state.phase})"

    # -- I7: bodies
    def body_starts(self, execution: Execution) -> None:
        """No body starts after its attempt's result is journaled, but within what the rules allow."""
        world = self._world
        run, inc, unit, attempt = execution.attempt
        truth = world.ledger.truths.get(run)
        if truth is None or truth.state.inc != inc:
            return
        found = truth.ended.get((unit, attempt))
        if found is None or found[1] != "body" or execution.local:
            return
        late = world.now() - found[0]
        if late > ANSWER_FRESH and world.thawed.get(execution.process) != world.now() and not world.sent_late:
            world.violate("I7", f"{run}: a worker starts {unit}/{attempt} {late:.3f} s after its result")

    def local_body_starts(self, process: str, run: str, inc: int, unit: str, attempt: int) -> None:
        """An engine tells its executor to start: between its check and this nothing else ran."""
        world = self._world
        truth = world.ledger.truths.get(run)
        if truth is None or truth.state.n == 0 or truth.state.inc != inc:
            return
        state = truth.state
        if (unit, attempt) in truth.ended and truth.ended[(unit, attempt)][1] == "body":
            world.violate("I7", f"{run}: {process} starts {unit}/{attempt} after its result was journaled")
        engine = world.engines.get(process)
        known = engine.table.get(run) if engine is not None else None
        if engine is None or known is None or known.state is None or known.draft is not None:
            return
        if not known.state.holds(known.state.unit(unit).cover, engine.id):
            world.violate(
                "I13", f"{run}: {process} starts {unit}/{attempt} under a cover that it does not hold"
            )
        del state

    # -- I2: what engines believe
    def engine_states(self) -> None:
        """Every engine's folded state is the fold of the journal at its sequence."""
        world = self._world
        for name, engine in world.engines.items():
            if not world.loop.alive(name):
                continue
            for run in (*engine.table.values(), *engine._cache.values()):
                state, truth = run.state, world.ledger.truths.get(run.id)
                if state is None or truth is None or run.draft is not None or run.last not in truth.encoded:
                    continue
                in_flight = truth.ordinals[run.last] != state.n
                if not in_flight and not same_state(state, truth.encoded[run.last]):
                    world.violate("I2", f"{run.id}: {name} holds another state than entry {state.n} led to")


def _moves(state: RunState) -> bool:
    if state.finished is not None or state.covers or state.timers or state.paused or state.parked is not None:
        return True
    if any(unit.where == "task" for _, unit in state.iter_attempts()):
        return True
    return any(unit.status is StepStatus.WAITING for unit in state.steps.values())


def _holder(cover: Cover | None) -> str:
    return "nobody" if cover is None else f"{cover.holder}{' (released)' if cover.released else ''}"


def emits_of(truth: Truth) -> list[tuple[str, str]]:
    """Key and type of every event that a journal says it emitted."""
    return [(record.key, record.type) for _, record in truth.records() if isinstance(record, Emitted)]
