"""Dead letters: found, handled again by the handler that failed, dropped."""

from __future__ import annotations

import asyncio

import pytest

from jetloom.bus import (
    Event,
    EventHandler,
    ReplayDesk,
    ReplayOutcome,
    drop_dead_letters,
    find_dead_letters,
    get_dead_letter,
    list_dead_letters,
    replay_dead_letters,
)
from jetloom.errors import JetloomError, NotFound, TaskFailed, to_info
from jetloom.lifecycle import TaskSet
from jetloom.messages import H_ERROR, H_ERROR_CODE
from jetloom.runtime import Module, on
from jetloom.transport import Incoming
from tests.bus.kit import TYPE, Order, Seen, Shop, failing, shop
from tests.runtime.world import Runner, World, run_on_twin, until, until_true


async def serve(shop: Shop, desk: ReplayDesk, tasks: TaskSet) -> None:
    """As a module's process does."""

    async def answer(incoming: Incoming) -> None:
        try:
            data, headers = await desk(incoming.data), {}
        except JetloomError as error:
            data, headers = b"", {H_ERROR_CODE: to_info(error).code, H_ERROR: str(error)}
        await shop.transport.publish(incoming.reply, data, headers=headers)

    subject = shop.names.rpc(desk.module, desk.name)
    await shop.transport.subscribe(subject, lambda incoming: void(tasks.spawn(answer(incoming))), queue="q")


def void(_: object) -> None: ...


def desk_of(shop: Shop, *handlers: EventHandler[Order]) -> ReplayDesk:
    return ReplayDesk("orders", handlers, shop.transport, shop.names, shop.world.clock, shop.metrics)  # pyright: ignore[reportArgumentType]


async def make_letters(shop: Shop, seen: Seen, *ids: str) -> None:
    await shop.place(*ids)
    await until(lambda: shop.value("jetloom_dead_letters_total") == len(ids), "they are dead letters")
    await shop.settled()
    seen.events.clear()


def test_a_letter_is_replayed_to_its_handler(run_on: Runner) -> None:
    """The handler that failed handles it again, no other group sees it, and the letter is gone."""

    @shop
    async def scenario(shop: Shop) -> None:
        broken = True

        async def work(_: Event[Order]) -> None:
            if broken:
                raise TaskFailed("broken", "not yet")

        seen, other = Seen(work), Seen()
        handler = seen.handler(where="event.payload.amount < 100", dedupe=60.0, timeout=5.0)
        await shop.subscribe(handler)
        await shop.subscribe(other.handler(module="mail", name="placed"))
        await make_letters(shop, seen, "a", "b")
        await until(lambda: other.ids == ["a", "b"], "the other group had them")
        broken = False
        tasks = TaskSet("answers")
        await serve(shop, desk_of(shop, handler), tasks)
        letters = await find_dead_letters(shop.transport, shop.names, module="orders")
        told: list[ReplayOutcome] = []
        outcomes = await replay_dead_letters(shop.transport, shop.names, letters, tell=told.append)
        assert [outcome.outcome for outcome in outcomes] == ["handled", "handled"]
        assert len(told) == 2
        assert sorted(seen.ids) == ["a", "b"]
        assert seen.events[0].delivery == 2
        assert other.ids == ["a", "b"]
        assert await find_dead_letters(shop.transport, shop.names) == []
        assert shop.value("jetloom_dead_letters_replayed_total", outcome="handled") == 2
        again = await replay_dead_letters(shop.transport, shop.names, letters[:1])
        assert (again[0].outcome, again[0].code) == ("gone", "not_found")
        await tasks.stop()

    run_on(scenario)


def test_what_fails_again_says_so() -> None:
    """A replay in vain leaves one letter with the latest reason, the first one, and how often it was tried."""

    @shop
    async def scenario(shop: Shop) -> None:
        reasons = iter(["first", "second", "third"])

        async def work(_: Event[Order]) -> None:
            raise TaskFailed("bad", next(reasons))

        seen = Seen(work)
        await shop.subscribe(seen.handler())
        await make_letters(shop, seen, "a")
        desk = desk_of(shop, seen.handler())
        letters, _ = await list_dead_letters(shop.transport, shop.names)
        first_at = letters[0].at
        await asyncio.sleep(5)
        for count, reason in ((1, "second"), (2, "third")):
            letters, _ = await list_dead_letters(shop.transport, shop.names)
            outcome = await desk.replay(letters[0])
            assert (outcome.outcome, outcome.code, outcome.reason) == ("failed", "bad", reason)
            again = await get_dead_letter(shop.transport, shop.names, outcome.letter)
            assert (again.replays, again.reason, again.first_reason) == (count, reason, "first")
            assert (again.first_code, again.first_at, again.deliveries) == ("bad", first_at, 1)
            assert again.data == letters[0].data
            with pytest.raises(NotFound):
                await get_dead_letter(shop.transport, shop.names, letters[0].sequence)
        assert "third" in again.stack
        assert shop.value("jetloom_dead_letters_replayed_total", outcome="failed") == 2

    run_on_twin(scenario)


def test_a_letter_nobody_serves_is_named(run_on: Runner) -> None:
    """Without a replica of the module, or without that handler in it, the outcome says what is missing."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen(failing({"a"}, lambda: TaskFailed("bad", "no")))
        await shop.subscribe(seen.handler())
        await make_letters(shop, seen, "a")
        letters = await find_dead_letters(shop.transport, shop.names)
        [outcome] = await replay_dead_letters(shop.transport, shop.names, letters)
        assert outcome.outcome == "unserved"
        assert "no replica of module 'orders' runs" in outcome.reason
        outcome = await desk_of(shop, seen.handler(name="renamed")).replay(letters[0])
        assert outcome.outcome == "unserved"
        assert len(await find_dead_letters(shop.transport, shop.names)) == 1

    run_on(scenario)


def test_letters_are_found_by_what_they_say() -> None:
    """Module, handler, code, age and number narrow a search; dropping deletes what was found."""

    @shop
    async def scenario(shop: Shop) -> None:
        codes = {"a": "one", "b": "two", "c": "one"}

        async def work(event: Event[Order]) -> None:
            raise TaskFailed(codes[event.payload.id], "no")

        seen, other = Seen(work), Seen(work)
        await shop.subscribe(seen.handler(concurrency=1))
        await shop.subscribe(other.handler(name="other", concurrency=1))
        await make_letters(shop, seen, "a")
        await asyncio.sleep(100)
        since = shop.world.clock.now()
        await shop.place("b", "c")
        transport, names = shop.transport, shop.names
        await until(lambda: shop.value("jetloom_dead_letters_total") == 3, "all of one are dead letters")
        await shop.settled("orders=other")

        async def codes_of(**fields: object) -> list[str]:
            return [letter.code for letter in await find_dead_letters(transport, names, **fields)]  # type: ignore[arg-type]

        assert len(await codes_of()) == 6
        assert await codes_of(handler="placed") == ["one", "two", "one"]
        assert await codes_of(handler="placed", code="one") == ["one", "one"]
        assert await codes_of(handler="placed", since=since) == ["two", "one"]
        assert await codes_of(handler="placed", limit=2) == ["one", "two"]
        assert await codes_of(module="nobody") == []
        found = await find_dead_letters(transport, names, handler="placed", code="one")
        assert await drop_dead_letters(transport, names, found) == 2
        assert await drop_dead_letters(transport, names, found) == 0
        assert await codes_of(handler="placed") == ["two"]

    run_on_twin(scenario)


def test_what_never_decoded_can_be_replayed() -> None:
    """After the type was widened an undecodable letter is handled; before, it fails again."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen()
        await shop.subscribe(seen.handler())
        await shop.transport.publish(shop.names.event(TYPE), b'{"id":17}')
        await until(lambda: shop.value("jetloom_dead_letters_total") == 1, "it is a dead letter")
        desk = desk_of(shop, seen.handler())
        letters, _ = await list_dead_letters(shop.transport, shop.names)
        outcome = await desk.replay(letters[0])
        assert (outcome.outcome, outcome.code) == ("failed", "decode.failed")

    run_on_twin(scenario)


def test_a_batch_handler_replays_one() -> None:
    """A handler of batches gets a batch of one."""

    @shop
    async def scenario(shop: Shop) -> None:
        broken = {"a"}
        seen = Seen(failing(broken, lambda: TaskFailed("bad", "no")))
        handler = seen.handler(batch=10, batch_wait=0.1)
        await shop.subscribe(handler)
        await make_letters(shop, seen, "a")
        broken.clear()
        seen.batches.clear()
        letters, _ = await list_dead_letters(shop.transport, shop.names)
        assert (await desk_of(shop, handler).replay(letters[0])).outcome == "handled"
        assert seen.batches == [["a"]]

    run_on_twin(scenario)


class Orders(Module):
    id = "orders"

    def __init__(self) -> None:
        self.broken = True
        self.handled: list[str] = []

    @on(TYPE)
    async def placed(self, event: Event[Order]) -> None:
        if self.broken:
            raise TaskFailed("broken", "not yet")
        self.handled.append(event.payload.id)


def test_a_running_module_serves_replays(run_on: Runner) -> None:
    """A module needs nothing of its own: its process answers for its handlers."""

    async def scenario(world: World) -> None:
        orders = Orders()
        async with world.running(orders) as (_, transport):
            await transport.publish(world.names.event(TYPE), b'{"id":"a"}')

            async def buried() -> object:
                return await find_dead_letters(transport, world.names)

            await until_true(buried, "it is a dead letter")
            letters = await find_dead_letters(transport, world.names)
            [outcome] = await replay_dead_letters(transport, world.names, letters)
            assert (outcome.outcome, outcome.code) == ("failed", "broken")
            orders.broken = False
            letters = await find_dead_letters(transport, world.names)
            assert [letter.sequence for letter in letters] == [outcome.letter]
            [outcome] = await replay_dead_letters(transport, world.names, letters)
            assert (outcome.outcome, orders.handled) == ("handled", ["a"])
            [outcome] = await replay_dead_letters(transport, world.names, letters)
            assert outcome.outcome == "gone"
            assert await find_dead_letters(transport, world.names) == []

    run_on(scenario)
