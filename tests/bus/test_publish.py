"""Publishing: conditions, lifetimes, and many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta

import pytest

from jetloom.bus import Bus, NewEvent
from jetloom.errors import ConditionFailed, InvalidInput, NameInvalid, OutcomeUnknown, PayloadTooLarge
from jetloom.telemetry import Context, use
from jetloom.testing import FaultRates, SeededFaults
from jetloom.transport import MemoryTransport
from tests.bus.kit import TYPE, Shop, shop
from tests.runtime.world import Runner, run_on_twin, until_true


def test_expected_last(run_on: Runner) -> None:
    """An event that expects another last one of its type is refused, and nothing is stored."""

    @shop
    async def scenario(shop: Shop) -> None:
        first = await shop.bus.publish(TYPE, 1, expected_last=0)
        second = await shop.bus.publish(TYPE, 2, expected_last=first)
        with pytest.raises(ConditionFailed) as refused:
            await shop.bus.publish(TYPE, 3, expected_last=first)
        assert refused.value.actual_sequence in (second, None)
        await shop.bus.publish("shop.other.type", 4, expected_last=0)
        state = await shop.transport.stream_state(shop.names.events_stream)
        assert state is not None
        assert state.messages == 3

    run_on(scenario)


def test_an_answer_that_was_lost_is_no_refusal() -> None:
    """A conditional publish whose answer was lost finds its own event, and says that it is stored."""

    @shop
    async def scenario(shop: Shop) -> None:
        assert isinstance(shop.transport, MemoryTransport)
        shop.transport.memory.faults = faults = SeededFaults(1, FaultRates(muted=1.0))
        publishing = asyncio.ensure_future(shop.bus.publish(TYPE, 1, expected_last=0, id="e1"))
        await asyncio.sleep(1)
        faults.rates = FaultRates()
        sequence = await publishing
        last = await shop.transport.last(shop.names.events_stream, shop.names.event(TYPE))
        assert last is not None
        assert (last.sequence, last.headers["ce-id"]) == (sequence, "e1")

    run_on_twin(scenario)


def test_an_event_with_a_lifetime(run_on: Runner) -> None:
    """After its ttl an event has left the stream; others stay, and what runs emit still comes in."""

    @shop
    async def scenario(shop: Shop) -> None:
        stream, names = shop.names.events_stream, shop.names
        await shop.bus.publish(TYPE, "stays")
        await shop.bus.publish(TYPE, "goes", ttl=timedelta(seconds=1))
        await shop.transport.append(names.emit("r1", 1, "k", TYPE), b'"emitted"', expected=0)

        async def gone() -> bool:
            stored = await shop.transport.read(stream, names.event(">"))
            return [one.data for one in stored] == [b'"stays"', b'"emitted"']

        await until_true(gone, "the one with a ttl has left")
        with pytest.raises(InvalidInput, match="at least 1 s"):
            await shop.bus.publish(TYPE, "never", ttl=0.5)

    run_on(scenario)


def test_correlation_is_the_callers_choice() -> None:
    """Given, it stands above the context's."""

    @shop
    async def scenario(shop: Shop) -> None:
        with use(Context(correlation="context")):
            await shop.bus.publish(TYPE, 1)
            await shop.bus.publish(TYPE, 2, correlation="mine")
        stored = await shop.transport.read(shop.names.events_stream, shop.names.event(TYPE))
        assert [one.headers["ce-correlationid"] for one in stored] == ["context", "mine"]

    run_on_twin(scenario)


def test_many_at_once(run_on: Runner) -> None:
    """Every item is stored once, from lists, iterators and async iterators; none is read far ahead."""

    @shop
    async def scenario(shop: Shop) -> None:
        async def later() -> AsyncIterator[NewEvent]:
            for number in range(100):
                await asyncio.sleep(0)
                yield NewEvent("shop.order.later", number)

        report = await shop.bus.publish_many([NewEvent(TYPE, number) for number in range(300)])
        assert (report.stored, report.complete) == (300, True)
        report = await shop.bus.publish_many(NewEvent(TYPE, number) for number in range(100))
        assert report.stored == 100
        report = await shop.bus.publish_many(later(), in_flight=7)
        assert report.stored == 100
        state = await shop.transport.stream_state(shop.names.events_stream)
        assert state is not None
        assert state.messages == 500
        assert (await shop.bus.publish_many([])).stored == 0

    run_on(scenario)


def test_each_failure_is_told(run_on: Runner) -> None:
    """What can't be stored is in the report with its place, its id and its error, and the others are stored."""

    @shop
    async def scenario(shop: Shop) -> None:
        items = [
            NewEvent(TYPE, 0),
            NewEvent("wrong", 1, id="one"),
            NewEvent(TYPE, "x" * 2_000_000, id="big"),
            NewEvent(TYPE, object()),
            NewEvent(TYPE, 4),
            NewEvent(TYPE, 5, ttl=0.1),
        ]
        report = await shop.bus.publish_many(items, in_flight=2)
        assert report.stored == 2
        assert [(one.index, one.id) for one in report.failures] == [(1, "one"), (2, "big"), (3, ""), (5, "")]
        kinds = [type(one.error) for one in report.failures]
        assert kinds == [NameInvalid, PayloadTooLarge, TypeError, InvalidInput]

    run_on(scenario)


def test_an_iterator_is_read_as_it_is_sent() -> None:
    """No more than `in_flight` items are taken that have no answer yet, and its own error is raised at the end."""

    @shop
    async def scenario(shop: Shop) -> None:
        assert isinstance(shop.transport, MemoryTransport)
        taken = 0

        def items() -> Iterator[NewEvent]:
            nonlocal taken
            for number in range(50):
                taken += 1
                yield NewEvent(TYPE, number)
            raise RuntimeError("the source broke")

        shop.transport.disconnect()
        bus = Bus(shop.transport, shop.names, shop.world.clock, shop.metrics, source="x")
        publishing = asyncio.ensure_future(bus.publish_many(items(), in_flight=5))
        await asyncio.sleep(3)
        assert taken == 5
        shop.transport.reconnect()
        with pytest.raises(RuntimeError, match="the source broke"):
            await publishing
        state = await shop.transport.stream_state(shop.names.events_stream)
        assert state is not None
        assert state.messages == 50

    run_on_twin(scenario)


def test_without_a_server_each_is_unknown() -> None:
    """Items that got no answer for 30 s are in the report, one by one."""

    @shop
    async def scenario(shop: Shop) -> None:
        assert isinstance(shop.transport, MemoryTransport)
        shop.transport.disconnect()
        report = await shop.bus.publish_many([NewEvent(TYPE, number) for number in range(3)])
        assert report.stored == 0
        assert [type(one.error) for one in report.failures] == [OutcomeUnknown] * 3

    run_on_twin(scenario)
