"""Buckets under locks and clocks: fences, values that expire, a watch over a restart of the server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jetloom.clock import SYSTEM_CLOCK
from jetloom.errors import ConditionFailed, FencedOff, InvalidInput, from_info
from jetloom.messages import Names
from jetloom.stores import Change, Entry, KeyValue, kv_asset
from jetloom.transport import EmbeddedServer, connect
from tests.runtime.world import Runner, World, run_on_twin, until, until_true
from tests.stores.test_kv import Stock, bucket


def test_an_older_fence_is_refused(run_on: Runner) -> None:
    """After a write with a fence, one with an older fence changes nothing, whatever kind it is."""

    async def scenario(world: World) -> None:
        kv = bucket(world, await world.connect(), Stock)
        first = await kv.put("apple", Stock(1), fence=5)
        second = await kv.update("apple", Stock(2), first, fence=7)
        with pytest.raises(FencedOff, match="fence 5 is older than 7") as refused:
            await kv.put("apple", Stock(3), fence=5)
        assert isinstance(from_info(refused.value.to_info()), FencedOff)
        with pytest.raises(FencedOff):
            await kv.update("apple", Stock(3), second, fence=6)
        with pytest.raises(FencedOff):
            await kv.delete("apple", fence=5)
        with pytest.raises(FencedOff):
            await kv.modify("apple", lambda _: Stock(3), fence=5)
        with pytest.raises(FencedOff):
            await kv.claim("apple", 6)
        with pytest.raises(ConditionFailed):
            await kv.update("apple", Stock(3), first, fence=8)
        assert await kv.get("apple") == Entry("apple", Stock(2), second)
        third = await kv.put("apple", Stock(4), fence=7)
        assert (await kv.get("apple")).revision == third
        await kv.delete("apple", revision=third, fence=9)
        with pytest.raises(FencedOff):
            await kv.create("apple", Stock(5), fence=8)
        await kv.create("apple", Stock(5), fence=9)
        with pytest.raises(ConditionFailed):
            await kv.create("apple", Stock(5), fence=10)

    run_on(scenario)


def test_a_claim_shuts_older_holders_out(run_on: Runner) -> None:
    """From the claim on, the write that an older holder had prepared fails: by its fence, and by its revision."""

    async def scenario(world: World) -> None:
        kv = bucket(world, await world.connect(), Stock)
        await kv.put("apple", Stock(1))
        old = await kv.claim("apple", 3)
        assert old is not None
        new = await kv.claim("apple", 4)
        assert new is not None
        assert new == Entry("apple", Stock(1), old.revision + 1)
        with pytest.raises(FencedOff):
            await kv.update("apple", Stock(7), old.revision, fence=3)
        assert await kv.claim("apple", 4) == new
        await kv.update("apple", Stock(2), new.revision, fence=4)
        assert await kv.claim("pear", 4) is None
        assert await kv.find("pear") is None
        with pytest.raises(FencedOff):
            await kv.create("pear", Stock(1), fence=3)
        await kv.create("pear", Stock(1), fence=4)
        assert await kv.keys() == ["apple", "pear"]

    run_on(scenario)


def test_of_two_fenced_writes_at_once_one_passes() -> None:
    """A write that passed its check is refused when another came between check and write."""

    async def scenario(world: World) -> None:
        kv = bucket(world, await world.connect(), Stock)
        await kv.put("apple", Stock(0))
        done = await asyncio.gather(
            *(kv.put("apple", Stock(number), fence=number) for number in range(1, 20)), return_exceptions=True
        )
        assert all(isinstance(each, int | FencedOff) for each in done)
        assert (await kv.get("apple")).value == Stock(19)

    run_on_twin(scenario)


def test_values_expire(run_on: Runner) -> None:
    """A value with a ttl is gone after it; the next write of the key decides anew."""

    async def scenario(world: World) -> None:
        kv = bucket(world, await world.connect(), Stock)
        await kv.put("short", Stock(1), ttl=1)
        await kv.create("kept", Stock(1), ttl=1)
        revision = await kv.put("kept", Stock(2))
        await kv.update("kept", Stock(3), revision)
        await kv.modify("modified", lambda _: Stock(1), ttl=1)

        async def gone() -> bool:
            return await kv.find("short") is None and await kv.find("modified") is None

        await until_true(gone, "both have expired")
        assert await kv.keys() == ["kept"]
        await kv.create("short", Stock(2), ttl=60)
        for ttl in (0.2, 0, float("nan")):
            with pytest.raises(InvalidInput, match="at least 1 s"):
                await kv.put("short", Stock(1), ttl=ttl)
        with pytest.raises(InvalidInput, match="fence of a lock"):
            await kv.put("short", Stock(1), fence=0)

    run_on(scenario)


def test_a_watch_reports_what_expires(run_on: Runner) -> None:
    """A value that expires is reported as gone, once; one that was written again in time is not."""

    async def scenario(world: World) -> None:
        kv = bucket(world, await world.connect(), Stock)
        async with kv.watch() as changes:
            short = await kv.put("short", Stock(1), ttl=1)
            await kv.put("kept", Stock(1), ttl=1)
            kept = await kv.put("kept", Stock(2))
            seen = {change.key: change.revision for change in [await anext(changes), await anext(changes)]}
            assert seen["short"] == short
            if seen["kept"] != kept:
                assert (await anext(changes)).revision == kept
            assert await anext(changes) == Change("short", None, short)
            await kv.put("short", Stock(3), ttl=1)
            change = await anext(changes)
            assert change.entry is not None
            assert change.entry.value == Stock(3)
            assert await anext(changes) == Change("short", None, change.revision)

    run_on(scenario)


async def test_a_watch_goes_on_after_a_restart(tmp_path: Path) -> None:
    """The server is killed and comes back on its store: the watch reports the last value of each key within seconds."""
    server = EmbeddedServer(tmp_path, 0)
    await server.start()
    watching, writing, names = await connect(server.url), await connect(server.url), Names("watch")

    def open_bucket(transport: object) -> KeyValue[int]:
        return KeyValue[int](
            transport,  # pyright: ignore[reportArgumentType]
            names.kv_bucket("numbers"),
            int,
            asset=kv_asset(names, "numbers"),
            clock=SYSTEM_CLOCK,
        )

    seen: dict[str, int | None] = {}
    kv = open_bucket(writing)

    async def watch() -> None:
        async with open_bucket(watching).watch() as changes:
            async for change in changes:
                seen[change.key] = None if change.entry is None else change.entry.value

    task = asyncio.ensure_future(watch())
    try:
        for number in range(5):
            await kv.put(f"k{number}", 1)
        await until(lambda: len(seen) == 5, "the first values are seen")
        for round_number in range(2, 4):
            server.kill()
            await server.start()
            await until(lambda: writing.connected, "the writer is back")
            for number in range(5):
                await kv.put(f"k{number}", round_number)
            await kv.delete("k0")
            expected = {"k0": None, **{f"k{number}": round_number for number in range(1, 5)}}
            async with asyncio.timeout(10):
                while seen != expected:
                    await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.wait([task])
        await watching.close()
        await writing.close()
        await server.stop()
