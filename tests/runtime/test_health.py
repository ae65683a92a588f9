"""Health checks run in the background; live and ready are two questions."""

from __future__ import annotations

import asyncio
import threading

from jetloom.runtime import Health, Module, health
from tests.runtime.world import World, run_on_twin, until


class Checked(Module):
    id = "checked"

    def __init__(self) -> None:
        self.database = ""
        self.alive = True
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()

    @health(interval=10, timeout=2)
    async def db(self) -> str | None:
        self.calls += 1
        if self.database == "hangs":
            await asyncio.sleep(60)
        if self.database == "raises":
            raise OSError("refused")
        return self.database or None

    @health("pulse", kind="live", interval=1)
    def beat(self) -> bool:
        return self.alive


def check(found: Health, name: str) -> tuple[bool, str]:
    [one] = [each for each in found.checks if each.title == name]
    return one.ok, one.detail


def test_checks_decide_live_and_ready() -> None:
    """A failing `ready` check takes traffic away, a failing `live` one asks for a restart; both come back."""

    async def scenario(world: World) -> None:
        module = Checked()
        async with world.running(module) as (host, _):
            first = host.health()
            assert (first.live, first.ready, first.problems) == (True, True, [])
            assert {each.title for each in first.checks} == {
                "nats",
                "event loop",
                "background tasks",
                "checked.db",
                "checked.pulse",
            }
            for state, expected in (
                ("no space left", "no space left"),
                ("raises", "OSError: refused"),
                ("hangs", "TimeoutError: took longer than 2 s"),
            ):
                module.database = state
                await until(lambda e=expected: check(host.health(), "checked.db") == (False, e), expected)
            assert (host.health().live, host.health().ready) == (True, False)
            assert host.health().problems == ["checked.db: TimeoutError: took longer than 2 s"]
            assert host.metrics.value("jetloom_health_ratio", module="checked", check="db") == 0
            module.database, module.alive = "", False
            await until(lambda: not host.health().live, "the live check failed")
            assert check(host.health(), "checked.pulse") == (False, "the check gave False")
            module.alive = True
            await until(lambda: host.health().ready, "everything is well again")
            calls = module.calls
            for _ in range(100):
                host.health()
            assert module.calls == calls
        assert not host.health().ready

    run_on_twin(scenario)


class Hanging(Module):
    id = "hanging"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls = 0

    @health(interval=0.1, timeout=0.1)
    def disk(self) -> None:
        self.calls += 1
        self.gate.wait(20)


async def test_a_check_that_hangs_takes_one_thread() -> None:
    """It is not called again while its last call has not returned, and says so."""
    from jetloom.config import Settings
    from jetloom.runtime import Host
    from jetloom.telemetry import Metrics
    from jetloom.transport import MemoryServer

    module = Hanging()
    transport = MemoryServer().connect("test")
    host = Host([module], transport, Settings(), metrics=Metrics(process=False), environ={})
    await host.start()
    try:
        await until(lambda: "has not returned yet" in check(host.health(), "hanging.disk")[1], "it says so")
        assert module.calls == 1
    finally:
        module.gate.set()
        await host.stop()


class Cut(Module):
    id = "cut"


def test_a_lost_connection_is_not_ready() -> None:
    """The process stays live: a restart would not bring NATS back."""

    async def scenario(world: World) -> None:
        async with world.running(Cut) as (host, transport):
            await transport.close()
            found = host.health()
            assert (found.live, found.ready) == (True, False)
            assert found.problems == ["nats: not connected to NATS"]

    run_on_twin(scenario)
