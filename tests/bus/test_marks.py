"""Events that were handled are passed over, for longer than the stream's own window."""

from __future__ import annotations

import asyncio

from jetloom.bus import Event
from jetloom.errors import TaskFailed
from jetloom.testing import PROCESS, VirtualLoop
from jetloom.transport import MemoryTransport
from tests.bus.kit import TYPE, Order, Seen, Shop, failing, quiet, run_killing, shop
from tests.runtime.world import Runner, run_on_twin, until


async def copy(shop: Shop, name: str, event_id: str) -> None:
    """The same event from another publisher's repetition: same source and id, stored a second time."""
    headers = {"ce-id": event_id, "ce-source": "test"}
    await shop.transport.append(
        shop.names.event(TYPE),
        b'{"id":"%s"}' % name.encode(),
        headers=headers,
        message_id=shop.world.clock.token(),
    )


def test_a_copy_is_passed_over(run_on: Runner) -> None:
    """A second event of the same source and id is acknowledged unseen and counted; another id is not."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen()
        await shop.subscribe(seen.handler(dedupe=3600.0))
        await copy(shop, "a", "e1")
        await until(lambda: seen.ids == ["a"], "the first is handled")
        await shop.settled()
        await copy(shop, "a-again", "e1")
        await copy(shop, "b", "e2")
        await until(lambda: seen.ids == ["a", "b"], "the other is handled")
        await shop.settled()
        assert shop.value("jetloom_events_deduped_total") == 1
        assert shop.value("jetloom_events_handled_total") == 2

    run_on(scenario)


def test_it_outlives_the_streams_window() -> None:
    """Minutes later a copy is still known, and after `dedupe` it is an event like any other."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen()
        await shop.subscribe(seen.handler(dedupe=1000.0))
        await shop.place("a")
        await until(lambda: seen.ids == ["a"], "the first is handled")
        await quiet(600)
        await shop.place("a")
        await shop.settled()
        assert seen.ids == ["a"]
        await quiet(600)
        await shop.place("a")
        await until(lambda: seen.ids == ["a", "a"], "it is handled again")

    run_on_twin(scenario)


def test_two_copies_at_once_are_handled_once(run_on: Runner) -> None:
    """While one copy is being handled the other waits, and is passed over when the first is done."""

    @shop
    async def scenario(shop: Shop) -> None:
        go = asyncio.Event()

        async def wait(_: Event[Order]) -> None:
            await go.wait()

        seen = Seen(wait)
        await shop.subscribe(seen.handler(dedupe=60.0))
        await copy(shop, "one", "e1")
        await copy(shop, "two", "e1")
        await until(lambda: len(seen.ids) == 1, "one is being handled")
        await quiet(0.3)
        assert len(seen.ids) == 1
        go.set()
        await shop.settled()
        assert len(seen.ids) == 1
        assert shop.value("jetloom_events_deduped_total") == 1

    run_on(scenario)


def test_a_failed_copy_leaves_the_way_free() -> None:
    """When the first copy fails for good, the other one is handled."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen(failing({"one"}, lambda: TaskFailed("never", "no")))
        await shop.subscribe(seen.handler(dedupe=60.0, concurrency=1))
        await copy(shop, "one", "e1")
        await copy(shop, "two", "e1")
        await until(lambda: seen.ids == ["one", "two"], "the second is handled")
        await shop.settled()
        assert shop.value("jetloom_dead_letters_total") == 1
        assert shop.value("jetloom_events_handled_total") == 1

    run_on_twin(scenario)


def test_a_retry_is_no_copy() -> None:
    """An event's own next try is not taken for a second event."""

    @shop
    async def scenario(shop: Shop) -> None:
        tries = iter([RuntimeError("first"), RuntimeError("second")])

        async def twice(_: Event[Order]) -> None:
            if (error := next(tries, None)) is not None:
                raise error

        seen = Seen(twice)
        await shop.subscribe(seen.handler(dedupe=60.0))
        await shop.place("a")
        await until(lambda: shop.value("jetloom_events_handled_total") == 1, "it is handled")
        assert [event.delivery for event in seen.events] == [1, 2, 3]

    run_on_twin(scenario)


def test_a_crashed_holder_does_not_block() -> None:
    """A mark of a killed process is taken over: by its own delivery at once, by a copy after the ack wait."""

    @shop
    async def scenario(shop: Shop) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)

        async def long(_: Event[Order]) -> None:
            await asyncio.sleep(3600)

        doomed, heir = Seen(long), Seen()

        async def live() -> None:
            PROCESS.set("doomed")
            transport = await shop.world.connect("doomed")
            await shop.subscribe(doomed.handler(dedupe=600.0, ack_wait=5), transport=transport, doomed=True)

        await asyncio.create_task(live())
        await copy(shop, "one", "e1")
        await until(lambda: doomed.ids == ["one"], "the doomed one has it")
        loop.kill("doomed")
        assert isinstance(shop.transport, MemoryTransport)
        shop.transport.memory.abandon("doomed")
        began = loop.time()
        await shop.subscribe(heir.handler(dedupe=600.0, ack_wait=5))
        await copy(shop, "two", "e1")
        await until(lambda: heir.ids, "a copy is handled")
        assert loop.time() - began < 12
        await shop.settled()
        assert len(heir.ids) == 1

    run_killing(scenario)


def test_a_long_handler_keeps_its_mark() -> None:
    """An open mark is renewed while its handler works, so that a copy waits however long it takes."""

    @shop
    async def scenario(shop: Shop) -> None:
        async def long(_: Event[Order]) -> None:
            await asyncio.sleep(25)

        seen = Seen(long)
        await shop.subscribe(seen.handler(dedupe=600.0, ack_wait=3))
        await copy(shop, "one", "e1")
        await copy(shop, "two", "e1")
        await until(lambda: shop.value("jetloom_events_handled_total") == 1, "one is handled")
        await shop.settled()
        assert len(seen.ids) == 1

    run_on_twin(scenario)


def test_batches_are_deduped_too() -> None:
    """A copy in the same batch, or in a later one, is not in the list twice."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen()
        await shop.subscribe(seen.handler(batch=3, batch_wait=0.2, dedupe=60.0))
        await copy(shop, "one", "e1")
        await copy(shop, "two", "e1")
        await copy(shop, "other", "e2")
        await until(lambda: shop.value("jetloom_events_deduped_total") == 1, "the copy is passed over")
        await shop.settled()
        assert len(seen.ids) == 2

    run_on_twin(scenario)
