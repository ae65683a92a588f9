"""Virtual time and simulated processes."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import time

import pytest

from jetloom.testing import EPOCH, PROCESS, Deadlock, Livelock, VirtualClock, VirtualLoop, run_virtual


def loop_now() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop


def spawn(process: str, coroutine: object) -> asyncio.Task[None]:
    """A task of a simulated process."""
    context = contextvars.copy_context()
    context.run(PROCESS.set, process)
    assert asyncio.iscoroutine(coroutine)
    return asyncio.get_running_loop().create_task(coroutine, context=context)


def test_time_jumps() -> None:
    """A day of sleeping takes no real time, and timers fire in the order of their times."""
    order: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(name)

    async def main() -> float:
        async with asyncio.TaskGroup() as group:
            for name, seconds in (("day", 86_400.0), ("hour", 3_600.0), ("now", 0.0)):
                group.create_task(sleeper(name, seconds))
        return loop_now().time()

    begun = time.monotonic()
    assert run_virtual(main) == 86_400
    assert time.monotonic() - begun < 5
    assert order == ["now", "hour", "day"]


def test_timeouts_are_virtual() -> None:
    """`asyncio.timeout` and `wait_for` count virtual seconds."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100):
                await asyncio.sleep(200)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 100)
        assert loop_now().time() == 200

    run_virtual(main)


def test_deadlock_is_named() -> None:
    """When everybody waits and no timer is set, the error names who waits and where."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match=r"main.*test_clock|Event\.wait|main"):
        run_virtual(main)


def test_livelock_is_named() -> None:
    """Spinning without time moving on ends in an error, and so does a universe that passes its limit."""

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def tick() -> None:
        while True:
            await asyncio.sleep(1)

    with pytest.raises(Livelock, match="without time moving on"):
        run_virtual(spin)
    with pytest.raises(Livelock, match="limit of 50 s"):
        run_virtual(tick, limit=50)


def test_executor_runs_at_once() -> None:
    """Functions for threads run in place, with their result or error."""

    def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        assert await asyncio.to_thread(lambda: PROCESS.get() + "x") == "x"
        with pytest.raises(ValueError, match="no"):
            await asyncio.to_thread(fail)

    run_virtual(main)


def test_frozen_process_runs_late() -> None:
    """A frozen process' timers and callbacks run at the thaw, in their order; others go on."""
    log: list[tuple[str, float]] = []

    async def beat(name: str, times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(1)
            log.append((name, loop_now().time()))

    async def main() -> None:
        loop = loop_now()
        tasks = [spawn("a", beat("a", 4)), spawn("b", beat("b", 4))]
        await asyncio.sleep(1.5)
        loop.freeze("a")
        assert loop.frozen("a")
        await asyncio.sleep(5)
        loop.thaw("a")
        await asyncio.gather(*tasks)

    run_virtual(main)
    assert [at for name, at in log if name == "b"] == [1, 2, 3, 4]
    assert [at for name, at in log if name == "a"] == [1, 6.5, 7.5, 8.5]


def test_killed_process_never_runs_again() -> None:
    """No `except`, no `finally` and no callback of a killed process runs, neither at once nor when all is over."""
    ran: list[str] = []

    async def body(name: str) -> None:
        try:
            ran.append(f"{name} begins")
            await asyncio.sleep(10)
            ran.append(f"{name} ends")
        except BaseException:
            ran.append(f"{name} except")
            raise
        finally:
            ran.append(f"{name} finally")

    async def main() -> None:
        loop = loop_now()
        spawn("a", body("a"))
        b = spawn("b", body("b"))
        await asyncio.sleep(1)
        loop.kill("a")
        assert not loop.alive("a")
        assert loop.alive("b")
        gc.collect()
        await b
        await asyncio.sleep(100)
        assert ran == ["a begins", "b begins", "b ends", "b finally"]

    run_virtual(main)


def test_process_kills_itself() -> None:
    """A process that is killed from within stops at that point."""
    ran: list[str] = []

    async def suicide() -> None:
        loop = loop_now()
        ran.append("before")
        loop.kill("a")
        await loop.never()
        ran.append("after")

    async def main() -> None:
        spawn("a", suicide())
        await asyncio.sleep(10)

    run_virtual(main)
    assert ran == ["before"]


def test_stubborn_corpse_is_buried() -> None:
    """A killed coroutine that awaits in its `finally` disturbs nobody at the end."""

    async def stubborn() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)

    async def main() -> None:
        spawn("a", stubborn())
        await asyncio.sleep(1)
        loop_now().kill("a")

    run_virtual(main)
    gc.collect()


def test_left_tasks_are_cancelled() -> None:
    """Living tasks that main leaves behind are cancelled and get to clean up."""
    ran: list[str] = []

    async def left() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            ran.append("clean")

    async def main() -> None:
        kept = asyncio.ensure_future(left())
        await asyncio.sleep(1)
        assert not kept.done()

    run_virtual(main)
    assert ran == ["clean"]


def test_order_comes_from_the_seed() -> None:
    """Processes that are ready at the same moment run in an order of the seed; within one, order is kept."""

    def play(seed: int | None) -> list[str]:
        order: list[str] = []

        async def steps(name: str) -> None:
            for n in range(5):
                await asyncio.sleep(1)
                order.append(f"{name}{n}")

        async def main() -> None:
            await asyncio.gather(*(spawn(name, steps(name)) for name in "abc"))

        run_virtual(main, seed)
        return order

    assert play(1) == play(1)
    assert len({tuple(play(seed)) for seed in range(20)}) > 5
    assert play(None) == [f"{name}{n}" for n in range(5) for name in "abc"]
    for seed in range(5):
        assert [step for step in play(seed) if step[0] == "a"] == [f"a{n}" for n in range(5)]


def test_clock() -> None:
    """The clock follows the loop; its tokens and numbers come from the seed."""

    async def main() -> tuple[str, float]:
        clock = VirtualClock(loop_now(), 7)
        await asyncio.sleep(90)
        assert (clock.now(), clock.monotonic()) == (EPOCH + 90, 90)
        return clock.token(), clock.random()

    first = run_virtual(main)
    assert first == run_virtual(main)
    assert len(first[0]) == 32
    assert 0 <= first[1] < 1


def test_cancelled_timers_are_swept() -> None:
    """Many short calls with long timeouts leave no heap of dead timers behind."""

    async def main() -> None:
        loop = loop_now()
        for _ in range(5000):
            async with asyncio.timeout(10_000):
                await asyncio.sleep(0.001)
        assert len(loop._timers) < 1000

    run_virtual(main)


def test_killed_process_says_nothing_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """What the `finally` of a killed process would log when its loop is closed is not logged."""

    async def body() -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            logging.getLogger("jetloom.test").error("too late")

    async def main() -> None:
        kept = spawn("victim", body())
        await asyncio.sleep(1)
        loop_now().kill("victim")
        assert not kept.done()

    run_virtual(main)
    assert caplog.records == []
    assert logging.getLogger("jetloom.test").isEnabledFor(logging.ERROR)


def test_idle_is_when_nothing_is_left_to_run() -> None:
    """`idle` returns when every callback of this moment has run, and no time has passed."""

    async def main() -> None:
        done: list[int] = []

        async def work(depth: int) -> None:
            for _ in range(depth):
                await asyncio.sleep(0)
            done.append(depth)

        tasks = [asyncio.get_running_loop().create_task(work(depth)) for depth in (3, 50)]
        later = asyncio.get_running_loop().create_task(asyncio.sleep(5))
        await loop_now().idle()
        assert (done, loop_now().time(), later.done()) == ([3, 50], 0, False)
        await asyncio.gather(*tasks, later)

    run_virtual(main)
