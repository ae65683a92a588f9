"""A handler's subscription: from its start to its end, however events come in."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Literal

from ..clock import Clock
from ..errors import Disconnected, JetloomError, OutcomeUnknown, RequestTimeout
from ..lifecycle import Supervisor
from ..messages import Names
from ..stores import Locks, locks_asset
from ..telemetry import Metrics, get_logger
from ..transport import ConsumerAsset, Transport
from ._answers import Answers
from ._batches import BatchIntake
from ._group import GroupIntake
from ._handler import EventHandler
from ._handling import Handling, check_event_handler
from ._intake import Intake, Kit
from ._keyed import ACK_WAIT_MAX, BUFFER_MAX, KeyedIntake
from ._live import LiveIntake
from ._patterns import consumer_name

BROADCAST_INACTIVE = 600.0
"""After which the server forgets the consumer of a replica that is gone; above any disconnection that should be
survived without a gap."""

LAG_SECONDS = 5.0
"""Between two looks at the consumer: how much waits, and whether it is still there."""

_logger = get_logger("bus")


class EventSubscription[T]:
    """Hands events to one handler: `start`, then `drain` and `stop`; `pause` and `resume` in between.

    Raises `NameInvalid`, `ExpressionInvalid` with the position, and `InvalidInput` for a handler that can't be.
    `instance` names this replica, for a broadcast. `locks` are the process's, where it has them already.
    """

    def __init__(
        self,
        handler: EventHandler[T],
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        *,
        replicas: int = 0,
        instance: str = "",
        locks: Locks | None = None,
    ) -> None:
        check_event_handler(handler)  # pyright: ignore[reportArgumentType]
        self.handler = handler
        self.instance = instance or clock.token()[:12]
        self.asset = _asset(handler, names, self.instance, replicas)
        self._transport = transport
        self._names = names
        self._metrics = metrics
        self._replicas = replicas
        self._supervisor = Supervisor(metrics)
        self._own_locks: Locks | None = None
        group = consumer_name(handler.module, handler.name)
        handling = Handling(handler, transport, names, clock, metrics, consumer=self.asset.name)
        answers = Answers(handler, transport, names, clock, metrics, consumer=group)  # pyright: ignore[reportArgumentType]
        self._marks = handling.marks
        kit = Kit(handler, self.asset, transport, clock, metrics, handling, answers)
        if handler.key and handler.mode == "group" and locks is None:
            owner = f"{handler.module} {self.instance}"
            asset = locks_asset(names, replicas=max(1, replicas))
            locks = self._own_locks = Locks(transport, names, clock, metrics, owner=owner, asset=asset)
        self._intake = _intake(kit, locks)
        self._pending = metrics.gauge(
            "jetloom_consumer_pending_messages", module=handler.module, handler=handler.name
        )
        self._state: Literal["new", "running", "paused", "ended"] = "new"

    @property
    def paused(self) -> bool:
        return self._state == "paused"

    @property
    def ended(self) -> bool:
        """Whether it was drained or stopped; it can't be started again."""
        return self._state == "ended"

    async def start(self) -> None:
        """Returns when events come in. Raises `AssetDrifted` where another program's consumer has the name."""
        if self._state != "new":
            return
        self._state = "running"
        if self._marks is not None:
            await self._marks.start(self._replicas)
        if self.handler.mode != "live":
            await self._transport.ensure(self.asset)
            self._supervisor.run("event-beats", self._beat)
            self._supervisor.run("event-lag", self._watch)
        await self._intake.open()

    async def pause(self) -> None:
        """Takes no more events on this replica; returns when what ran has ended. Others of the group go on."""
        if self._state == "running":
            self._state = "paused"
            await self._intake.close(None)

    async def resume(self) -> None:
        """Takes events again."""
        if self._state == "paused":
            self._state = "running"
            await self._intake.open()

    async def drain(self, seconds: float) -> int:
        """Takes no more, lets handlers end for `seconds`, and gives the rest back; how many that were."""
        started, self._state = self._state != "new", "ended"
        handed_back = await self._intake.close(seconds) if started else 0
        await self._supervisor.stop()
        if self._own_locks is not None:
            await self._own_locks.stop()
        if started and self.handler.mode == "broadcast":
            await self._forget()
        return handed_back

    async def stop(self) -> None:
        """At once: what is being handled is cancelled and given back."""
        await self.drain(0)

    async def unsubscribe(self, *, forget: bool = False, seconds: float = 20.0) -> int:
        """Drains. With `forget` the durable consumer is deleted, for every replica: who subscribes again begins at
        `start`."""
        handed_back = await self.drain(seconds)
        if forget and self.handler.mode == "group":
            await self._transport.remove(self.asset.stream, self.asset.name)
        return handed_back

    async def _forget(self) -> None:
        try:
            await self._transport.remove(self.asset.stream, self.asset.name)
        except (RequestTimeout, Disconnected, OutcomeUnknown):
            _logger.info("the server will forget the consumer", extra={"consumer": self.asset.name})

    async def _beat(self) -> None:
        # A third of the wait: two beats may be lost.
        while True:
            await asyncio.sleep(self.asset.ack_wait / 3)
            await self._intake.beat()
            if self._marks is not None:
                await self._marks.renew()

    async def _watch(self) -> None:
        """Keeps the gauge, and the consumer: one that somebody deleted is made again."""
        while True:
            await asyncio.sleep(LAG_SECONDS)
            try:
                state = await self._transport.consumer_state(self.asset.stream, self.asset.name)
                if state is None:
                    _logger.warning(
                        "the consumer was deleted; it is made again, and begins as declared",
                        extra={"consumer": self.asset.name, "start": str(self.asset.start)},
                    )
                    await self._transport.ensure(self.asset)
                else:
                    self._pending.set(state.pending)
            except JetloomError as error:
                _logger.debug("no look at a consumer", extra={"because": str(error)})


def _intake[T](kit: Kit[T], locks: Locks | None) -> Intake:
    if kit.handler.mode == "live":
        return LiveIntake(kit)
    if kit.handler.key:
        return KeyedIntake(kit, locks if kit.handler.mode == "group" else None)
    return BatchIntake(kit) if kit.handler.many is not None else GroupIntake(kit)


def _asset[T](handler: EventHandler[T], names: Names, instance: str, replicas: int) -> ConsumerAsset:
    broadcast = handler.mode == "broadcast"
    start = handler.start
    if broadcast and start == "all":
        start = "new"
    return ConsumerAsset(
        stream=names.events_stream,
        name=consumer_name(handler.module, handler.name, instance if broadcast else ""),
        filters=(names.event(handler.pattern),),
        ack_wait=min(handler.ack_wait, ACK_WAIT_MAX) if handler.key else handler.ack_wait,
        ack_pending_max=BUFFER_MAX if handler.key else -1,
        start=start.timestamp() if isinstance(start, datetime) else start,
        replicas=replicas,
        inactive_seconds=BROADCAST_INACTIVE if broadcast else 0,
        description=f"{handler.module}: {handler.name}",
        update=True,
    )
