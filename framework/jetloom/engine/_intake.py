"""What a run's next entry is decided about: the facts at hand that would change its state."""

from __future__ import annotations

import msgspec

from ..messages import Start
from ._run import Message, Run
from ._shell import Shell
from ._sweep import lost_covers
from .core import (
    Arrived,
    BodyEnded,
    Definition,
    Input,
    RunState,
    Standing,
    Suspected,
    TakeOver,
    TimerDue,
    standing,
    suspicious,
)


class Intake:
    """Gathers inputs for one engine. It forgets nothing: a fact stays at hand until an accepted entry took it."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def gather(self, run: Run) -> list[Input]:
        """Takeovers, the start, messages, ended bodies and due timers, in that order."""
        state = run.state
        if state is None:
            return []
        inputs = self._facts(run, state)
        for item in inputs:
            if type(item) is Arrived and item.address.kind == "poke" and state.covers:
                return await self._with_lost_covers(state, inputs)
        return inputs

    def _facts(self, run: Run, state: RunState) -> list[Input]:
        """Facts that would change the state: takeovers, the start, messages, ended bodies, due timers, in that
        order.
        """
        shell = self._shell
        if run.draft is not None and not run.ended:
            waiting = [m for m in run.messages.values() if m.arrived.address.kind not in ("start", "cover")]
            if not waiting:
                return []
        if run.draining:
            return [item for item in list(run.ended) if self._still_pending(run, item)]
        # Only what is still at hand: it may have been taken by another engine since it was asked about.
        if run.taken:
            run.taken = [item for item in run.taken if state.live(item.ref) and item.ref in run.messages]
        inputs: list[Input] = [*run.taken]
        arrived: list[Input] = []
        for message in run.messages.values():
            kind = message.arrived.address.kind
            if kind == "cover" or standing(state, message.arrived, shell.id) is not Standing.CHANGES:
                continue
            if run.draft is not None and kind == "start":
                continue
            suspicion = suspicious(state, message.arrived, message.count)
            if suspicion == "poison" and kind != "start":
                continue
            if suspicion != "no" and message.suspected < message.count:
                # Journaled alone and first: if applying the message kills this engine, the suspicion stays.
                message.suspected = message.count
                return [self._suspected(message, poison=suspicion == "poison")]
            (inputs if kind == "start" else arrived).append(message.arrived)
        inputs += arrived
        if run.compiled is not None or state.n == 0:
            if run.ended:
                inputs += [item for item in list(run.ended) if self._still_pending(run, item)]
            if run.unsendable:
                run.unsendable = [i for i in run.unsendable if state.pending(i.unit, i.attempt)]
                inputs += run.unsendable
            if state.timers:
                inputs += self._due(run)
        parked = state.parked
        if parked is not None and parked.reason == "definition" and run.compiled is not None:
            # What a definition starts needs a cover; a run without one waits for the poke that brings it.
            held = inputs or any(state.holds(ref, shell.id) and ref in run.messages for ref in state.covers)
            if held:
                inputs.append(Definition())
        return inputs

    async def _with_lost_covers(self, state: RunState, inputs: list[Input]) -> list[Input]:
        """Tells a poke which live covers are not stored any more, so that it can replace them."""
        found: list[Input] = []
        for item in inputs:
            if isinstance(item, Arrived) and item.address.kind == "poke" and state.covers:
                item = msgspec.structs.replace(item, lost=await lost_covers(self._shell, state))
            found.append(item)
        return found

    def _suspected(self, message: Message, *, poison: bool) -> Suspected:
        body = message.arrived.body
        return Suspected(
            message.ref, poison, message.arrived.sequence, body if isinstance(body, Start) else None
        )

    def _still_pending(self, run: Run, item: BodyEnded) -> bool:
        state = run.state
        if state is not None and state.pending(item.unit, item.attempt):
            return True
        run.ended.remove(item)
        return False

    def _due(self, run: Run) -> list[Input]:
        state, now = run.state, self._shell.clock.now()
        if state is None or not state.timers:
            return []
        return [
            TimerDue(timer.name)
            for timer in state.timers.values()
            if timer.cover
            and timer.due <= now
            and timer.cover in run.messages
            and state.holds(timer.cover, self._shell.id)
        ]

    def observe_lateness(self, state: RunState, inputs: list[Input], now: float) -> None:
        """How late the timers among these inputs are, for the metrics."""
        if not state.timers:
            return
        for item in inputs:
            name = item.name if isinstance(item, TimerDue) else ""
            if isinstance(item, Arrived) and item.address.kind == "wake":
                name = item.address.name
            timer = state.timers.get(name)
            if timer is not None:
                self._shell.observe("jetloom_wake_lateness_seconds", max(0.0, now - timer.due))

    def forget(self, run: Run, inputs: list[Input]) -> None:
        """What an entry took, or what changes nothing, is not offered again."""
        for item in inputs:
            if isinstance(item, BodyEnded):
                if item in run.ended:
                    run.ended.remove(item)
                run.inputs.pop((item.unit, item.attempt), None)
            elif isinstance(item, TakeOver) and item in run.taken:
                run.taken.remove(item)
