"""An engine: a stateless processor of runs. Any engine may process any message of any run; nobody owns a run."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import DecodeFailed, Disconnected, RequestTimeout
from ..lifecycle import Supervisor, TaskSet
from ..messages import (
    HoldingAnswer,
    HoldingQuery,
    Names,
    SettledAnswer,
    SettledQuery,
    StopNotice,
    encode,
)
from ..stores import Grouping, NewerVersion
from ..telemetry import Metrics
from ..transport import Delivery, Incoming, Pull, Subscription, Transport
from ._api import api_service
from ._constants import ACK_WAIT, BEAT, CACHED_RUNS_MAX, PULL_EXPIRY
from ._drive import Driver
from ._executor import Executor
from ._receive import Receiver
from ._run import Message, Run, address_of_holding, ref_of
from ._shell import Shell
from ._sweep import Sweeper
from ._tasks import Worker
from .core import Arrived, decode_body

if TYPE_CHECKING:
    from ..runtime import StepHandler

logger = logging.getLogger("jetloom.engine")

_holding = msgspec.json.Decoder(HoldingQuery)
_settled = msgspec.json.Decoder(SettledQuery)
_notice = msgspec.json.Decoder(StopNotice)

STEERING_BATCH = 100
WOKEN_MAX = 5_000
"""Runs in the table above which no more wakes are pulled: some ten kilobytes each."""
NEWER_PAUSE = 5.0


class Engine:
    """Drives runs. `capacity`: runs in its table above which it pulls no further starts.

    It serves `handlers` itself: local steps run here, and tasks for them are taken as any worker takes them. With
    `metrics` it also answers on the API subjects, as the micro service `jetloom`. `grouping`: whether appends of many
    runs share atomic batches; `auto` measures whether that is faster.
    """

    def __init__(
        self,
        transport: Transport,
        names: Names,
        *,
        clock: Clock = SYSTEM_CLOCK,
        handlers: Mapping[str, StepHandler] | None = None,
        name: str = "engine",
        capacity: int = 1000,
        metrics: Metrics | None = None,
        sweep: bool = True,
        grouping: Grouping = "auto",
    ) -> None:
        self._shell = Shell(transport, names, clock, handlers or {}, name, metrics, grouping)
        self._capacity = capacity
        self._table: dict[str, Run] = {}
        self._cache: OrderedDict[str, Run] = OrderedDict()
        self._loops = TaskSet("drive", metrics)
        self._asks = TaskSet("ask", metrics)
        self._bodies = TaskSet("body", metrics)
        self._replies = TaskSet("reply", metrics)
        self._supervisor = Supervisor(metrics)
        self._receiver = Receiver(self._shell, self._asks)
        self._driver = Driver(self._shell, Executor(clock, self._bodies, metrics), self._receiver)
        self._sweeper = Sweeper(self._shell) if sweep else None
        self._pulls: list[Pull] = []
        self._subscriptions: list[Subscription] = []
        self._worker: Worker | None = None
        self._api = api_service(transport, names, clock, metrics) if metrics is not None else None
        self._unsure = 0
        """Runs of the table without a sure message, at the last beat."""
        self._working = 0
        """Runs of the table with bodies at work, at the last beat."""
        self._started = False
        self._draining = False

    @property
    def id(self) -> str:
        return self._shell.id

    @property
    def table(self) -> Mapping[str, Run]:
        """Runs that this engine works on now; for tests and diagnosis."""
        return self._table

    # -- life
    async def start(self) -> None:
        """Returns when it pulls. The assets must exist."""
        if self._started:
            return
        self._started = True
        names, transport = self._shell.names, self._shell.transport
        self._subscriptions = [
            await transport.subscribe(names.holding(self.id), self._on_holding),
            await transport.subscribe(names.changed(self.id), self._on_changed),
            await transport.subscribe(names.settled(), self._on_settled, queue="engines"),
        ]
        self._supervisor.run("beats", self._beat_loop)
        if self._sweeper is not None:
            self._supervisor.run("sweep", self._sweeper.loop)
        for shard in range(names.shards):
            await self._pull(names.mailbox_stream(shard), "control", lambda: STEERING_BATCH)
            await self._pull(names.timers_stream(shard), "wakes", self._room_for_wakes)
            await self._pull(names.mailbox_stream(shard), "inbox", lambda: STEERING_BATCH)
            await self._pull(names.mailbox_stream(shard), "starts", self._free)
        if self._api is not None:
            await self._api.start()
        if self._shell.handlers:
            self._worker = Worker(
                transport,
                names,
                clock=self._shell.clock,
                handlers=self._shell.handlers,
                metrics=self._shell.metrics,
            )
            await self._worker.start()

    async def stop(self, deadline: float = 10.0) -> None:
        """Drains: pulls nothing, gives back what has not begun, waits for bodies up to `deadline` seconds,
        releases covers.
        """
        if not self._started or self._draining:
            return
        self._draining = True
        if self._api is not None:
            await self._api.drain(1.0)
            await self._api.stop()
        if self._worker is not None:
            await self._worker.stop(deadline)
        await asyncio.gather(*(pull.stop() for pull in self._pulls))
        await self._bodies.join(deadline)
        for run in list(self._table.values()):
            self._release(run)
        await self._loops.stop(grace=1.0)
        await self._asks.stop()
        await self._bodies.stop()
        for run in list(self._table.values()):
            for message in list(run.messages.values()):
                await self._receiver.nak(run, message)
        self._table.clear()
        await self._shell.journals.stop()
        await self._supervisor.stop()
        for subscription in self._subscriptions:
            await subscription.stop()
        await self._replies.stop(grace=1.0)

    def _release(self, run: Run) -> None:
        """Gives the live covers of a run back: whoever gets them resumes at once, without asking."""
        for body in run.bodies.values():
            body.cancel(lost=True)
        run.bodies.clear()
        run.draining = True
        run.wake.set()

    async def _pull(self, stream: str, consumer: str, capacity: Callable[[], int]) -> None:
        pull = await self._shell.transport.pull(
            stream, consumer, self._on_delivery, capacity=capacity, expiry=PULL_EXPIRY
        )
        self._pulls.append(pull)

    def _free(self) -> int:
        """What starts are pulled for. A run that waits for its own start to come again takes no room: with every
        engine full of such runs, nobody would pull what they wait for."""
        return max(0, self._capacity + self._unsure - len(self._table))

    def _room_for_wakes(self) -> int:
        """A storm of wakes waits in the server, not in this process' memory. Runs whose bodies work don't count: with
        an engine full of long ones, others would sleep on."""
        return min(STEERING_BATCH, max(0, WOKEN_MAX + self._working - len(self._table)))

    # -- receiving
    def _on_delivery(self, delivery: Delivery) -> None:
        shell = self._shell
        shell.count(
            "jetloom_deliveries_total",
            consumer=delivery.consumer,
            redelivered="true" if delivery.count > 1 else "false",
        )
        if self._draining:
            self._replies.spawn(shell.transport.nak(delivery.ack_subject))
            return
        address = shell.names.parse_mailbox(delivery.subject)
        if address is None:
            self._replies.spawn(self._undecodable(delivery, "message.subject"))
            return
        if address.kind == "wake" and address.name == "purge":
            if self._sweeper is not None:
                self._replies.spawn(self._sweeper.purge(address, delivery))
            return
        ref = ref_of(address.kind, delivery.sequence)
        run = self._table.get(address.run)
        known = run.messages.get(ref) if run is not None else None
        if run is not None and known is not None:
            known.ack_subject, known.count, known.delivery = delivery.ack_subject, delivery.count, delivery
            known.renew(delivery.basis, shell.clock.monotonic(), shell.tick())
            run.wake.set()
            return
        try:
            body = decode_body(address, delivery.data)
        except DecodeFailed:
            self._replies.spawn(self._undecodable(delivery, "message.undecodable"))
            return
        arrived = Arrived(ref, delivery.sequence, address, body, len(delivery.data), delivery.at)
        message = Message(arrived, delivery, delivery.ack_subject, delivery.basis, shell.tick())
        message.renew(delivery.basis, shell.clock.monotonic(), shell.tick())
        self._give(address.run, message)

    def _give(self, run_id: str, message: Message) -> None:
        run = self._table.get(run_id)
        if run is None:
            run = self._cache.pop(run_id, None) or Run(run_id)
            run.state_tick = -1
            run.wake.clear()
            self._table[run_id] = run
            run.messages[message.ref] = message
            self._loops.spawn(self._drive(run), eager=True)
        else:
            run.messages[message.ref] = message
            run.wake.set()

    async def _drive(self, run: Run) -> None:
        """The run's loop. A failure that nobody foresaw gives everything of the run up: the server brings it back."""
        try:
            while True:
                await self._driver.drive(run)
                if run.idle:
                    # In the same turn of the event loop: whatever arrives from here on begins anew.
                    break
        except NewerVersion:
            # For a newer engine, which the server finds if this one does not keep asking.
            for body in run.bodies.values():
                body.cancel(lost=True)
            for message in list(run.messages.values()):
                await self._receiver.nak(run, message, NEWER_PAUSE)
            if self._table.get(run.id) is run:
                del self._table[run.id]
            return
        except Exception as error:
            logger.error("driving a run failed", extra={"run": run.id}, exc_info=error)
            self._shell.count("jetloom_task_failures_total", task="drive")
            for body in run.bodies.values():
                body.cancel(lost=True)
            run.messages.clear()
            run.lose()
            if self._table.get(run.id) is run:
                del self._table[run.id]
            return
        if self._table.get(run.id) is run:
            del self._table[run.id]
        self._keep(run)
        for pull in self._pulls:
            if self._free() == 1:
                pull.wake()

    def _keep(self, run: Run) -> None:
        """A folded state stays cached with its sequence; it may be stale, which the next append finds out."""
        if run.state is None or run.state.n == 0 or run.state.finished is not None:
            return
        self._cache[run.id] = run
        if len(self._cache) > CACHED_RUNS_MAX:
            self._cache.popitem(last=False)

    async def _undecodable(self, delivery: Delivery, reason: str) -> None:
        run = Run("")
        address = address_of_holding("")
        arrived = Arrived(ref_of("", delivery.sequence), delivery.sequence, address)
        message = Message(arrived, delivery, delivery.ack_subject, delivery.basis, self._shell.tick())
        await self._receiver.dead_letter(message, reason)
        await self._receiver.ack(run, message)

    # -- beats
    async def _beat_loop(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            # Not awaited: one consumer without a leader must not delay the beats of the others.
            self._replies.spawn(self.beat())

    async def beat(self) -> None:
        """Beats for every sure message held longer than BEAT. Each consumer's last beat is a question: its answer
        confirms the ones before it, since a connection keeps their order."""
        now = self._shell.clock.monotonic()
        groups: dict[str, list[Message]] = {}
        self._unsure = self._working = 0
        for run in self._table.values():
            self._working += bool(run.bodies)
            unsure = bool(run.messages)
            for message in run.messages.values():
                if not message.sure(now):
                    continue
                unsure = False
                if now - message.basis >= BEAT / 2:
                    groups.setdefault(_consumer_of(message.ack_subject), []).append(message)
            self._unsure += unsure
        self._shell.held_timers = sum(run.held_timers for run in self._table.values())
        self._shell.gauge("jetloom_held_runs", len(self._table))
        await asyncio.gather(*(self._beat_group(group, now) for group in groups.values()))

    async def _beat_group(self, messages: list[Message], sent: float) -> None:
        transport, clock = self._shell.transport, self._shell.clock
        for message in messages[:-1]:
            await transport.beat(message.ack_subject)
        confirmed = await transport.beat_confirmed(messages[-1].ack_subject, timeout=ACK_WAIT / 2)
        now = clock.monotonic()
        if not confirmed:
            return
        for message in messages:
            if now < message.basis + ACK_WAIT:
                message.renew(sent, now, self._shell.tick())

    # -- questions
    def _on_holding(self, incoming: Incoming) -> None:
        self._replies.spawn(self._answer_holding(incoming))

    async def _answer_holding(self, incoming: Incoming) -> None:
        query = _holding.decode(incoming.data)
        run = self._table.get(query.run)
        yes = run is not None and (run.state is None or run.inc == query.inc) and not run.draining
        # Taken before the answer leaves: the asker gives its delivery up on it, and the run may leave the table
        # meanwhile.
        message = self._take_delivery(run, query) if run is not None and yes else None
        await self._reply(incoming.reply, HoldingAnswer(yes))
        if run is not None and message is not None:
            await self._make_sure(run, message)

    def _take_delivery(self, run: Run, query: HoldingQuery) -> Message:
        """The asker gives its delivery up: it is ours now, and sure once a beat that is sent now is confirmed."""
        shell = self._shell
        ref = f"{query.stream}{query.sequence}"
        message = run.messages.get(ref)
        if message is None:
            arrived = Arrived(ref, query.sequence, address_of_holding(query.run))
            message = Message(arrived, None, query.ack_subject, shell.clock.monotonic(), shell.tick())
            run.messages[ref] = message
            run.wake.set()
        message.ack_subject = query.ack_subject
        message.hold.sure_since = -1
        return message

    async def _make_sure(self, run: Run, message: Message) -> None:
        shell = self._shell
        sent = shell.clock.monotonic()
        if await shell.transport.beat_confirmed(message.ack_subject, timeout=ACK_WAIT / 2):
            message.renew(sent, shell.clock.monotonic(), shell.tick())
        run.wake.set()

    def _on_changed(self, incoming: Incoming) -> None:
        run = self._table.get(_notice.decode(incoming.data).run)
        if run is not None:
            run.hinted = True
            run.wake.set()

    def _on_settled(self, incoming: Incoming) -> None:
        self._replies.spawn(self._answer_settled(incoming))

    async def _answer_settled(self, incoming: Incoming) -> None:
        """Whether a task's attempt is over: its result waits in the mailbox, or it is not pending, or the run is
        over.
        """
        query = _settled.decode(incoming.data)
        try:
            settled = await self._settled(query)
        except (RequestTimeout, Disconnected):
            return
        await self._reply(incoming.reply, SettledAnswer(settled))

    async def _settled(self, query: SettledQuery) -> bool:
        names, shell = self._shell.names, self._shell
        if query.handler:
            result = names.result(query.run, query.handler, query.inc, query.step, query.attempt)
            if await shell.transport.last(names.mailbox_stream(names.shard(query.run)), result) is not None:
                return True
        run = Run(query.run)
        for line in await shell.journals.read(query.run):
            run.fold(line, shell.id)
        state = run.state
        return state is None or state.inc != query.inc or not state.pending(query.step, query.attempt)

    async def _reply(self, subject: str, answer: object) -> None:
        try:
            await self._shell.transport.publish(subject, encode(answer))
        except Disconnected:
            logger.debug("an answer could not be sent", extra={"subject": subject})


def _consumer_of(ack_subject: str) -> str:
    """`$JS.ACK.<stream>.<consumer>`: what keeps the order of beats."""
    return ".".join(ack_subject.split(".")[2:4])
