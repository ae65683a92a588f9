"""Background tasks are started again, given up loudly, and end with their module."""

from __future__ import annotations

import asyncio

import pytest

from jetloom.errors import InvalidInput
from jetloom.runtime import Module, Runtime, background
from jetloom.telemetry import current
from tests.runtime.world import World, run_on_twin, until


class Feeding(Module):
    id = "feeding"

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails = 0
        self.up = False

    async def init(self, rt: Runtime) -> None:
        self.rt = rt
        rt.background("extra", self._extra)
        with pytest.raises(InvalidInput, match="has a background task 'extra' already"):
            rt.background("extra", self._extra)
        await asyncio.sleep(1)
        self.up = True

    async def shutdown(self) -> None:
        self.log.append("shutdown")

    @background(restarts_max=3)
    async def feed(self) -> None:
        assert self.up
        self.log.append(f"feed as {current().actor}")
        if self.fails:
            self.fails -= 1
            raise ValueError("no feed")
        try:
            await asyncio.sleep(3600)
        finally:
            self.log.append("feed ends")

    @background()
    async def once(self) -> None:
        self.log.append("once")

    async def _extra(self) -> None:
        self.log.append("extra")
        raise asyncio.CancelledError  # as a library may do to whoever awaits it


def test_a_task_runs_from_init_to_shutdown() -> None:
    """As the module, after init; it has ended when `shutdown` is called."""

    async def scenario(world: World) -> None:
        module = Feeding()
        async with world.running(module) as (host, _):
            await until(lambda: {"once", "feed as module:feeding"} <= set(module.log), "both run")
            assert host.health().live
            report = await host.drain(1)
            assert "feeding.feed" in report.background
            assert report.clean
        assert module.log[-2:] == ["feed ends", "shutdown"]

    run_on_twin(scenario)


def test_a_task_that_fails_is_started_again() -> None:
    """With a growing pause; the process stays live, and says that it does so."""

    async def scenario(world: World) -> None:
        module = Feeding()
        module.fails = 3
        async with world.running(module) as (host, _):
            await until(lambda: module.log.count("feed as module:feeding") == 4, "it was started four times")
            await until(lambda: module.log.count("extra") >= 3, "a stray cancellation is a failure")
            health = host.health()
            assert health.live
            [check] = [each for each in health.checks if each.name == "background tasks"]
            assert "started again: feeding.extra: RuntimeError: was cancelled from inside" in check.detail
            failures = host.metrics.value("jetloom_task_failures_total", task="feeding.feed")
            assert failures == 3

    run_on_twin(scenario)


def test_a_task_that_keeps_failing_is_given_up() -> None:
    """The process says that it is not live, and why, until somebody starts it again."""

    async def scenario(world: World) -> None:
        module = Feeding()
        module.fails = 10
        async with world.running(module) as (host, _):
            await until(lambda: not host.health().live, "it was given up")
            problem = "feeding.feed was given up after 4 failures: ValueError: no feed"
            assert any(problem in each for each in host.health().problems)
            assert module.log.count("feed as module:feeding") == 4

    run_on_twin(scenario)
