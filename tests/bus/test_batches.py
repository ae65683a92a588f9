"""Several events at once: how many, how long they wait, and what a failure does to each of them."""

from __future__ import annotations

import asyncio

from jetloom.bus import Event, Retry, list_dead_letters
from jetloom.errors import TaskFailed
from tests.bus.kit import TYPE, Order, Seen, Shop, failing, shop
from tests.runtime.world import Runner, run_on_twin, until


def test_a_batch_is_full_or_has_waited(run_on: Runner) -> None:
    """A call gets at most `batch` events; fewer when the first of them has waited `batch_wait`."""

    @shop
    async def scenario(shop: Shop) -> None:
        await shop.place(*[f"o{number}" for number in range(10)])
        seen = Seen()
        await shop.subscribe(seen.handler(batch=4, batch_wait=0.3, concurrency=1))
        await until(lambda: len(seen.ids) == 10, "all are handled")
        assert seen.batches == [
            ["o0", "o1", "o2", "o3"],
            ["o4", "o5", "o6", "o7"],
            ["o8", "o9"],
        ]
        await shop.settled()
        assert shop.value("jetloom_events_handled_total") == 10

    run_on(scenario)


def test_a_lone_event_waits_no_longer() -> None:
    """One event alone is handled after `batch_wait`, and the next one waits anew."""

    @shop
    async def scenario(shop: Shop) -> None:
        times: list[float] = []
        loop = asyncio.get_running_loop()

        async def note(_: Event[Order]) -> None:
            times.append(loop.time())

        seen = Seen(note)
        await shop.subscribe(seen.handler(batch=100, batch_wait=5))
        await asyncio.sleep(2)
        began = loop.time()
        await shop.place("a")
        await until(lambda: seen.ids == ["a"], "it is handled")
        await shop.place("b")
        await until(lambda: seen.ids == ["a", "b"], "the second is handled")
        assert 5 <= times[0] - began < 5.1
        assert 5 <= times[1] - times[0] < 5.1

    run_on_twin(scenario)


def test_poison_is_isolated(run_on: Runner) -> None:
    """After a failed batch its events come again, alone: only the one that fails alone is a dead letter."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen(failing({"o2"}, lambda: RuntimeError("poison")))
        await shop.place(*[f"o{number}" for number in range(5)])
        await shop.subscribe(seen.handler(batch=5, batch_wait=0.5))
        await until(lambda: shop.value("jetloom_dead_letters_total") == 1, "one is a dead letter")
        await shop.settled()
        letters, _ = await list_dead_letters(shop.transport, shop.names)
        assert [(letter.data, letter.deliveries) for letter in letters] == [
            (b'{"id":"o2","key":"","amount":0}', 3)
        ]
        assert len(seen.batches[0]) == 5
        assert sorted(batch[0] for batch in seen.batches[1:] if batch != ["o2"]) == ["o0", "o1", "o3", "o4"]
        assert all(len(batch) == 1 for batch in seen.batches[1:])
        assert shop.value("jetloom_events_handled_total") == 4

    run_on(scenario)


def test_a_terminal_error_of_a_batch_judges_nobody() -> None:
    """Even without retries an event is a dead letter only for what it did alone."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen(failing({"b"}, lambda: TaskFailed("never", "no")))
        await shop.place("a", "b", "c")
        await shop.subscribe(seen.handler(batch=3, batch_wait=0.5, retry=Retry(max=0)))
        await until(lambda: shop.value("jetloom_dead_letters_total") == 1, "one is a dead letter")
        await shop.settled()
        assert shop.value("jetloom_events_handled_total") == 2

    run_on_twin(scenario)


def test_what_does_not_decode_leaves_its_batch() -> None:
    """An event that does not fit is a dead letter at once, and what a filter passes over is not in the list."""

    @shop
    async def scenario(shop: Shop) -> None:
        await shop.place("a", amount=5)
        await shop.transport.publish(shop.names.event(TYPE), b'{"amount":5}')
        await shop.place("small", amount=1)
        await shop.place("c", amount=5)
        seen = Seen()
        await shop.subscribe(seen.handler(batch=4, batch_wait=0.5, where="event.payload.amount > 1"))
        await until(lambda: seen.batches == [["a", "c"]], "the good ones are handled together")
        await shop.settled()
        letters, _ = await list_dead_letters(shop.transport, shop.names)
        assert [(letter.code, letter.deliveries) for letter in letters] == [("decode.failed", 1)]

    run_on_twin(scenario)


def test_batches_are_limited_in_number() -> None:
    """`concurrency` calls run at once, and at most one batch more is held."""

    @shop
    async def scenario(shop: Shop) -> None:
        go = asyncio.Event()

        async def wait(_: Event[Order]) -> None:
            await go.wait()

        seen = Seen(wait)
        await shop.place(*[f"o{number}" for number in range(50)])
        await shop.subscribe(seen.handler(batch=5, concurrency=2))
        await until(lambda: len(seen.batches) == 2, "two batches run")
        await asyncio.sleep(5)
        state = await shop.transport.consumer_state(shop.names.events_stream, "orders=placed")
        assert state is not None
        assert (len(seen.batches), state.unacknowledged) == (2, 15)
        go.set()
        await until(lambda: len(seen.ids) == 50, "all are handled")

    run_on_twin(scenario)


def test_a_drain_gives_a_batch_back() -> None:
    """A batch that does not end in time is cancelled, and every event of it goes back."""

    @shop
    async def scenario(shop: Shop) -> None:
        async def long(_: Event[Order]) -> None:
            await asyncio.sleep(3600)

        first, second = Seen(long), Seen()
        await shop.place("a", "b", "c")
        subscription = await shop.subscribe(first.handler(batch=2, batch_wait=60, concurrency=1))
        await until(lambda: first.batches == [["a", "b"]], "the first batch runs")
        assert await subscription.drain(1) == 3
        await shop.subscribe(second.handler(batch=2))
        await until(lambda: sorted(second.ids) == ["a", "b", "c"], "the next one has all")

    run_on_twin(scenario)
