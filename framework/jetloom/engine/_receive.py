"""What happens to a message that is not simply decided about: asking, adopting, concluding, dead letters."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from ..bus import DeadLetters
from ..errors import (
    Disconnected,
    ErrorClass,
    ErrorInfo,
    NoResponders,
    OutcomeUnknown,
    RemoteError,
    RequestTimeout,
)
from ..lifecycle import TaskSet
from ..messages import HoldingAnswer, HoldingQuery, Start, encode
from ..stores import ACK_WAIT, IndexValue
from ..types import RunStatus
from ._commit import Outcome, commit, retention_of
from ._constants import ADOPT_COUNT, ASK_WAIT, PATIENCE, RETRY
from ._run import Message, Run
from ._shell import Shell
from .core import Answer, Draft, RunState, TakeOver, adopt, decode_body, resume

logger = logging.getLogger("jetloom.engine")

_answers = msgspec.json.Decoder(HoldingAnswer)


class Receiver:
    """Receives for one engine."""

    def __init__(self, shell: Shell, tasks: TaskSet) -> None:
        self._shell = shell
        self._tasks = tasks
        self._letters = DeadLetters(shell.transport, shell.names)

    # -- E: a live cover whose holder is another engine
    def ask(self, run: Run, message: Message) -> None:
        """Finds out whether its holder lives, in the background; the run stays in the table meanwhile."""
        if message.ref in run.asking or any(item.ref == message.ref for item in run.taken):
            return
        run.asking.add(message.ref)
        self._tasks.spawn(self._ask(run, message))

    async def _ask(self, run: Run, message: Message) -> None:
        try:
            taken = await self._resolve(run, message)
        finally:
            run.asking.discard(message.ref)
            run.wake.set()
        if run.messages.get(message.ref) is not message:
            return
        if taken:
            run.taken.append(TakeOver(message.ref))
            self._shell.count("jetloom_resumes_total")
        else:
            del run.messages[message.ref]

    async def _resolve(self, run: Run, message: Message) -> bool:
        """True: take it. False: give it up."""
        shell, began = self._shell, self._shell.clock.monotonic()
        answer: Answer = "none"
        while True:
            state = run.state
            cover = state.covers.get(message.ref) if state is not None else None
            if cover is None or run.messages.get(message.ref) is not message:
                # Not live any more, or moved: the next turn of the loop sees what it is now.
                return cover is None
            now = shell.clock.monotonic()
            decision = resume(
                sure=message.sure(now),
                released=cover.released,
                own=cover.holder == shell.id,
                answer=answer,
                patience_over=now - began >= PATIENCE,
            )
            if decision == "give up":
                return False
            if decision == "take":
                return await self._keep(message)
            answer = await self._question(run, message, cover.holder)
            if answer == "silence" and not await self._keep(message):
                return False

    async def _question(self, run: Run, message: Message, holder: str) -> Answer:
        query = HoldingQuery(run.id, run.inc, message.ref[0], message.arrived.sequence, message.ack_subject)
        try:
            reply = await self._shell.transport.request(
                self._shell.names.holding(holder), encode(query), timeout=ASK_WAIT
            )
            return "yes" if _answers.decode(reply.data).holding else "no"
        except NoResponders:
            return "no"
        except (RequestTimeout, Disconnected):
            await asyncio.sleep(0)
            return "silence"

    async def _keep(self, message: Message) -> bool:
        """Beats with confirmation: it is still ours to take."""
        clock = self._shell.clock
        sent = clock.monotonic()
        if not await self._shell.transport.beat_confirmed(message.ack_subject, timeout=ASK_WAIT):
            return False
        if clock.monotonic() >= message.basis + ACK_WAIT:
            # Confirmed too late: somebody else may have been given it before the beat arrived.
            return False
        message.renew(sent, clock.monotonic(), self._shell.tick())
        return True

    # -- A: messages of a run that has no journal
    async def adopt(self, run: Run) -> None:
        """Its start is probably under way; later it is looked for, and what the run is told is recorded before it
        begins.
        """
        shell = self._shell
        for message in list(run.messages.values()):
            if message.arrived.address.kind == "start":
                continue
            if message.count < ADOPT_COUNT:
                await self.nak(run, message, RETRY)
                continue
            stream = shell.names.mailbox_stream(shell.names.shard(run.id))
            start = await shell.transport.last(stream, shell.names.start(run.id))
            if await shell.journals.tail(run.id):
                run.lose()
                return
            if start is None:
                await self._unknown_run(run, message)
                continue
            await self._adopt(run, message, start.sequence, start.data)
            return

    async def _unknown_run(self, run: Run, message: Message) -> None:
        kind = message.arrived.address.kind
        self._shell.count("jetloom_unapplied_messages_total", kind=kind, reason="unknown_run")
        if kind not in ("result", "wake", "poke"):
            await self.dead_letter(message, "run.unknown")
        await self.ack(run, message)

    async def _adopt(self, run: Run, message: Message, inc: int, data: bytes) -> None:
        shell, arrived = self._shell, message.arrived
        address = shell.names.parse_mailbox(shell.names.start(run.id))
        body = decode_body(address, data) if address is not None else None
        if not isinstance(body, Start):
            return
        if arrived.address.inc not in (0, inc) or arrived.address.kind in ("result", "wake"):
            await self.conclude(run, message, elsewhere=True)
            return
        state = run.begin()
        run.compiled = await shell.definitions.find(body.workflow, body.fingerprint)
        draft = Draft(state, run.compiled, shell.surroundings(run, shell.clock.now()))
        adopt(draft, body, inc, arrived)
        if await commit(shell, run, draft) is Outcome.REFUSED:
            run.lose()

    # -- concluding
    async def conclude(self, run: Run, message: Message, *, elsewhere: bool) -> None:
        """Acknowledges what the leader's state shows spent, or addressed to another incarnation."""
        kind = message.arrived.address.kind
        if elsewhere:
            self._shell.count("jetloom_unapplied_messages_total", kind=kind, reason="elsewhere")
            if kind in ("message", "action", "cancel"):
                await self.dead_letter(message, "run.other_incarnation")
            elif kind == "start" and self._leaves_soon(run):
                # The id is free again in a moment, and then this start begins a run.
                await self.nak(run, message, RETRY)
                return
        elif not message.hold.mine and kind != "start":
            self._shell.count("jetloom_unapplied_messages_total", kind=kind, reason="spent")
        state = run.state
        if state is not None and state.finished is not None and not state.driven:
            await self._delete_start(run, state)
        await self.ack(run, message)

    async def _delete_start(self, run: Run, state: RunState) -> None:
        """A run that ended before it was driven: its start has nothing left to begin."""
        stream = self._shell.names.mailbox_stream(self._shell.names.shard(run.id))
        await self._shell.transport.delete(stream, state.inc)

    def _leaves_soon(self, run: Run) -> bool:
        state = run.state
        if state is None or state.finished is None:
            return False
        return state.finished_at + retention_of(run) - self._shell.clock.now() < 2 * PATIENCE

    async def ack(self, run: Run, message: Message) -> None:
        run.messages.pop(message.ref, None)
        await self._shell.transport.ack(message.ack_subject)

    async def nak(self, run: Run, message: Message, delay: float = 0) -> None:
        run.messages.pop(message.ref, None)
        await self._shell.transport.nak(message.ack_subject, delay)

    async def dead_letter(self, message: Message, reason: str) -> None:
        """Stores what can't be processed, with the reason. Raises `OutcomeUnknown` after several tries."""
        delivery, clock = message.delivery, self._shell.clock
        if delivery is None:
            return
        self._shell.count("jetloom_dead_letters_total", module="engine", handler="mailbox")
        logger.warning(
            "a message went to the dead letters", extra={"reason": reason, "subject": delivery.subject}
        )
        info = ErrorInfo(reason, f"{delivery.subject} can't be applied: {reason}", ErrorClass.TERMINAL)
        await self._letters.add("engine", "mailbox", delivery, info, RemoteError(info), clock.now())

    # -- the index
    async def write_index(self, run: Run, status: RunStatus, retention: float) -> None:
        """Moves the run's row. A row that can't be written now is written by whoever touches the run next."""
        state = run.state
        if state is None:
            return
        value = IndexValue(state.inc, run.last, state.at)
        try:
            await self._shell.index.write(
                status,
                run.workflow,
                run.id,
                value,
                previous=run.indexed,
                known=run.index_known,
                ttl=retention if state.finished is not None else None,
            )
        except (OutcomeUnknown, RequestTimeout, Disconnected):
            return
        run.indexed, run.index_known = status, True
