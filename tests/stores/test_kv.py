"""Buckets: typed values, and conditional writes that hold under contention and lost answers."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from jetloom.errors import ConditionFailed, DecodeFailed, NameInvalid, NotFound, OutcomeUnknown
from jetloom.messages import Names
from jetloom.stores import Change, Entry, KeyValue, kv_asset
from jetloom.transport import MemoryTransport, Transport
from tests.runtime.world import Runner, World, run_on_twin, until


class Stock(msgspec.Struct, frozen=True):
    pieces: int


def bucket[T](world: World, transport: Transport, kind: type[T]) -> KeyValue[T]:
    return KeyValue[T](
        transport,
        world.names.kv_bucket("stock"),
        kind,
        asset=kv_asset(world.names, "stock"),
        clock=world.clock,
    )


def test_values_come_and_go(run_on: Runner) -> None:
    """Create, get, update, put, delete and keys; a deleted key is absent and can be created again."""

    async def scenario(world: World) -> None:
        kv = bucket(world, await world.connect(), Stock)
        assert await kv.find("apple") is None
        with pytest.raises(NotFound, match="'apple'"):
            await kv.get("apple")
        first = await kv.create("apple", Stock(3))
        assert await kv.get("apple") == Entry("apple", Stock(3), first)
        with pytest.raises(ConditionFailed):
            await kv.create("apple", Stock(4))
        second = await kv.update("apple", Stock(2), first)
        with pytest.raises(ConditionFailed):
            await kv.update("apple", Stock(1), first)
        await kv.put("pear.green", Stock(9))
        assert await kv.keys() == ["apple", "pear.green"]
        assert await kv.keys("pear.*") == ["pear.green"]
        with pytest.raises(ConditionFailed):
            await kv.delete("apple", revision=first)
        await kv.delete("apple", revision=second)
        assert await kv.find("apple") is None
        assert await kv.keys() == ["pear.green"]
        with pytest.raises(ConditionFailed):
            await kv.update("apple", Stock(1), second)
        again = await kv.create("apple", Stock(7))
        assert await kv.get("apple") == Entry("apple", Stock(7), again)

    run_on(scenario)


def test_contention_loses_nothing(run_on: Runner) -> None:
    """Many writers of one key, each from what it has read: every one of their changes is in the end."""

    async def scenario(world: World) -> None:
        kvs = [bucket(world, await world.connect(f"w{number}"), Stock) for number in range(4)]
        await kvs[0].create("apple", Stock(100))

        async def take(kv: KeyValue[Stock]) -> None:
            for _ in range(10):
                await kv.modify("apple", lambda stock: Stock((stock.pieces if stock is not None else 0) - 1))

        async with asyncio.TaskGroup() as group:
            for kv in kvs:
                group.create_task(take(kv))
        assert (await kvs[0].get("apple")).value == Stock(60)

    run_on(scenario)


def test_one_of_many_creates_wins(run_on: Runner) -> None:
    """Of many that create one key, exactly one does."""

    async def scenario(world: World) -> None:
        kvs = [bucket(world, await world.connect(f"w{number}"), int) for number in range(5)]
        done = await asyncio.gather(
            *(kv.create("once", number) for number, kv in enumerate(kvs)), return_exceptions=True
        )
        winners = [number for number, each in enumerate(done) if isinstance(each, int)]
        assert len(winners) == 1
        assert all(isinstance(each, int | ConditionFailed) for each in done)
        assert (await kvs[0].get("once")).value == winners[0]

    run_on(scenario)


class LossyTransport:
    """Stores a write and loses its answer, as a connection does that breaks in between."""

    def __init__(self, inner: Transport, lose: int, *, store: bool) -> None:
        self._inner = inner
        self._lose = lose
        self._store = store
        self.appends = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    async def append(self, subject: str, data: bytes, **options: object) -> object:
        self.appends += 1
        if self._lose > 0:
            self._lose -= 1
            if self._store:
                await self._inner.append(subject, data, **options)  # pyright: ignore[reportArgumentType]
            raise OutcomeUnknown(subject, "the answer was lost")
        return await self._inner.append(subject, data, **options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("stored", [True, False])
def test_a_lost_answer_is_resolved(stored: bool) -> None:
    """After an unknown outcome the write is found by its nonce, or done again; either way it is there once."""

    async def scenario(world: World) -> None:
        inner = await world.connect()
        lossy = LossyTransport(inner, 1, store=stored)
        kv = bucket(world, lossy, Stock)  # pyright: ignore[reportArgumentType]
        revision = await kv.create("apple", Stock(3))
        assert await kv.get("apple") == Entry("apple", Stock(3), revision)
        assert lossy.appends == (1 if stored else 2)
        state = await inner.stream_state(kv_asset(world.names, "stock").name)
        assert state is not None
        assert state.last == 1

    run_on_twin(scenario)


def test_what_nobody_can_know_is_said() -> None:
    """A lost answer, and another value over it since: the write says that its outcome is unknown."""

    async def scenario(world: World) -> None:
        inner = await world.connect()
        other = bucket(world, inner, Stock)
        first = await other.create("apple", Stock(3))

        class Overtaken(LossyTransport):
            async def append(self, subject: str, data: bytes, **options: object) -> object:
                await other.put("apple", Stock(50))
                raise OutcomeUnknown(subject, "the answer was lost")

        kv = bucket(world, Overtaken(inner, 0, store=False), Stock)  # pyright: ignore[reportArgumentType]
        with pytest.raises(OutcomeUnknown):
            await kv.update("apple", Stock(2), first)
        assert (await other.get("apple")).value == Stock(50)

    run_on_twin(scenario)


def test_a_watch_sees_the_present_and_what_comes(run_on: Runner) -> None:
    """A watch begins with the present values and goes on with every key's last change, deletions too."""

    async def scenario(world: World) -> None:
        kv = bucket(world, await world.connect(), Stock)
        first = await kv.put("apple", Stock(1))
        async with kv.watch() as changes:
            assert await anext(changes) == Change("apple", Entry("apple", Stock(1), first), first)
            second = await kv.put("apple", Stock(2))
            assert await anext(changes) == Change("apple", Entry("apple", Stock(2), second), second)
            await kv.delete("apple")
            assert await anext(changes) == Change("apple", None, second + 1)

    run_on(scenario)


def test_a_watch_outlives_a_disconnect() -> None:
    """What changed while the connection was away is reported when it is back."""

    async def scenario(world: World) -> None:
        watching, writing = await world.connect("a"), await world.connect("b")
        assert isinstance(watching, MemoryTransport)
        kv, other = bucket(world, watching, int), bucket(world, writing, int)
        await kv.put("n", 1)
        seen: list[int] = []

        async def watch() -> None:
            async with kv.watch() as changes:
                async for change in changes:
                    assert change.entry is not None
                    seen.append(change.entry.value)

        task = asyncio.ensure_future(watch())
        await until(lambda: seen == [1], "the first value is seen")
        watching.disconnect()
        await other.put("n", 2)
        watching.reconnect()
        await until(lambda: seen == [1, 2], "the second value is seen")
        task.cancel()

    run_on_twin(scenario)


def test_bad_names_and_values_are_refused() -> None:
    """Keys and buckets outside their alphabets, and values that don't fit the type, have errors of their own."""

    async def scenario(world: World) -> None:
        transport = await world.connect()
        kv = bucket(world, transport, Stock)
        for wrong in ("", "a b", ".a", "a.", "a..b", "*", "x" * 600):
            with pytest.raises(NameInvalid):
                await kv.put(wrong, Stock(1))
        with pytest.raises(NameInvalid):
            kv_asset(Names(), "a.b")
        await kv.put("apple", Stock(1))
        await bucket(world, transport, str).put("apple", "many")
        with pytest.raises(DecodeFailed, match="'apple'"):
            await kv.get("apple")

    run_on_twin(scenario)
