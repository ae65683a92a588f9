"""The pytest plugin, in pytest processes of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

MODULE = """
import asyncio
import pytest
from jetloom import Event, Module, Runtime, on
from jetloom.testing import World, VirtualLoop

def virtual() -> bool:
    return isinstance(asyncio.get_running_loop(), VirtualLoop)

class Greeter(Module):
    id = "greeter"
    @on("greet.asked")
    async def asked(self, event: Event[str]) -> None: ...

class Leaky(Greeter):
    async def init(self, rt: Runtime) -> None:
        self.task = asyncio.create_task(asyncio.sleep(1e6), name="forgotten")
"""

MIXED = (
    MODULE
    + """
@FIXTURE
async def greeted(world: World):
    await world.start(Greeter)
    await world.publish("greet.asked", "me")
    yield "greeted" if virtual() else "real"
    assert virtual()

@FIXTURE
async def real():
    await asyncio.sleep(0.001)
    return not virtual()

class TestIt:
    @FIXTURE
    async def mine(self, world: World) -> str:
        return "mine"

    async def test_method(self, world: World, mine: str) -> None:
        assert virtual() and mine == "mine"
        await asyncio.sleep(600)

async def test_fixture(greeted: str, world: World) -> None:
    await world.settled()
    assert greeted == "greeted"
    assert len(world.handled("greeter.asked")) == 1

async def test_without_a_marker(world: World) -> None:
    await world.start(Greeter)
    await world.advance(hours=1)

@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.asyncio
async def test_with_a_marker(world: World, number: int) -> None:
    await world.start(Greeter, replicas=number)
    assert virtual()

@pytest.mark.asyncio
async def test_real(real: bool) -> None:
    assert real and not virtual()

def test_sync(world: World) -> None:
    assert world.published() == []
"""
)

FAILING = (
    MODULE
    + """
async def test_leaks(world: World) -> None:
    await world.start(Leaky)

async def test_stuck(world: World) -> None:
    await world.start(Greeter)
    await asyncio.Event().wait()

async def test_wrong(world: World) -> None:
    await world.start(Leaky)
    assert world.seed == 8
"""
)

SERVER = (
    MODULE
    + """
import asyncio
from jetloom.transport import connect, StreamAsset, ConsumerAsset

held = []

async def make(nats_url: str, namespace: str):
    transport = await connect(nats_url)
    await transport.ensure(StreamAsset(name=namespace.upper() + "_EVENTS", subjects=(namespace + ".event.>",)))
    return transport

async def test_clean(nats_url: str, jetloom_namespace: str) -> None:
    transport = await make(nats_url, jetloom_namespace)
    await transport.close()

async def test_fresh(nats_url: str, jetloom_namespace: str) -> None:
    transport = await connect(nats_url)
    assert not await transport.assets("T-")
    await transport.close()
"""
)

PULLING = (
    SERVER
    + '''
import subprocess, sys, time

PULLER = """
import asyncio, sys
from jetloom.transport import connect
async def main():
    transport = await connect(sys.argv[1])
    pull = await transport.pull(sys.argv[2], "left", print, capacity=lambda: 1, expiry=5)
    while not (await transport.consumer_state(sys.argv[2], "left")).waiting:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""

@pytest.fixture(scope="session")
def pullers():
    running = []
    yield running
    for each in running:
        each.kill()
        each.wait()
        each.stdout.close()

async def test_forgets(nats_url: str, jetloom_namespace: str) -> None:
    held.append(asyncio.create_task(asyncio.sleep(1000), name="forgotten"))

async def test_pulls(nats_url: str, jetloom_namespace: str, pullers) -> None:
    transport = await make(nats_url, jetloom_namespace)
    stream = jetloom_namespace.upper() + "_EVENTS"
    await transport.ensure(ConsumerAsset(stream=stream, name="left"))
    await transport.close()
    puller = subprocess.Popen([sys.executable, "-c", PULLER, nats_url, stream], stdout=subprocess.PIPE)
    pullers.append(puller)
    assert puller.stdout.readline() == b"ready\\n"
'''
)


def configure(pytester: pytest.Pytester, mode: str) -> None:
    pytester.makeini(
        f"[pytest]\nasyncio_mode = {mode}\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_beside_pytest_asyncio(pytester: pytest.Pytester, mode: str) -> None:
    """Tests with a world run in virtual time, with their async fixtures, beside others that run in real time."""
    configure(pytester, mode)
    fixture = "pytest.fixture" if mode == "auto" else "pytest_asyncio.fixture"
    pytester.makepyfile("import pytest_asyncio\n" + MIXED.replace("FIXTURE", fixture))
    result = pytester.runpytest_subprocess("-p", "no:xdist", "-q")
    result.assert_outcomes(passed=7)


def test_without_pytest_asyncio(pytester: pytest.Pytester) -> None:
    """Tests with a world need no other plugin."""
    pytester.makepyfile(MODULE + "async def test_it(world):\n    await world.start(Greeter)\n")
    result = pytester.runpytest_subprocess("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:xdist", "-q")
    result.assert_outcomes(passed=1)


def test_failures_are_named(pytester: pytest.Pytester) -> None:
    """Leaks, a stuck test and a failed one are told by name, with the seed that repeats them."""
    configure(pytester, "auto")
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_subprocess("-p", "no:xdist", "-q", "--jetloom-seed", "7")
    result.assert_outcomes(passed=1, failed=2, errors=1)
    result.stdout.fnmatch_lines_random(
        [
            "*outlives the test: greeter: task 'forgotten'*",
            "*nothing left to happen; waiting for: the test, in test_stuck*",
            "*assert 7 == 8*",
            "*repeat it with --jetloom-seed=7*",
        ]
    )


def test_bad_seed(pytester: pytest.Pytester) -> None:
    """A seed that is no number is refused, and `random` draws one."""
    result = pytester.runpytest_subprocess("-p", "no:xdist", "--jetloom-seed", "soon")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--jetloom-seed soon: expected a whole number*"])
    result = pytester.runpytest_subprocess("-p", "no:xdist", "--jetloom-seed", "random")
    result.stdout.fnmatch_lines(["jetloom: --jetloom-seed=[0-9]*"])


def test_namespaces_of_a_server(pytester: pytest.Pytester) -> None:
    """A test gets a namespace of its own on a real server; who still pulls from it, or runs, afterwards is named."""
    configure(pytester, "auto")
    pytester.makepyfile(PULLING)
    result = pytester.runpytest_subprocess("-p", "no:xdist", "-q")
    result.assert_outcomes(passed=4, errors=2)
    result.stdout.fnmatch_lines(["*outlives the test: task 'forgotten', in sleep*"])
    result.stdout.fnmatch_lines(["*somebody still pulls from consumer left of T-*_EVENTS*"])


def test_given_server_is_used(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """`NATS_URL` names a server to use, and none is started then."""
    monkeypatch.setenv("NATS_URL", "nats://somewhere:1")
    pytester.makepyfile(
        "def test_it(nats_url, nats_server):\n    assert nats_url == 'nats://somewhere:1' and not nats_server.is_own\n"
    )
    pytester.runpytest_subprocess("-p", "no:xdist", "-q").assert_outcomes(passed=1)


def test_plugin_is_light() -> None:
    """The plugin alone loads neither the transport nor anything that it needs."""
    code = "import sys, jetloom.testing.plugin as _; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = done.stdout.split()
    assert "jetloom.testing.plugin" in loaded
    assert [name for name in loaded if name.startswith(("nats", "msgspec", "aiohttp", "jetloom.trans"))] == []
