"""Background work is restarted, reported, and stopped."""

from __future__ import annotations

import asyncio

import pytest

from jetloom.errors import InvariantBroken
from jetloom.lifecycle import Restart, Supervisor, TaskSet
from jetloom.telemetry import Metrics
from jetloom.testing import run_virtual


def failures(metrics: Metrics, task: str) -> float:
    return metrics.value("jetloom_task_failures_total", task=task)


def test_a_failing_loop_is_started_again_with_growing_pauses() -> None:
    """Each failure is counted and the pause before the next try doubles up to its limit."""

    async def main() -> None:
        metrics, times = Metrics(process=False), list[float]()
        supervisor = Supervisor(metrics)

        async def loop() -> None:
            times.append(asyncio.get_running_loop().time())
            if len(times) < 5:
                raise RuntimeError("no")
            await asyncio.Event().wait()

        supervisor.run("loop", loop, restart=Restart(initial=1, longest=4))
        await asyncio.sleep(60)
        assert times == [0, 1, 3, 7, 11]
        assert failures(metrics, "loop") == 4
        await supervisor.stop()
        await supervisor.stop()

    run_virtual(main)


def test_a_loop_that_must_not_fail_is_fatal() -> None:
    """Without a restart an error is kept for whoever owns the process."""

    async def main() -> None:
        supervisor = Supervisor()

        async def loop() -> None:
            raise RuntimeError("no disk")

        supervisor.run("loop", loop, restart=None)
        assert str(await supervisor.wait_failed()) == "no disk"
        await supervisor.stop()
        with pytest.raises(InvariantBroken):
            supervisor.run("late", loop)

    run_virtual(main)


def test_a_task_set_waits_then_cancels() -> None:
    """A stop lets tasks end within the grace, cancels the rest and says how many; a failure is counted."""

    async def main() -> None:
        metrics, ended = Metrics(process=False), list[float]()
        tasks = TaskSet("work", metrics)

        async def work(seconds: float) -> None:
            await asyncio.sleep(seconds)
            ended.append(seconds)

        async def fail() -> None:
            raise RuntimeError("no")

        tasks.spawn(work(1))
        tasks.spawn(work(2))
        tasks.spawn(work(50))
        tasks.spawn(fail())
        assert len(tasks) == 4
        assert not await tasks.join(0.5)
        assert failures(metrics, "work") == 1
        assert await tasks.stop(grace=5) == 1
        assert ended == [1, 2]
        assert len(tasks) == 0
        with pytest.raises(InvariantBroken):
            tasks.spawn(work(1))

    run_virtual(main)


def test_a_task_that_swallows_a_cancellation_is_asked_again() -> None:
    """A stop goes on asking, so that one lost cancellation does not keep the process alive."""

    async def main() -> None:
        tasks = TaskSet("stubborn")

        async def stubborn() -> None:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                await asyncio.sleep(100)

        tasks.spawn(stubborn())
        await asyncio.sleep(0)
        assert await tasks.stop() == 1
        assert len(tasks) == 0

    run_virtual(main)
