"""What a host serves for its modules: endpoints, subscriptions, schedules, and the replay of their dead letters."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Awaitable

from ..bus import Bus, Event, EventHandler, EventSubscription, PayloadDecoder, ReplayDesk
from ..clock import Clock
from ..config import Settings
from ..errors import InvalidInput
from ..messages import Names
from ..rpc import Endpoint, MicroService
from ..stores import Locks, locks_asset
from ..telemetry import Metrics
from ..transport import Transport
from ..types import Actor, ActorKind
from ._declare import Declared
from ._every import ScheduleHandler, TickSubscription
from ._every_store import Schedules, TickBody
from ._metadata import INTERNAL, metadata_of
from ._module import Module
from ._plan import Plan

OWNER_CHARACTERS_MAX = 100
"""Of the modules' ids in what others read who wait for a lock."""


class Serving:
    """Made before anything is started: what is wrong with a declaration is one of the plan's problems then.

    `locks` are the process's; `buses` are the modules', with what they subscribe at run time.
    """

    def __init__(
        self,
        plan: Plan,
        transport: Transport,
        names: Names,
        settings: Settings,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._plan = plan
        self._transport = transport
        self._names = names
        self._replicas = settings.replicas
        self._clock = clock
        self._metrics = metrics
        self._instance = clock.token()[:12]
        self.locks = self._make_locks()
        self.buses = {module.id: self._make_bus(module) for module in plan.modules}
        self._schedules = Schedules(transport, names, clock, replicas=settings.replicas)
        self._services: dict[str, MicroService] = {}
        self._subscriptions: list[EventSubscription[object]] = []
        self._ticks: list[TickSubscription] = []
        if not plan.problems:
            for module in plan.modules:
                self._make(module, plan.declared[module.id])

    async def start(self) -> None:
        """Lets requests, events and ticks in. Raises `AssetDrifted` and what the server says."""
        for module in self._plan.modules:
            declared = self._plan.declared[module.id]
            if not declared.events and self.buses[module.id].subscriptions:
                # It subscribed in `init`: only now it is known that it may have dead letters.
                self._services[module.id] = self._make_service(module, declared, replays=True)
            await self._services[module.id].start()
        for subscription in self._subscriptions:
            await subscription.start()
        for ticks in self._ticks:
            await ticks.start()

    async def drain(self, seconds: float) -> dict[str, int]:
        """Lets no more in and waits for what runs, at most `seconds`; how much each handler gave back, where any."""
        draining: dict[str, Awaitable[int]] = {
            f"endpoints of {service.name}": service.drain(seconds) for service in self._services.values()
        }
        for subscription in self._subscriptions:
            handler = subscription.handler
            draining[f"{handler.module}.{handler.name}"] = subscription.drain(seconds)
        for ticks in self._ticks:
            draining[f"schedule {ticks.handler.module}.{ticks.handler.name}"] = ticks.drain(seconds)
        counts, given_back = await asyncio.gather(
            asyncio.gather(*draining.values()),
            asyncio.gather(*(bus.drain(seconds) for bus in self.buses.values())),
        )
        self._services.clear()
        self._subscriptions.clear()
        self._ticks.clear()
        handed_back = {name: count for name, count in zip(draining, counts, strict=True) if count}
        for each in given_back:
            handed_back.update(each)
        return handed_back

    # -- making
    def _make(self, module: Module, declared: Declared) -> None:
        try:
            replays = bool(declared.events or declared.every)
            self._services[module.id] = self._make_service(module, declared, replays=replays)
        except InvalidInput as error:
            self._plan.problems.append(f"module {module.id!r}: {error.message}")
        self._subscriptions.extend(
            EventSubscription(
                handler,
                self._transport,
                self._names,
                self._clock,
                self._metrics,
                replicas=self._replicas,
                instance=self._instance,
                locks=self.locks,
            )
            for handler in declared.events
        )
        self._ticks.extend(
            TickSubscription(
                schedule, self._transport, self._names, self._clock, self._metrics, replicas=self._replicas
            )
            for schedule in declared.every
        )

    def _make_service(self, module: Module, declared: Declared, *, replays: bool) -> MicroService:
        endpoints = declared.endpoints
        return MicroService(
            module.id,
            [*endpoints, self._replay_endpoint(module, declared)] if replays else endpoints,
            self._transport,
            self._clock,
            self._metrics,
            version=module.version,
            description=module.description or (type(module).__doc__ or "").partition("\n")[0],
            metadata=metadata_of(module, declared, self._names.namespace),
        )

    def _replay_endpoint(self, module: Module, declared: Declared) -> Endpoint:
        """Handles dead letters of the module again, also of handlers that it subscribed itself."""
        handlers = [*declared.events, *(self._ticking(schedule) for schedule in declared.every)]
        desk = ReplayDesk(module.id, handlers, self._transport, self._names, self._clock, self._metrics)
        bus = self.buses[module.id]

        async def replay(data: bytes) -> bytes:
            for subscription in bus.subscriptions:
                desk.add(subscription.handler)
            return await desk(data)

        return Endpoint(
            name=desk.name,
            subject=self._names.rpc(module.id, desk.name),
            function=replay,
            metadata={INTERNAL: "true"},
        )

    def _ticking(self, schedule: ScheduleHandler) -> EventHandler[object]:
        """Replays a firing: it is asked for again, with all its tries, for the instant that it stood for."""

        async def trigger(event: Event[object]) -> None:
            body = event.payload
            at = body.at if isinstance(body, TickBody) else None
            name = f"{schedule.module}.{schedule.name}"
            await self._schedules.trigger(name, scheduled=at, actor=event.actor)

        return EventHandler(
            module=schedule.module,
            name=schedule.name,
            pattern=">",
            decoder=PayloadDecoder(TickBody),
            function=trigger,
        )

    def _make_locks(self) -> Locks:
        modules = ", ".join(module.id for module in self._plan.modules)
        owner = f"{modules[:OWNER_CHARACTERS_MAX]} on {platform.node()}, pid {os.getpid()}"
        asset = locks_asset(self._names, replicas=self._replicas)
        return Locks(self._transport, self._names, self._clock, self._metrics, owner=owner, asset=asset)

    def _make_bus(self, module: Module) -> Bus:
        return Bus(
            self._transport,
            self._names,
            self._clock,
            self._metrics,
            source=module.id,
            actor=Actor(ActorKind.MODULE, module.id),
            instance=self._instance,
            replicas=self._replicas,
            locks=self.locks,
        )
