"""Long answers come in parts, never far ahead of who reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from jetloom.errors import (
    DecodeFailed,
    InvalidInput,
    NoResponders,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    Unavailable,
)
from jetloom.messages import encode
from jetloom.rpc import Busy, _serving
from jetloom.rpc._wire import READER_SECONDS, WINDOW_PARTS
from tests.rpc.serving import Gate, Inbox, Numbers, caller, count, endpoint, serving
from tests.runtime.world import Runner, World, run_on_twin, until


def test_parts_come_typed_and_in_order(run_on: Runner) -> None:
    """Every part is read as the asked type, over several windows, and the series ends by itself."""

    async def scenario(world: World) -> None:
        async with serving(world, endpoint(world, "count", parts=count)) as service:
            rpc = await caller(world)
            for size in (0, 1, WINDOW_PARTS, 3 * WINDOW_PARTS + 5):
                found = [part async for part in rpc.stream("shop", "count", size, type=int)]
                assert found == list(range(size))
            assert service.stats["count"].num_requests == 4
            assert service.stats["count"].num_errors == 0

    run_on(scenario)


def test_several_series_at_once(run_on: Runner) -> None:
    """Each reader has its own parts."""

    async def scenario(world: World) -> None:
        async with serving(world, endpoint(world, "count", parts=count)):
            rpc = await caller(world)

            async def read(size: int) -> list[int]:
                return [part async for part in rpc.stream("shop", "count", size, type=int)]

            sizes = [100 + number for number in range(8)]
            found = await asyncio.gather(*(read(size) for size in sizes))
            assert [len(each) for each in found] == sizes

    run_on(scenario)


def test_a_plain_client_reads_parts(run_on: Runner) -> None:
    """Without a header of ours the parts are messages with a number, and an empty one says that it was the last."""

    async def scenario(world: World) -> None:
        async with serving(world, endpoint(world, "count", parts=count)):
            plain, inbox = await world.connect(), Inbox()
            await inbox.ask(plain, world.names.rpc("shop", "count"), b"150")
            await inbox.ended()
            assert [each.data for each in inbox.messages[:-1]] == [b"%d" % number for number in range(150)]
            numbers = [each.headers["Jetloom-Part"] for each in inbox.messages]
            assert numbers == [*(str(number + 1) for number in range(150)), "end"]

    run_on(scenario)


def test_an_error_ends_the_series(run_on: Runner) -> None:
    """What the generator raises comes after the parts that it gave, as the same class."""

    async def scenario(world: World) -> None:
        async def fails(_data: bytes) -> AsyncGenerator[bytes]:
            yield b"1"
            raise NotFound("no second", item=2)

        async with serving(world, endpoint(world, "fails", parts=fails)) as service:
            rpc = await caller(world)
            parts = rpc.stream("shop", "fails")
            assert await anext(parts) == 1
            with pytest.raises(NotFound, match="no second"):
                await anext(parts)
            await until(lambda: service.stats["fails"].num_errors == 1, "it is counted")
            assert service.stats["fails"].last_error == "not_found: no second"

    run_on(scenario)


def test_a_reader_that_leaves_ends_the_work(run_on: Runner) -> None:
    """Closing the generator cancels the handler, whose clean-up runs; it is no error of the endpoint."""

    async def scenario(world: World) -> None:
        numbers = Numbers(1_000_000)
        async with serving(world, endpoint(world, "numbers", parts=numbers.series)) as service:
            rpc = await caller(world)
            async with aclosing(rpc.stream("shop", "numbers", type=int)) as parts:
                async for part in parts:
                    if part == 10:
                        break
            await until(lambda: numbers.closed, "the generator was closed")
            assert numbers.made < 10_000
            await until(lambda: service.stats["numbers"].num_requests == 1, "it is counted")
            assert service.stats["numbers"].num_errors == 0

    run_on(scenario)


def test_a_slow_reader_is_waited_for() -> None:
    """The service is never more than a window ahead, whatever the reader's pace."""

    async def scenario(world: World) -> None:
        numbers = Numbers(5 * WINDOW_PARTS)
        async with serving(world, endpoint(world, "numbers", parts=numbers.series)):
            rpc = await caller(world)
            read = 0
            async for _ in rpc.stream("shop", "numbers", type=int):
                read += 1
                await asyncio.sleep(0.1)
                assert numbers.made <= read + WINDOW_PARTS + 1
            assert read == 5 * WINDOW_PARTS

    run_on_twin(scenario)


def test_a_reader_that_stands_still_is_given_up() -> None:
    """After its time the handler ends, and the reader hears why."""

    async def scenario(world: World) -> None:
        numbers = Numbers(5 * WINDOW_PARTS)
        async with serving(world, endpoint(world, "numbers", parts=numbers.series)):
            rpc = await caller(world)
            parts = rpc.stream("shop", "numbers", type=int)
            assert await anext(parts) == 0
            await asyncio.sleep(READER_SECONDS + 1)
            assert numbers.closed
            with pytest.raises(Unavailable, match="took no part for 30 s"):
                async for _ in parts:
                    pass

    run_on_twin(scenario)


def test_a_plain_reader_that_vanishes_ends_the_work(run_on: Runner) -> None:
    """The server says that nobody listens any more: the handler ends within a window."""

    async def scenario(world: World) -> None:
        numbers = Numbers(1_000_000)
        async with serving(world, endpoint(world, "numbers", parts=numbers.series)):
            plain = await world.connect()
            taken: list[object] = []
            subscription = await plain.subscribe("_INBOX.plain.2", taken.append)
            await plain.publish(world.names.rpc("shop", "numbers"), b"", reply="_INBOX.plain.2")
            await until(lambda: taken, "a part has come")
            await subscription.stop()
            await until(lambda: numbers.closed, "the generator was closed")
            assert numbers.windows < 1000

    run_on(scenario)


def test_limits_of_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    """More parts or bytes than an answer may have are a named error, and so is a part that no message holds."""
    monkeypatch.setattr(_serving, "PARTS_MAX", 10)
    monkeypatch.setattr(_serving, "PARTS_BYTES_MAX", 3_000_000)

    async def scenario(world: World) -> None:
        async def large(data: bytes) -> AsyncGenerator[bytes]:
            for _ in range(5):
                yield b'"%s"' % (b"x" * int(data))

        async with serving(
            world, endpoint(world, "count", parts=count), endpoint(world, "large", parts=large)
        ):
            rpc = await caller(world)
            with pytest.raises(InvalidInput, match="more than 10 parts"):
                async for _ in rpc.stream("shop", "count", 11):
                    pass
            with pytest.raises(PayloadTooLarge, match="the limit is 3000000"):
                async for _ in rpc.stream("shop", "large", 700_000):
                    pass
            with pytest.raises(PayloadTooLarge, match="max_payload"):
                async for _ in rpc.stream("shop", "large", 2_000_000):
                    pass

    run_on_twin(scenario)


def test_errors_before_the_first_part(run_on: Runner) -> None:
    """Busy, nobody there and an answer that does not fit are what they are for a call."""

    async def scenario(world: World) -> None:
        gate = Gate()

        async def held(data: bytes) -> AsyncGenerator[bytes]:
            yield await gate.wait(data)

        async with serving(world, endpoint(world, "held", parts=held, concurrency=1)):
            rpc = await caller(world)
            first = rpc.stream("shop", "held", "a", type=str, timeout=20)
            waiting = asyncio.ensure_future(anext(first))
            await until(lambda: gate.running == 1, "the first is being handled")
            with pytest.raises(Busy):
                await anext(rpc.stream("shop", "held"))
            gate.opened.set()
            assert await waiting == "a"
            assert [each async for each in first] == []
            with pytest.raises(NoResponders):
                await anext(rpc.stream("shop", "nothing"))
            with pytest.raises(
                DecodeFailed, match=r"answer of .*\.rpc\.shop\.held.*expected int, found \"b\""
            ):
                await anext(rpc.stream("shop", "held", "b", type=int))

    run_on(scenario)


def test_each_part_has_its_time() -> None:
    """A reader waits so long for each part, not for the whole."""

    async def scenario(world: World) -> None:
        async def slow(_data: bytes) -> AsyncGenerator[bytes]:
            for number, pause in enumerate((2, 2, 2, 4)):
                await asyncio.sleep(pause)
                yield encode(number)

        async with serving(world, endpoint(world, "slow", parts=slow)):
            rpc = await caller(world)
            parts = rpc.stream("shop", "slow", type=int, timeout=3)
            assert [await anext(parts) for _ in range(3)] == [0, 1, 2]
            with pytest.raises(RequestTimeout, match="part 4"):
                await anext(parts)

    run_on_twin(scenario)


def test_call_and_stream_fit_either_endpoint(run_on: Runner) -> None:
    """An ordinary endpoint streams one part; a call of one that answers in parts says what to do, and ends it."""

    async def scenario(world: World) -> None:
        numbers = Numbers(1_000_000)

        async def one(data: bytes) -> bytes:
            return data

        async with serving(
            world, endpoint(world, "one", one), endpoint(world, "numbers", parts=numbers.series)
        ):
            rpc = await caller(world)
            assert [part async for part in rpc.stream("shop", "one", 7, type=int)] == [7]
            with pytest.raises(InvalidInput, match=r"read it with rpc\.stream"):
                await rpc.call("shop", "numbers")
            await until(lambda: numbers.closed, "the generator was closed")

    run_on(scenario)


def test_a_stop_ends_a_series() -> None:
    """A reader of a service that stops hears of it."""

    async def scenario(world: World) -> None:
        async def endless(_data: bytes) -> AsyncGenerator[bytes]:
            while True:
                yield b"1"
                await asyncio.sleep(1)

        async with serving(world, endpoint(world, "endless", parts=endless)) as service:
            rpc = await caller(world)
            parts = rpc.stream("shop", "endless")
            await anext(parts)
            assert await service.drain(2) == 1
            with pytest.raises(Unavailable, match="shop stopped before"):
                async for _ in parts:
                    pass

    run_on_twin(scenario)
