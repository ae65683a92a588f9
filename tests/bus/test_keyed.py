"""Events of one key in the order of the stream: over retries, takeovers, lost connections and zombies."""

from __future__ import annotations

import asyncio
import gc
from collections import defaultdict
from random import Random
from typing import Any

import pytest

from jetloom.bus import Event, EventSubscription, Retry, list_dead_letters
from jetloom.errors import TaskFailed
from jetloom.messages import Names
from jetloom.stores import dlq_asset, events_asset, markers_asset
from jetloom.telemetry import Metrics
from jetloom.testing import PROCESS, FaultRates, SeededFaults, VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import MemoryServer, MemoryTransport
from tests.bus.kit import TYPE, Order, Seen, Shop, failing, quiet, run_killing, shop
from tests.runtime.world import Runner, run_on_twin, until

KEY = "event.payload.key"

# What a killed process had under way is never awaited.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


def orders_of(seen: list[Event[Order]]) -> dict[str, list[int]]:
    """Sequences by key, each where it was handled first."""
    found: dict[str, list[int]] = defaultdict(list)
    for event in seen:
        if event.sequence not in found[event.payload.key]:
            found[event.payload.key].append(event.sequence)
    return found


def test_one_key_in_order_keys_beside_each_other(run_on: Runner) -> None:
    """Events of a key are handled one after the other in stream order; different keys at the same time."""

    @shop
    async def scenario(shop: Shop) -> None:
        running: set[str] = set()
        beside = 0

        async def work(event: Event[Order]) -> None:
            nonlocal beside
            assert event.payload.key not in running
            running.add(event.payload.key)
            beside = max(beside, len(running))
            await asyncio.sleep(0.01)
            running.discard(event.payload.key)

        seen = Seen(work)
        await shop.subscribe(seen.handler(key=KEY, concurrency=4))
        for number in range(40):
            await shop.place(f"o{number}", key=f"k{number % 5}")
        await until(lambda: len(seen.ids) == 40, "all are handled")
        await shop.settled()
        assert all(order == sorted(order) for order in orders_of(seen.events).values())
        assert beside == 4

    run_on(scenario)


def test_a_retry_holds_its_key_and_no_other(run_on: Runner) -> None:
    """A failed event is tried again before the next of its key, while other keys go on; poison gives way in the end."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen(failing({"a1"}, lambda: RuntimeError("no")))
        await shop.subscribe(seen.handler(key=KEY, retry=Retry(max=2, initial=0.4, jitter=0)))
        await shop.place("a1", key="a")
        await shop.place("b1", key="b")
        await shop.place("a2", key="a")
        await until(lambda: "a2" in seen.ids, "the next of the key follows")
        await shop.settled()
        assert [each for each in seen.ids if each[0] == "a"] == ["a1", "a1", "a1", "a2"]
        assert seen.ids.index("b1") < 3
        assert shop.value("jetloom_dead_letters_total") == 1
        assert [event.delivery for event in seen.events if event.payload.id == "a1"] == [1, 1, 1]

    run_on(scenario)


def test_what_has_no_key_is_a_dead_letter() -> None:
    """An event whose key can't be told does not stop the others."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen()
        await shop.subscribe(seen.handler(key="event.payload.nothing"))
        other = Seen()
        await shop.subscribe(other.handler(name="other", key=KEY))
        await shop.transport.publish(shop.names.event(TYPE), b"no json")
        await shop.place("a", key="k")
        await until(lambda: other.ids == ["a"], "the good one is handled")
        letters, _ = await list_dead_letters(shop.transport, shop.names)
        await until(lambda: shop.value("jetloom_dead_letters_total") >= 1, "there are dead letters")
        assert {letter.code for letter in letters} <= {"decode.failed", "expression.failed"}

    run_on_twin(scenario)


def test_a_standby_takes_over_after_a_drain(run_on: Runner) -> None:
    """One replica is active; when it drains, the other goes on where it was, in order."""

    @shop
    async def scenario(shop: Shop) -> None:
        async def slow(_: Event[Order]) -> None:
            await asyncio.sleep(0.02)

        one, two = Seen(slow), Seen(slow)
        first = await shop.subscribe(one.handler(key=KEY))
        await shop.place("o0", key="k")
        await until(lambda: one.ids == ["o0"], "the first is active")
        other = await shop.world.connect("other")
        await shop.subscribe(two.handler(key=KEY), transport=other)
        await shop.place(*[f"o{number}" for number in range(1, 30)], key="k")
        await until(lambda: len(one.ids) > 5, "some are handled")
        assert two.ids == []
        await first.drain(5)
        await until(lambda: len({*one.ids, *two.ids}) == 30, "the other takes over")
        await shop.settled()
        handled = one.events + two.events
        assert [event.sequence for event in handled] == sorted(event.sequence for event in handled)
        assert len(handled) == 30

    run_on(scenario)


def test_pause_hands_over_and_resume_stands_by() -> None:
    """A paused replica gives its place to another; resumed it stands by, and gets the place back."""

    @shop
    async def scenario(shop: Shop) -> None:
        one, two = Seen(), Seen()
        first = await shop.subscribe(one.handler(key=KEY))
        await shop.place("a", key="k")
        await until(lambda: one.ids == ["a"], "the first is active")
        second = await shop.subscribe(two.handler(key=KEY), transport=await shop.world.connect("other"))
        await first.pause()
        await shop.place("b", key="k")
        await until(lambda: two.ids == ["b"], "the second is active")
        await first.resume()
        await second.pause()
        await shop.place("c", key="k")
        await until(lambda: one.ids == ["a", "c"], "the first is active again")

    run_on_twin(scenario)


def test_a_killed_replica_is_followed_within_seconds() -> None:
    """A standby takes over from a killed replica, and begins with what that one had not ended."""

    @shop
    async def scenario(shop: Shop) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        assert isinstance(shop.transport, MemoryTransport)

        async def slow(_: Event[Order]) -> None:
            await asyncio.sleep(1)

        one, two = Seen(slow), Seen()

        async def live() -> None:
            PROCESS.set("one")
            transport = await shop.world.connect("one")
            await shop.subscribe(one.handler(key=KEY), transport=transport, doomed=True)

        await asyncio.create_task(live())
        await shop.place(*[f"o{number}" for number in range(20)], key="k")
        await until(lambda: len(one.ids) == 5, "the fifth is being handled")
        await shop.subscribe(two.handler(key=KEY))
        began = loop.time()
        loop.kill("one")
        shop.transport.memory.abandon("one")
        await until(lambda: len(two.ids) >= 16, "the standby has the rest")
        assert loop.time() - began < 15
        assert two.ids == [f"o{number}" for number in range(4, 20)]

    run_killing(scenario)


def test_a_zombie_begins_nothing() -> None:
    """A replica that was stopped and goes on after its lock expired calls no handler, and acknowledges nothing."""

    @shop
    async def scenario(shop: Shop) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        thawed = False

        async def work(_: Event[Order]) -> None:
            assert not thawed, "a zombie began"
            await asyncio.sleep(0.1)

        one, two = Seen(work), Seen()

        async def live() -> None:
            PROCESS.set("one")
            transport = await shop.world.connect("one")
            await shop.subscribe(one.handler(key=KEY), transport=transport, doomed=True)

        await asyncio.create_task(live())
        await shop.place(*[f"o{number}" for number in range(30)], key="k")
        await until(lambda: len(one.ids) == 10, "some are handled")
        loop.freeze("one")
        await shop.subscribe(two.handler(key=KEY))
        await until(lambda: len(two.ids) >= 10, "the standby goes on")
        thawed = True
        before = len(one.ids)
        loop.thaw("one")
        await until(lambda: "o29" in two.ids, "the standby has all")
        await quiet(10)
        assert len(one.ids) == before
        assert two.ids == sorted(two.ids, key=lambda each: int(each[1:]))

    run_killing(scenario)


def test_a_lost_connection_keeps_the_order() -> None:
    """What was under way into a connection that was lost comes before what follows it."""

    @shop
    async def scenario(shop: Shop) -> None:
        assert isinstance(shop.transport, MemoryTransport)
        seen = Seen()
        mine = await shop.world.connect("mine")
        assert isinstance(mine, MemoryTransport)
        await shop.subscribe(seen.handler(key=KEY), transport=mine)
        for number in range(60):
            await shop.place(f"o{number}", key=f"k{number % 3}")
            if number % 15 == 7:
                mine.disconnect(lose_sent=True)
                asyncio.get_running_loop().call_later(0.5, mine.reconnect)
            await asyncio.sleep(0.1)
        await until(lambda: len(set(seen.ids)) == 60, "all are handled")
        assert all(order == sorted(order) for order in orders_of(seen.events).values())

    run_on_twin(scenario)


def test_a_broadcast_has_order_without_a_lock() -> None:
    """Every replica of a broadcast with a key has the order for itself."""

    @shop
    async def scenario(shop: Shop) -> None:
        one, two = Seen(), Seen()
        await shop.subscribe(one.handler(key=KEY, mode="broadcast"))
        await shop.subscribe(two.handler(key=KEY, mode="broadcast"))
        await shop.place(*[f"o{number}" for number in range(20)], key="k")
        await until(lambda: len(one.ids) == len(two.ids) == 20, "both have all")
        assert one.ids == two.ids

    run_on_twin(scenario)


# -- a small simulation
EVENTS = 60
KEYS = 4
NAMES = Names("sim")
RATES = FaultRates(
    repeat=0.02, muted=0.01, lost=0.005, cut_before=0.002, cut_after=0.002, late_redelivery=0.1
)


class Universe:
    """Two replicas that are killed, frozen and cut off at random, while events are published."""

    def __init__(self, seed: int) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.loop = loop
        self.random = Random(seed)
        self.clock = VirtualClock(loop, seed)
        self.server = MemoryServer(self.clock)
        self.faults = SeededFaults(seed, RATES)
        self.handled: list[tuple[float, str, Event[Order]]] = []
        self.ended: set[int] = set()
        self.generation = 0
        self.poison = {f"o{self.random.randrange(EVENTS)}" for _ in range(2)}

    async def replica(self, name: str) -> None:
        PROCESS.set(name)
        transport = self.server.connect(name)

        async def work(event: Event[Order]) -> None:
            self.handled.append((self.loop.time(), name, event))
            await asyncio.sleep(self.random.choice((0, 0, 0.01, 0.3, 1.5)))
            if event.payload.id in self.poison:
                raise TaskFailed("poison", "no")
            if self.random.random() < 0.1:
                raise RuntimeError("now and then")
            self.ended.add(event.sequence)

        handler = Seen(None).handler(key=KEY, concurrency=3, retry=Retry(max=50, initial=0.2, max_delay=2))
        handler = _with(handler, work)
        await EventSubscription(handler, transport, NAMES, self.clock, Metrics(process=False)).start()
        await self.loop.never()

    def spawn(self) -> str:
        self.generation += 1
        name = f"r{self.generation}"
        self.loop.create_task(self.replica(name), name=name)
        return name

    async def trouble(self, alive: list[str]) -> None:
        """One thing goes wrong, and is made good after a while."""
        victim = self.random.randrange(len(alive))
        name = alive[victim]
        kind = self.random.choice(("kill", "freeze", "cut", "cut"))
        if kind == "kill":
            self.loop.kill(name)
            self.server.abandon(name)
            await asyncio.sleep(self.random.uniform(0, 3))
            alive[victim] = self.spawn()
        elif kind == "freeze":
            self.loop.freeze(name)
            await asyncio.sleep(self.random.uniform(0.5, 12))
            self.loop.thaw(name)
        else:
            for transport in self.server.transports:
                if transport.name == name:
                    transport.disconnect(lose_sent=self.random.random() < 0.5)
                    transport.reconnect_later(self.random.uniform(0.1, 7))

    async def run(self) -> None:
        publisher = self.server.connect("publisher")
        for make in (markers_asset, events_asset, dlq_asset):
            await publisher.ensure(make(NAMES))
        self.server.faults = self.faults
        alive = [self.spawn(), self.spawn()]
        for number in range(EVENTS):
            body = b'{"id":"o%d","key":"k%d"}' % (number, self.random.randrange(KEYS))
            while True:
                try:
                    await publisher.append(NAMES.event(TYPE), body, message_id=f"o{number}")
                    break
                except Exception:  # whatever the fault plan does to the publisher: it tries again
                    await asyncio.sleep(0.2)
            await asyncio.sleep(self.random.choice((0, 0, 0.1, 0.5)))
            if self.random.random() < 0.08:
                await self.trouble(alive)
        until_at = self.loop.time() + 300
        dead = 0
        while len(self.ended) + dead < EVENTS:
            assert self.loop.time() < until_at, f"{EVENTS - len(self.ended) - dead} events were not handled"
            await asyncio.sleep(1)
            state = self.server.stream_state(NAMES.dlq_stream)
            dead = 0 if state is None else state.messages

    def check(self) -> None:
        """The order in which each key's events were handled first is the stream's, and none runs beside another."""
        firsts: dict[str, list[int]] = defaultdict(list)
        for _, _, event in self.handled:
            if event.sequence not in firsts[event.payload.key]:
                firsts[event.payload.key].append(event.sequence)
        for key, order in firsts.items():
            assert order == sorted(order), f"{key}: {order}"


def _with(handler: Any, work: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(handler, function=work)


@pytest.mark.parametrize("block", range(10))
def test_order_through_every_trouble(block: int, caplog: pytest.LogCaptureFixture) -> None:
    """Under 100 seeds of kills, freezes, cuts, failures and poison every event is handled, each key's in order."""
    caplog.set_level("CRITICAL", "jetloom")
    for seed in range(block * 10, block * 10 + 10):

        async def main(seed: int = seed) -> None:
            universe = Universe(seed)
            await universe.run()
            universe.check()

        try:
            run_virtual(main, seed=seed, limit=2_000)
            gc.collect()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
