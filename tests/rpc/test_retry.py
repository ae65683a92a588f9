"""What is safe to repeat is repeated, within the caller's time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from jetloom.errors import Disconnected, JetloomError, NoResponders, NotFound, RequestTimeout
from jetloom.rpc import Busy, CallRetry
from jetloom.rpc._errors import BUSY_RETRY_MS
from jetloom.rpc._retry import pause_before, safe_to_repeat
from jetloom.telemetry import Context, use
from jetloom.transport import MemoryTransport
from tests.rpc.serving import Gate, caller, endpoint, serving
from tests.runtime.world import World, run_on_twin, until

RETRY = CallRetry(attempts_max=20)


def failing(times: int, answer: bytes = b"1") -> tuple[list[int], Callable[[bytes], Awaitable[bytes]]]:
    """A handler that never answers its first calls."""
    calls: list[int] = []

    async def handle(_data: bytes) -> bytes:
        calls.append(len(calls))
        if len(calls) <= times:
            await asyncio.Event().wait()
        return answer

    return calls, handle


@pytest.mark.parametrize(
    ("error", "sent", "idempotent", "safe"),
    [
        (NoResponders("a"), True, False, True),
        (Busy("a", 1), True, False, True),
        (Disconnected("a"), False, False, True),
        (Disconnected("a"), True, False, False),
        (Disconnected("a"), True, True, True),
        (RequestTimeout("a", 1), True, False, False),
        (RequestTimeout("a", 1), True, True, True),
        (NotFound("a"), True, True, False),
    ],
)
def test_what_is_safe(error: JetloomError, sent: bool, idempotent: bool, safe: bool) -> None:
    """A request that was surely not handled is repeated; one that may have been, only when it is idempotent."""
    assert safe_to_repeat(error, sent=sent, idempotent=idempotent) is safe


def test_pauses_grow_and_vary() -> None:
    """Between half and the whole of a doubling pause; after Busy not before the service says."""

    async def scenario(world: World) -> None:
        retry = CallRetry(initial=0.1, longest=1.0)
        gone = NoResponders("a")
        for attempt, whole in ((2, 0.1), (3, 0.2), (4, 0.4), (6, 1.0), (60, 1.0)):
            pauses = {pause_before(attempt, gone, retry, world.clock) for _ in range(20)}
            assert len(pauses) > 1
            assert all(whole / 2 <= pause <= whole for pause in pauses)
        assert pause_before(2, Busy("a", 1), retry, world.clock) >= BUSY_RETRY_MS / 1000

    run_on_twin(scenario)


def test_a_service_that_starts_late_is_reached() -> None:
    """Nobody there: asked again until somebody is."""

    async def scenario(world: World) -> None:
        rpc = await caller(world)
        call = asyncio.ensure_future(rpc.call("shop", "echo", 5, retry=RETRY, timeout=60))
        await asyncio.sleep(3)

        async def echo(data: bytes) -> bytes:
            return data

        async with serving(world, endpoint(world, "echo", echo)):
            assert await call == 5

    run_on_twin(scenario)


def test_a_busy_service_is_asked_again() -> None:
    """Busy is no failure of a call that has time."""

    async def scenario(world: World) -> None:
        gate = Gate()
        async with serving(world, endpoint(world, "held", gate.wait, concurrency=1)):
            rpc = await caller(world)
            first = asyncio.ensure_future(rpc.call("shop", "held", 1, timeout=60))
            await until(lambda: gate.running == 1, "the first is being handled")
            second = asyncio.ensure_future(rpc.call("shop", "held", 2, timeout=60, retry=RETRY))
            await asyncio.sleep(2)
            gate.opened.set()
            assert await asyncio.gather(first, second) == [1, 2]
            assert gate.calls == 2

    run_on_twin(scenario)


def test_an_idempotent_call_that_got_no_answer_is_repeated() -> None:
    """The attempts share the time, so that a silent one leaves room for another."""

    async def scenario(world: World) -> None:
        calls, handle = failing(2)
        async with serving(world, endpoint(world, "flaky", handle)):
            rpc = await caller(world)
            began = world.clock.now()
            assert await rpc.call("shop", "flaky", timeout=9, retry=RETRY, idempotent=True) == 1
            assert len(calls) == 3
            assert 6 < world.clock.now() - began < 9

    run_on_twin(scenario)


def test_a_call_that_may_have_been_handled_is_not_repeated() -> None:
    """Without `idempotent` a silent call ends with its timeout, after one attempt."""

    async def scenario(world: World) -> None:
        calls, handle = failing(1)
        async with serving(world, endpoint(world, "flaky", handle)):
            rpc = await caller(world)
            with pytest.raises(RequestTimeout):
                await rpc.call("shop", "flaky", timeout=9, retry=RETRY)
            assert len(calls) == 1

    run_on_twin(scenario)


def test_retries_end_at_the_deadline() -> None:
    """The context's deadline bounds them, and the last error says why it failed."""

    async def scenario(world: World) -> None:
        rpc = await caller(world)
        began = world.clock.now()
        with use(Context(deadline=began + 2)), pytest.raises(NoResponders):
            await rpc.call("shop", "nothing", timeout=60, retry=CallRetry(attempts_max=1000))
        assert world.clock.now() - began <= 2
        with pytest.raises(NoResponders):
            await rpc.call("shop", "nothing", timeout=600, retry=CallRetry(attempts_max=3))
        assert world.clock.now() - began < 5

    run_on_twin(scenario)


def test_a_call_waits_for_the_connection() -> None:
    """What was never sent because the connection is down is sent when it is back, idempotent or not."""

    async def scenario(world: World) -> None:
        async def echo(data: bytes) -> bytes:
            return data

        async with serving(world, endpoint(world, "echo", echo)):
            rpc = await caller(world)
            transport = rpc.transport
            assert isinstance(transport, MemoryTransport)
            transport.disconnect()
            transport.reconnect_later(1)
            await until(lambda: not transport.connected, "the connection is down")
            with pytest.raises(Disconnected):
                await rpc.call("shop", "echo", 1)
            assert await rpc.call("shop", "echo", 2, timeout=30, retry=RETRY) == 2

    run_on_twin(scenario)
