"""Which events reach which replica, from when on, and how many at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from jetloom.bus import Event, EventHandler, EventSubscription, PayloadDecoder, check_event_handler
from jetloom.errors import (
    AssetDrifted,
    Conflict,
    ExpressionInvalid,
    InvalidInput,
    JetloomError,
    NameInvalid,
    TaskFailed,
)
from jetloom.messages import encode
from jetloom.transport import ConsumerAsset, MemoryTransport
from tests.bus.kit import TYPE, Order, Seen, Shop, quiet, shop
from tests.runtime.world import Runner, run_on_twin, until


def test_a_broadcast_reaches_every_replica(run_on: Runner) -> None:
    """Each replica gets what is stored since its start, retries for itself, and leaves no consumer behind."""

    @shop
    async def scenario(shop: Shop) -> None:
        await shop.place("before")
        one, two = Seen(), Seen()
        failures = iter([RuntimeError("once")])

        async def once(event: Event[Order]) -> None:
            if (error := next(failures, None)) is not None:
                raise error

        one.body = once
        first = await shop.subscribe(one.handler(mode="broadcast"))
        second = await shop.subscribe(two.handler(mode="broadcast"))
        assert first.asset.name != second.asset.name
        await shop.place("a")
        await until(lambda: one.ids == ["a", "a"] and two.ids == ["a"], "both have it, one of them twice")
        for each in (first, second):
            await each.stop()
            state = await shop.transport.consumer_state(shop.names.events_stream, each.asset.name)
            assert state is None

    run_on(scenario)


def test_a_broadcast_that_fails_for_good_is_a_dead_letter() -> None:
    """What one replica can't handle is a dead letter, like a group's."""

    @shop
    async def scenario(shop: Shop) -> None:
        async def refuse(_: Event[Order]) -> None:
            raise TaskFailed("no.way", "never")

        await shop.subscribe(Seen(refuse).handler(mode="broadcast"))
        await shop.place("a")
        await until(lambda: shop.value("jetloom_dead_letters_total") == 1, "it is a dead letter")

    run_on_twin(scenario)


def test_live_is_only_what_is_stored_while_it_listens(run_on: Runner) -> None:
    """A live handler sees what is published and what runs emit, once each, and no failure comes again."""

    @shop
    async def scenario(shop: Shop) -> None:
        await shop.place("before")

        async def fail_a(event: Event[Order]) -> None:
            if event.payload.id == "a":
                raise RuntimeError("no")

        seen = Seen(fail_a)
        subscription = await shop.subscribe(seen.handler(mode="live", pattern="shop.>"))
        await shop.place("a")
        marker = shop.names.emit("r1", 1, "k", TYPE)
        await shop.transport.append(marker, b'{"id":"emitted"}', expected=0)
        await until(lambda: sorted(seen.ids) == ["a", "emitted"], "both are seen")
        await until(lambda: shop.value("jetloom_events_failed_total") == 1, "the failure is counted")
        await subscription.stop()
        await shop.place("late")
        await quiet(0.2)
        assert sorted(seen.ids) == ["a", "emitted"]

    run_on(scenario)


def test_a_slow_live_handler_misses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is dropped, the oldest first, and counted."""
    monkeypatch.setattr("jetloom.bus._live.LiveIntake.__init__.__kwdefaults__", {"queue_max": 3})

    @shop
    async def scenario(shop: Shop) -> None:
        go = asyncio.Event()

        async def wait(_: Event[Order]) -> None:
            await go.wait()

        seen = Seen(wait)
        await shop.subscribe(seen.handler(mode="live", concurrency=1))
        await shop.place(*[f"o{number}" for number in range(10)])
        await until(lambda: shop.value("jetloom_events_dropped_total") == 6, "six are dropped")
        go.set()
        await until(lambda: len(seen.ids) == 4, "the rest is handled")
        assert seen.ids == ["o0", "o7", "o8", "o9"]

    run_on_twin(scenario)


def test_where_it_starts(run_on: Runner) -> None:
    """A new subscription begins with all events, the next, a sequence, or a time; a known one goes on where it was."""

    @shop
    async def scenario(shop: Shop) -> None:
        await shop.place("a", "b", "c")
        last = await shop.transport.last(shop.names.events_stream, shop.names.event(TYPE))
        assert last is not None
        stored = [
            one.at for one in await shop.transport.read(shop.names.events_stream, shop.names.event(TYPE))
        ]
        starts: list[tuple[str, Any, list[str]]] = [
            ("all", "all", ["a", "b", "c", "d"]),
            ("new", "new", ["d"]),
            ("sequence", 2, ["b", "c", "d"]),
            ("time", datetime.fromtimestamp(stored[0] - 1, UTC), ["a", "b", "c", "d"]),
            ("later", datetime.fromtimestamp(stored[-1] + 0.001, UTC), ["d"]),
        ]
        every = {name: Seen() for name, _, _ in starts}
        for name, start, _ in starts:
            await shop.subscribe(every[name].handler(name=name, start=start, concurrency=1))
        await quiet(0.05)
        await shop.place("d")
        for name, _, expected in starts:
            seen = every[name]
            await until(lambda seen=seen, expected=expected: seen.ids == expected, f"{name} has its events")
        again = Seen()
        for subscription_start in ("all", 1):
            other = await shop.subscribe(again.handler(name="new", start=subscription_start))
            await other.stop()
        await quiet(0.1)
        assert again.ids == []

    run_on(scenario)


def test_wildcards(run_on: Runner) -> None:
    """A pattern has * for a token and > for the rest."""

    @shop
    async def scenario(shop: Shop) -> None:
        star, rest = Seen(), Seen()
        await shop.subscribe(star.handler(name="star", pattern="shop.*.placed"))
        await shop.subscribe(rest.handler(name="rest", pattern="shop.>"))
        await shop.place("a", type="shop.order.placed")
        await shop.place("b", type="shop.stock.placed")
        await shop.place("c", type="shop.order.paid.late")
        await shop.place("d", type="crm.order.placed")
        await until(lambda: sorted(rest.ids) == ["a", "b", "c"], "the rest has three")
        await until(lambda: sorted(star.ids) == ["a", "b"], "the star has two")

    run_on(scenario)


def test_where_passes_over(run_on: Runner) -> None:
    """What does not meet the condition is acknowledged unseen and counted, whether it fits the type or not."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen()
        await shop.subscribe(
            seen.handler(where='event.payload.amount > 10 && event.source == "test"', pattern="shop.>")
        )
        await shop.place("small", amount=10)
        await shop.bus.publish("shop.other", {"amount": 1, "unlike": "an order"})
        await shop.place("big", amount=11)
        await until(lambda: seen.ids == ["big"], "the big one is handled")
        await shop.settled()
        assert shop.value("jetloom_events_filtered_total") == 2
        assert shop.value("jetloom_events_handled_total") == 1
        # A condition that can't be answered is no condition that is false.
        await shop.bus.publish("shop.other", {"no": "amount"})
        await until(lambda: shop.value("jetloom_dead_letters_total") == 1, "it is a dead letter")

    run_on(scenario)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"where": "event.payload.amount >"}, ExpressionInvalid, "character"),
        ({"where": "payload.amount > 1"}, ExpressionInvalid, "character 1"),
        ({"key": "event.payload.id +"}, ExpressionInvalid, "character"),
        ({"pattern": "shop.>.x"}, NameInvalid, "event pattern"),
        ({"batch": 2, "key": "event.id"}, InvalidInput, "key and batch"),
        ({"mode": "live", "dedupe": 60.0}, InvalidInput, "live"),
        ({"concurrency": 0}, InvalidInput, "concurrency"),
        ({"dedupe": 0.5}, InvalidInput, "dedupe"),
        ({"ack_wait": 0.1}, InvalidInput, "ack_wait"),
        ({"timeout": 0.0}, InvalidInput, "timeout"),
        ({"start": datetime(2026, 1, 1)}, InvalidInput, "zone"),
        ({"start": 0}, InvalidInput, "sequences begin at 1"),
        ({"many": Seen().many}, InvalidInput, "one function"),
    ],
)
def test_a_handler_that_cannot_be_is_refused(
    fields: dict[str, Any], error: type[JetloomError], says: str
) -> None:
    """What a declaration has wrong is said when it is made, with the position in an expression."""

    @shop
    async def scenario(shop: Shop) -> None:
        handler = Seen().handler(**fields)
        with pytest.raises(error, match=says):
            check_event_handler(handler)  # pyright: ignore[reportArgumentType]
        with pytest.raises(error, match=says):
            EventSubscription(handler, shop.transport, shop.names, shop.world.clock, shop.metrics)

    run_on_twin(scenario)


def test_no_more_is_taken_than_can_be_held(run_on: Runner) -> None:
    """A slow handler has as many events out as it may handle at once; the rest waits for others."""

    @shop
    async def scenario(shop: Shop) -> None:
        go = asyncio.Event()

        async def wait(_: Event[Order]) -> None:
            await go.wait()

        seen = Seen(wait)
        await shop.subscribe(seen.handler(concurrency=3))
        await shop.place(*[f"o{number}" for number in range(20)])
        await until(lambda: len(seen.ids) == 3, "three are handled")
        await quiet(0.3)
        state = await shop.transport.consumer_state(shop.names.events_stream, "orders=placed")
        assert state is not None
        assert (state.unacknowledged, state.pending) == (3, 17)
        go.set()
        await until(lambda: len(seen.ids) == 20, "all are handled")
        await shop.settled()
        assert seen.running_max == 3

    run_on(scenario)


def test_quick_handlers_are_fed_ahead() -> None:
    """A handler that takes no time has events pulled ahead, up to a limit; a slow one has none."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen()
        subscription = await shop.subscribe(seen.handler(concurrency=2))
        await shop.place(*[f"o{number}" for number in range(50)])
        await until(lambda: len(seen.ids) == 50, "all are handled")
        intake: Any = subscription._intake  # pyright: ignore[reportPrivateUsage]
        assert intake.ahead == 512

        async def slow(_: Event[Order]) -> None:
            await asyncio.sleep(1)

        seen.body = slow
        await shop.place(*[f"s{number}" for number in range(80)])
        await until(lambda: len(seen.ids) == 130, "all are handled")
        assert intake.ahead == 0

    run_on_twin(scenario)


def test_pause_and_resume(run_on: Runner) -> None:
    """A paused subscription takes nothing, and what it had pulled goes back; what ran has ended when it returns."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen()
        subscription = await shop.subscribe(seen.handler())
        await shop.place("a")
        await until(lambda: seen.ids == ["a"], "the first is handled")
        await subscription.pause()
        assert subscription.paused
        await shop.place("b")
        await quiet(0.3)
        assert seen.ids == ["a"]
        await subscription.resume()
        await until(lambda: seen.ids == ["a", "b"], "the second is handled")
        assert [event.delivery for event in seen.events] == [1, 1]

    run_on(scenario)


def test_a_drain_gives_back_without_a_storm(run_on: Runner) -> None:
    """What a drain gives back comes again once, to the next one, and not around in the open request meanwhile."""

    @shop
    async def scenario(shop: Shop) -> None:
        async def long(_: Event[Order]) -> None:
            await asyncio.sleep(3600)

        first = Seen(long)
        subscription = await shop.subscribe(first.handler(concurrency=2))
        await shop.place("a", "b", "c")
        await until(lambda: len(first.ids) == 2, "two are held")
        assert await subscription.drain(0) == 2
        second = Seen()
        await shop.subscribe(second.handler())
        await until(lambda: sorted(second.ids) == ["a", "b", "c"], "the next one has all")
        assert all(event.delivery <= 2 for event in second.events)

    run_on(scenario)


def test_unsubscribe_and_forget(run_on: Runner) -> None:
    """Unsubscribing keeps the place in the stream; forgetting deletes the consumer."""

    @shop
    async def scenario(shop: Shop) -> None:
        seen = Seen()
        first = await shop.bus.subscribe(seen.handler())
        with pytest.raises(Conflict):
            await shop.bus.subscribe(seen.handler())
        assert len(shop.bus.subscriptions) == 1
        await shop.place("a")
        await until(lambda: seen.ids == ["a"], "it is handled")
        await shop.settled()
        await first.unsubscribe()
        assert len(shop.bus.subscriptions) == 0
        await shop.place("b")
        second = await shop.bus.subscribe(seen.handler())
        await until(lambda: seen.ids == ["a", "b"], "the next goes on where the first was")
        await shop.settled()
        await second.unsubscribe(forget=True)
        assert await shop.transport.consumer_state(shop.names.events_stream, "orders=placed") is None
        await shop.bus.subscribe(seen.handler())
        await until(lambda: seen.ids == ["a", "b", "a", "b"], "a new one begins at its start")
        assert await shop.bus.drain(1) == {}

    run_on(scenario)


def test_a_changed_declaration_changes_the_consumer(run_on: Runner) -> None:
    """Another pattern and ack wait under the same name are taken over by the server, for the events to come."""

    @shop
    async def scenario(shop: Shop) -> None:
        old, new = Seen(), Seen()
        first = await shop.subscribe(old.handler(pattern="shop.order.*"))
        await shop.place("a")
        await until(lambda: old.ids == ["a"], "it is handled")
        await first.stop()
        await shop.subscribe(new.handler(pattern="shop.stock.*", ack_wait=7))
        await shop.place("b")
        await shop.place("c", type="shop.stock.low")
        await until(lambda: new.ids == ["c"], "the new pattern counts")
        await shop.settled()
        assert new.ids == ["c"]

    run_on(scenario)


def test_a_foreign_consumer_is_named(modules_url: str) -> None:
    """A consumer of that name that another program made, and that no update can turn into ours, is named by field."""
    from tests.runtime.world import run_on_server

    @shop
    async def scenario(shop: Shop) -> None:
        stream = shop.names.events_stream
        config = {
            "name": "orders=placed",
            "durable_name": "orders=placed",
            "ack_policy": "none",
            "deliver_subject": "x",
            "deliver_policy": "all",
        }
        body = encode({"stream_name": stream, "config": config, "action": "create"})
        await shop.transport.request(f"$JS.API.CONSUMER.CREATE.{stream}.orders=placed", body)
        with pytest.raises(AssetDrifted, match="ack_policy") as drifted:
            await shop.subscribe(Seen().handler())
        assert "deliver_subject" in str(drifted.value)

    run_on_server(modules_url, scenario)


def test_a_deleted_consumer_is_made_again() -> None:
    """A consumer that somebody deletes is made again within seconds, and how much waits is in a metric."""

    @shop
    async def scenario(shop: Shop) -> None:
        async def slow(_: Event[Order]) -> None:
            await asyncio.sleep(60)

        seen = Seen(slow)
        await shop.subscribe(seen.handler(concurrency=1, start="new"))
        await shop.place("a", "b", "c")
        await until(lambda: shop.value("jetloom_consumer_pending_messages") == 2, "two wait")
        assert await shop.transport.remove(shop.names.events_stream, "orders=placed")
        await quiet(12)
        await shop.place("d")
        seen.body = None
        await quiet(60)
        assert "d" in seen.ids

    run_on_twin(scenario)


def test_two_versions_do_not_fight() -> None:
    """Each version writes its declaration when it starts, and never again while it runs."""

    @shop
    async def scenario(shop: Shop) -> None:
        assert isinstance(shop.transport, MemoryTransport)
        updates: list[ConsumerAsset] = []
        consumer = "orders=placed"
        await shop.subscribe(Seen().handler(ack_wait=10))
        stream = shop.transport.memory.stream(shop.names.events_stream)
        plain = stream.consumers[consumer].update
        stream.consumers[consumer].update = lambda asset: (updates.append(asset), plain(asset))[1]  # type: ignore[method-assign]
        other = await shop.world.connect("other")
        await shop.subscribe(Seen().handler(ack_wait=20), transport=other)
        await quiet(120)
        assert [asset.ack_wait for asset in updates] == [20]

    run_on_twin(scenario)


def test_a_handler_has_a_deadline(run_on: Runner) -> None:
    """A call that takes too long is cancelled, tried again, and ends in the dead letters with that reason."""

    @shop
    async def scenario(shop: Shop) -> None:
        async def long(_: Event[Order]) -> None:
            await asyncio.sleep(3600)

        seen = Seen(long)
        await shop.subscribe(seen.handler(timeout=0.05))
        await shop.place("a")
        await until(lambda: shop.value("jetloom_dead_letters_total") == 1, "it is a dead letter")
        assert len(seen.ids) == 3
        letter = (await shop.transport.read(shop.names.dlq_stream, ">"))[0]
        assert '"code":"handler.timeout"' in letter.headers["Jetloom-Dlq"]

    run_on(scenario)


def test_a_decoder_of_plain_data() -> None:
    """A handler without a type gets what the JSON says."""

    @shop
    async def scenario(shop: Shop) -> None:
        got: list[object] = []

        async def keep(event: Event[object]) -> None:
            got.append(event.payload)

        handler = EventHandler(
            module="orders",
            name="placed",
            pattern=TYPE,
            decoder=PayloadDecoder[object](object),
            function=keep,
        )
        subscription = EventSubscription(handler, shop.transport, shop.names, shop.world.clock, shop.metrics)
        await subscription.start()
        await shop.bus.publish(TYPE, {"a": [1, None]})
        await until(lambda: got, "it is handled")
        await subscription.stop()
        assert got == [{"a": [1, None]}]

    run_on_twin(scenario)
