"""Locks: one holder, a fence that grows, and a block that hears in time that its lock is gone."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from jetloom.clock import SYSTEM_CLOCK
from jetloom.errors import (
    InvalidInput,
    LockHeld,
    LockLost,
    LockTimeout,
    NameInvalid,
    Unavailable,
    from_info,
)
from jetloom.messages import Names
from jetloom.stores import Lock, LockInfo, Locks, find_lock, list_locks, locks_asset
from jetloom.telemetry import Metrics
from jetloom.transport import EmbeddedServer, MemoryTransport, Transport, connect
from tests.runtime.world import Runner, World, run_on_twin, until
from tests.stores.test_kv import LossyTransport


def locks_of(world: World, transport: Transport, owner: str = "me", metrics: Metrics | None = None) -> Locks:
    return Locks(transport, world.names, world.clock, metrics, owner=owner, asset=locks_asset(world.names))


async def made(world: World, count: int) -> tuple[list[Locks], list[Transport]]:
    """Locks of several processes, each with a connection of its own."""
    transports = [await world.connect(f"p{number}") for number in range(count)]
    return [locks_of(world, each, f"p{number}") for number, each in enumerate(transports)], transports


async def ended(locks: list[Locks]) -> None:
    for each in locks:
        await each.stop()


async def tried(locks: Locks, name: str, timeout: float | None) -> int:
    """The fence that a task of its own gets."""

    async def take() -> int:
        async with locks.hold(name, timeout=timeout) as lock:
            return lock.fence

    return await asyncio.ensure_future(take())


def test_a_lock_is_held_and_free_again(run_on: Runner) -> None:
    """While the block runs the lock is listed with its owner; then it is free, and the next fence is higher."""

    async def scenario(world: World) -> None:
        [locks], [transport] = await made(world, 1)
        async with locks.hold("invoice 17", ttl=5) as lock:
            assert (lock.name, lock.lost) == ("invoice 17", False)
            lock.check()
            info = await find_lock(transport, world.names, "invoice 17")
            assert isinstance(info, LockInfo)
            assert (info.name, info.owner, info.fence, info.ttl) == ("invoice 17", "p0", lock.fence, 5.0)
            assert info.until == pytest.approx(info.since + 5)
            assert [each.name for each in await list_locks(transport, world.names)] == ["invoice 17"]
        assert await find_lock(transport, world.names, "invoice 17") is None
        assert await list_locks(transport, world.names) == []
        with pytest.raises(LockLost, match="its block has ended"):
            lock.check()
        async with locks.hold("invoice 17") as again:
            assert again.fence > lock.fence
        await ended([locks])

    run_on(scenario)


def test_one_holder_at_a_time(run_on: Runner) -> None:
    """Many tasks of several processes: never two in the block, everybody gets in, fences in the order of holding."""

    async def scenario(world: World) -> None:
        locks, _ = await made(world, 4)
        inside: list[int] = []
        fences: list[int] = []

        async def work(number: int) -> None:
            async with locks[number % 4].hold("shared") as lock:
                inside.append(number)
                fences.append(lock.fence)
                await asyncio.sleep(0.001)
                assert inside == [number]
                inside.clear()

        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(work(number))
        assert len(fences) == 40
        assert fences == sorted(set(fences))
        await ended(locks)

    run_on(scenario)


def test_waiting_ends_with_who_holds_it(run_on: Runner) -> None:
    """A timeout names the holder; a timeout of zero is one try, whether the lock is free or not."""

    async def scenario(world: World) -> None:
        [mine, theirs], _ = await made(world, 2)
        async with mine.hold("a", timeout=0):
            with pytest.raises(LockTimeout, match=r"p0 holds it since 20.* until 20"):
                await tried(theirs, "a", 0.2)
            with pytest.raises(LockTimeout) as refused:
                await tried(theirs, "a", 0)
            back = from_info(refused.value.to_info())
            assert isinstance(back, LockTimeout)
            assert (back.owner, back.code) == ("p0", "lock.timeout")
        again = theirs.hold("a", timeout=5)
        async with again:
            pass
        async with again:
            with pytest.raises(LockHeld):
                await again.__aenter__()
        await ended([mine, theirs])

    run_on(scenario)


def test_not_re_entrant(run_on: Runner) -> None:
    """The same task gets an error at once, another one of the process waits its turn."""

    async def scenario(world: World) -> None:
        [locks, others], _ = await made(world, 2)
        order: list[str] = []

        async def child() -> None:
            async with locks.hold("a"):
                order.append("child")

        async with locks.hold("a") as lock:
            for again in (locks, others):
                with pytest.raises(LockHeld, match=f"fence {lock.fence}"):
                    async with again.hold("a"):
                        raise AssertionError("the lock was held twice")
            async with locks.hold("b"):
                waiting = asyncio.ensure_future(child())
                await asyncio.sleep(0.01)
            order.append("parent")
        await waiting
        assert order == ["parent", "child"]
        await ended([locks, others])

    run_on(scenario)


def test_it_is_renewed_while_the_block_runs() -> None:
    """A block of many ttls keeps its lock, under the same fence."""

    async def scenario(world: World) -> None:
        [locks, others], [transport, _] = await made(world, 2)
        async with locks.hold("a", ttl=3) as lock:
            await asyncio.sleep(60)
            lock.check()
            info = await find_lock(transport, world.names, "a")
            assert info is not None
            assert info.fence == lock.fence
            with pytest.raises(LockTimeout):
                await tried(others, "a", 20)
        await ended([locks, others])

    run_on_twin(scenario)


def test_fences_grow_over_expiry() -> None:
    """A name that was not used for long, and one whose holder vanished, go on with higher fences."""

    async def scenario(world: World) -> None:
        [locks, others], [transport, _] = await made(world, 2)
        assert isinstance(transport, MemoryTransport)
        fences: list[int] = []
        for _ in range(3):
            async with others.hold("a", ttl=1) as lock:
                fences.append(lock.fence)
            await asyncio.sleep(100)
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def vanish() -> None:
            async with locks.hold("a", ttl=3) as lock:
                fences.append(lock.fence)
                transport.disconnect(lose_sent=True)
                await asyncio.sleep(100)

        with pytest.raises(LockLost):
            await vanish()
        fences.append(await tried(others, "a", None))
        assert loop.time() - began <= 3.3
        assert fences == sorted(set(fences))
        transport.reconnect()
        await ended([locks, others])

    run_on_twin(scenario)


def test_a_cut_holder_hears_it_in_time() -> None:
    """Cut from the server, the block is cancelled with LockLost before anybody else can have the lock."""

    async def scenario(world: World) -> None:
        [locks, others], [transport, _] = await made(world, 2)
        metrics = Metrics(process=False)
        locks = locks_of(world, transport, "p0", metrics)
        assert isinstance(transport, MemoryTransport)
        loop = asyncio.get_running_loop()
        held: list[Lock] = []

        async def wait_for_it() -> float:
            async with others.hold("a"):
                return loop.time()

        async def be_cut() -> None:
            async with locks.hold("a", ttl=6) as lock:
                held.append(lock)
                await asyncio.sleep(7)
                transport.disconnect()
                await asyncio.sleep(100)

        body = asyncio.ensure_future(be_cut())
        await until(lambda: held, "it is held")
        cut_at = loop.time() + 7
        waiting = asyncio.ensure_future(wait_for_it())
        with pytest.raises(LockLost, match="no renewal succeeded"):
            await body
        lost_at = loop.time()
        assert held[0].lost
        with pytest.raises(LockLost):
            held[0].check()
        assert cut_at < lost_at < await waiting <= cut_at + 6.3
        assert metrics.value("jetloom_locks_lost_total", reason="unproven") == 1
        assert metrics.value("jetloom_lock_held_seconds_count") == 1
        assert metrics.value("jetloom_lock_wait_seconds_count") == 1
        transport.reconnect()
        await ended([locks, others])

    run_on_twin(scenario)


def test_what_the_block_raises_stays_what_it_is() -> None:
    """An error of the block, and a cancellation from outside, are passed on and the lock is freed at once."""

    async def scenario(world: World) -> None:
        [locks], [transport] = await made(world, 1)
        with pytest.raises(ZeroDivisionError):
            async with locks.hold("a"):
                _ = 1 / 0
        assert await find_lock(transport, world.names, "a") is None

        entered = asyncio.Event()

        async def work() -> None:
            async with locks.hold("a"):
                entered.set()
                await asyncio.sleep(1_000)

        task = asyncio.ensure_future(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await find_lock(transport, world.names, "a") is None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work(), 1)
        await ended([locks])

    run_on_twin(scenario)


def test_an_outer_cancellation_wins_over_a_loss() -> None:
    """When both meet, the task is cancelled: whoever cancelled it gets what they asked for."""

    async def scenario(world: World) -> None:
        [locks], [transport] = await made(world, 1)
        entered = asyncio.Event()

        async def work() -> None:
            async with locks.hold("a", ttl=3):
                entered.set()
                await asyncio.sleep(1_000)

        task = asyncio.ensure_future(work())
        await entered.wait()
        [hold] = locks._holds
        hold.lose("taken")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await transport.flush()
        await ended([locks])

    run_on_twin(scenario)


def test_a_lock_that_was_taken_away_is_lost() -> None:
    """When somebody deletes the lock's message, the next renewal finds it, and the new holder keeps it."""

    async def scenario(world: World) -> None:
        [locks, others], [transport, _] = await made(world, 2)

        async def be_robbed() -> None:
            async with locks.hold("a", ttl=3):
                await transport.purge(world.names.locks_stream, world.names.lock("a"))
                await asyncio.sleep(100)

        with pytest.raises(LockLost, match="another holder, or none"):
            await be_robbed()
        async with others.hold("a", ttl=30) as lock:
            await asyncio.sleep(50)
            lock.check()
        await ended([locks, others])

    run_on_twin(scenario)


def test_a_restart_of_the_server_is_survived() -> None:
    """The server is away for less than the ttl: the block does not notice."""

    async def scenario(world: World) -> None:
        [locks, others], _ = await made(world, 2)
        assert world.memory is not None
        async with locks.hold("a", ttl=9) as lock:
            for _ in range(5):
                await asyncio.sleep(2.7)
                world.memory.crash()
                await asyncio.sleep(2)
                world.memory.restart()
            lock.check()
            with pytest.raises(LockTimeout):
                await tried(others, "a", 5)
        await ended([locks, others])

    run_on_twin(scenario)


async def test_a_real_restart_is_survived(tmp_path: Path) -> None:
    """A nats-server that is killed and comes back on its store within the ttl has the lock still."""
    server = EmbeddedServer(tmp_path, 0)
    await server.start()
    transport, names = await connect(server.url), Names("restart")
    locks = Locks(transport, names, SYSTEM_CLOCK, asset=locks_asset(names))
    try:
        async with locks.hold("a", ttl=4) as lock:
            server.kill()
            await server.start()
            await until(lambda: transport.connected, "the client is back")
            revision = await transport.last(names.locks_stream, names.lock("a"))
            assert revision is not None
            assert revision.sequence == lock.fence
            async with asyncio.timeout(10):
                while (stored := await transport.last(names.locks_stream, names.lock("a"))) == revision:
                    await asyncio.sleep(0.05)
            assert stored is not None, "it was renewed and did not expire"
            lock.check()
    finally:
        await locks.stop()
        await transport.close()
        await server.stop()


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_lost_answer_is_resolved(stored: bool, skipped: int) -> None:
    """A take or a release whose answer is lost is found by its nonce, or done again: no lock stays behind."""

    async def scenario(world: World) -> None:
        inner = await world.connect()

        class Lossy(LossyTransport):
            async def append(self, subject: str, data: bytes, **options: object) -> object:
                if self.appends < skipped:
                    self.appends += 1
                    return await self._inner.append(subject, data, **options)  # pyright: ignore[reportArgumentType]
                return await super().append(subject, data, **options)

        locks = locks_of(world, Lossy(inner, 1, store=stored))  # pyright: ignore[reportArgumentType]
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with locks.hold("a", ttl=30) as lock:
            lock.check()
        assert await find_lock(inner, world.names, "a") is None
        assert loop.time() - began < 1
        await ended([locks])

    run_on_twin(scenario)


def test_a_waiter_that_goes_away_leaves_nothing(run_on: Runner) -> None:
    """Cancelled at any moment, a waiter leaves no lock behind, and those behind it get theirs."""

    async def scenario(world: World) -> None:
        [locks, others], _ = await made(world, 2)
        for turns in range(12):

            async def work() -> None:
                async with locks.hold("a", ttl=30):
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            async with others.hold("a", timeout=5):
                pass
        await ended([locks, others])

    run_on(scenario)


def test_turns_are_fair() -> None:
    """A hundred waiters in four processes get the lock equally often, with few writes that meet another."""

    async def scenario(world: World) -> None:
        locks, _ = await made(world, 4)
        counts = [0] * 100
        async with asyncio.timeout(600):

            async def work(number: int) -> None:
                while sum(counts) < 3_000:
                    async with locks[number % 4].hold("shared"):
                        await asyncio.sleep(0.001)
                        counts[number] += 1

            async with asyncio.TaskGroup() as group:
                for number in range(100):
                    group.create_task(work(number))
        assert max(counts) - min(counts) <= 2
        assert sum(each.refused for each in locks) <= 300
        await ended(locks)

    run_on_twin(scenario)


def test_a_busy_holder_gives_way(run_on: Runner) -> None:
    """A process that takes the lock again and again does not keep another one out."""

    async def scenario(world: World) -> None:
        [greedy, modest], _ = await made(world, 2)
        taken = [0, 0]
        done = False

        async def hog() -> None:
            while not done:
                async with greedy.hold("a"):
                    await asyncio.sleep(0.001)
                    taken[0] += 1

        hogging = asyncio.ensure_future(hog())
        await until(lambda: taken[0] > 3, "the first one is at it")
        before = taken[0]
        for _ in range(20):
            async with modest.hold("a", timeout=20):
                taken[1] += 1
        after, done = taken[0], True
        await hogging
        assert after - before <= 100
        await ended([greedy, modest])

    run_on(scenario)


def test_stopping_ends_everything() -> None:
    """Blocks are told, waiters get an error, and the locks are free."""

    async def scenario(world: World) -> None:
        [locks, others], [_, transport] = await made(world, 2)

        async def work(name: str) -> str:
            try:
                async with locks.hold(name):
                    await asyncio.sleep(1_000)
            except (LockLost, Unavailable) as error:
                return error.code
            return "ended"

        first = asyncio.ensure_future(work("a"))
        second = asyncio.ensure_future(work("a"))
        await asyncio.sleep(1)
        await locks.stop()
        assert [await first, await second] == ["lock.lost", "unavailable"]
        assert await find_lock(transport, world.names, "a") is None
        with pytest.raises(Unavailable, match="stopping"):
            async with locks.hold("a"):
                raise AssertionError("a stopped one gave a lock")
        await ended([locks, others])

    run_on_twin(scenario)


def test_bad_input_is_refused() -> None:
    """Names and ttls outside their limits, and an engine's own name, have errors of their own."""

    async def scenario(world: World) -> None:
        [locks], [transport] = await made(world, 1)
        for name in ("", "x" * 161, "sweeper"):
            with pytest.raises(NameInvalid):
                locks.hold(name)
        for ttl in (0, 0.5, 100_000, float("nan")):
            with pytest.raises(InvalidInput, match="ttl"):
                locks.hold("a", ttl=ttl)
        async with locks.hold("any thing: ü/§ 100%") as lock:
            assert lock.name == "any thing: ü/§ 100%"
            assert [each.name for each in await list_locks(transport, world.names)] == [lock.name]
        await ended([locks])

    run_on_twin(scenario)
