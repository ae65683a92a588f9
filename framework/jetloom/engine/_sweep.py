"""The sweep finds runs that nothing moves any more, and the purge removes what ended runs leave behind.

Both are safety nets: without lost sequences (a server restored from a backup, a power failure that hit two streams
differently) the sweep pokes nobody.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from ..errors import ConditionFailed, Disconnected, OutcomeUnknown, RequestTimeout
from ..messages import EventHeaders, MailboxAddress, encode, to_headers
from ..stores import IndexRow
from ..transport import Delivery
from ._constants import SWEEP
from ._run import Run
from ._shell import Shell
from .core import RunState

logger = logging.getLogger("jetloom.sweep")

PAGE = 100
PAGE_PAUSE = 0.05
PAGE_SHARE = 0.1
"""Of an engine's time, at most: a sweep over a million runs takes long, and must not be felt."""
LOCK = "sweeper"
BARRIER_TYPE = "jetloom.barrier"
BARRIER_WAIT = 30.0
PURGE_RETRY = 60.0


class _Holder(msgspec.Struct):
    engine: str
    until: float


_holders = msgspec.json.Decoder(_Holder)


class Sweeper:
    """One engine of the namespace sweeps; the others find its lock."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._suspects: dict[str, int] = {}

    async def loop(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            try:
                if await self._hold_lock():
                    await self.run_once()
            except (OutcomeUnknown, RequestTimeout, Disconnected):
                logger.info("a sweep was interrupted; the next one begins anew")

    async def _hold_lock(self) -> bool:
        shell = self._shell
        subject, now = shell.names.lock(LOCK), shell.clock.now()
        stored = await shell.transport.last(shell.names.locks_stream, subject)
        expected = 0
        if stored is not None:
            holder = _holders.decode(stored.data)
            if holder.engine != shell.id and holder.until > now:
                return False
            expected = stored.sequence
        try:
            value = _Holder(shell.id, now + 3 * SWEEP)
            await shell.transport.append(subject, encode(value), expected=expected, ttl=3 * SWEEP)
        except ConditionFailed:
            return False
        return True

    async def run_once(self) -> int:
        """One walk over the index; how many runs were poked. It ends early when another engine has the lock."""
        shell, position, poked = self._shell, 0, 0
        seen: dict[str, int] = {}
        locked = began = shell.clock.monotonic()
        while True:
            page = await shell.index.page(after=position, limit=PAGE)
            for row in page:
                position = row.position
                if not row.status.final:
                    poked += await self._look(row, seen)
            if len(page) < PAGE:
                break
            taken = shell.clock.monotonic() - began
            await asyncio.sleep(max(PAGE_PAUSE, taken * (1 / PAGE_SHARE - 1)))
            began = shell.clock.monotonic()
            if began - locked > SWEEP:
                locked = began
                if not await self._hold_lock():
                    break
        self._suspects = seen
        return poked

    async def _look(self, row: IndexRow, seen: dict[str, int]) -> int:
        """Pokes a run that was found without a mover twice, a sweep apart, with the same journal."""
        shell = self._shell
        run = Run(row.run)
        for line in await shell.journals.read(row.run):
            run.fold(line, shell.id)
        state = run.state
        if state is None or state.inc != row.value.inc:
            await shell.index.remove(row)
            return 0
        if state.finished is not None:
            await shell.index.remove(row)
            return 0
        if not await self.stuck(state):
            return 0
        if self._suspects.get(row.run) != run.last:
            seen[row.run] = run.last
            return 0
        logger.warning("a run had no mover and is poked", extra={"run": row.run})
        try:
            await shell.transport.append(shell.names.poke(row.run), b"", expected=0)
        except ConditionFailed:
            return 0
        return 1

    async def stuck(self, state: RunState) -> bool:
        """Whether pending work has a cover that is not stored, or a remote attempt or timer nothing that moves it."""
        shell, names = self._shell, self._shell.names
        shard = names.shard(state.run)
        lost = await lost_covers(shell, state)
        if lost:
            return True
        for name, unit in state.iter_attempts("task"):
            if state.phase == "settling":
                continue
            await self._count_unserved(unit.handler)
            task = names.task(unit.handler, state.run, state.inc, name, unit.attempt)
            result = names.result(state.run, unit.handler, state.inc, name, unit.attempt)
            if (
                await shell.transport.last(names.tasks_stream, task) is None
                and await shell.transport.last(names.mailbox_stream(shard), result) is None
            ):
                return True
        for timer in state.timers.values():
            if timer.cover:
                continue
            for subject in (
                names.timer(state.run, state.inc, timer.name),
                names.wake(state.run, state.inc, timer.name),
            ):
                if await shell.transport.last(names.timers_stream(shard), subject) is not None:
                    break
            else:
                return True
        if state.parked is not None and state.parked.reason == "definition" and state.started is not None:
            found = await shell.definitions.find(state.started.workflow, state.started.fingerprint)
            return found is not None
        return False

    async def _count_unserved(self, handler: str) -> None:
        """A task that waits while nobody pulls its handler's tasks is no error, but somebody should know."""
        names = self._shell.names
        found = await self._shell.transport.consumer_state(names.tasks_stream, names.task_consumer(handler))
        if found is None or (found.waiting == 0 and found.unacknowledged == 0):
            self._shell.count("jetloom_unserved_tasks_total", handler=handler)

    # -- purge
    async def purge(self, address: MailboxAddress, delivery: Delivery) -> None:
        """Removes the markers and blobs of an ended run, once its journal is gone and its events are copied."""
        shell, names = self._shell, self._shell.names
        try:
            tail = await shell.journals.read(address.run)
            alive = any(line.entry.inc == address.inc for line in tail)
            if alive or not await self._copied(address):
                await shell.transport.nak(delivery.ack_subject, PURGE_RETRY)
                return
            for subject in names.markers_of(address.run, address.inc):
                await shell.transport.purge(names.markers_stream, subject)
            await shell.blobs.purge(address.run, address.inc)
            await shell.transport.ack(delivery.ack_subject)
        except (OutcomeUnknown, RequestTimeout, Disconnected):
            await shell.transport.nak(delivery.ack_subject, PURGE_RETRY)

    async def _copied(self, address: MailboxAddress) -> bool:
        """Whether a barrier event, written behind all others of the run, has arrived in the events stream."""
        shell, names = self._shell, self._shell.names
        subject = names.emit(address.run, address.inc, "barrier", BARRIER_TYPE)
        identity = f"{address.run}.{address.inc}.barrier"
        now = shell.clock.now()
        headers = to_headers(EventHeaders(identity, BARRIER_TYPE, "jetloom/purge", now))
        try:
            await shell.transport.append(subject, b"null", headers=headers, expected=0)
        except ConditionFailed:
            logger.debug("the barrier of an earlier try is there", extra={"run": address.run})
        deadline = shell.clock.monotonic() + BARRIER_WAIT
        while shell.clock.monotonic() < deadline:
            last = await shell.transport.last(names.events_stream, names.event(BARRIER_TYPE))
            if last is not None and (last.headers.get("ce-id") == identity or last.at > now + 1):
                return True
            await asyncio.sleep(0.1)
        return False


async def lost_covers(shell: Shell, state: RunState) -> tuple[str, ...]:
    """Live covers whose message is not stored any more."""
    names = shell.names
    shard = names.shard(state.run)
    lost: list[str] = []
    for ref in state.covers:
        stream = names.timers_stream(shard) if ref[0] == "t" else names.mailbox_stream(shard)
        if await shell.transport.get(stream, int(ref[1:])) is None:
            lost.append(ref)
    return tuple(lost)
