"""Who no longer waits says so, and the work ends."""

from __future__ import annotations

import asyncio

import pytest

from jetloom.errors import RequestTimeout
from jetloom.messages import to_rfc3339
from tests.rpc.serving import Gate, caller, endpoint, serving
from tests.runtime.world import Runner, World, run_on_twin, until


def test_a_cancelled_call_cancels_the_handler(run_on: Runner) -> None:
    """Promptly, without an answer, and it is no error of the endpoint."""

    async def scenario(world: World) -> None:
        gate = Gate()
        async with serving(world, endpoint(world, "held", gate.wait)) as service:
            rpc = await caller(world)
            call = asyncio.ensure_future(rpc.call("shop", "held", timeout=60))
            await until(lambda: gate.running == 1, "it is being handled")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await until(lambda: gate.cancelled == 1, "the handler was cancelled")
            await until(lambda: service.stats["held"].num_requests == 1, "it is counted")
            stats = service.stats["held"]
            assert (stats.num_errors, stats.last_error, stats.data) == (0, "", {"running": 0, "limit": 100})

    run_on(scenario)


def test_only_the_one_that_was_cancelled_ends(run_on: Runner) -> None:
    """Other requests of the same caller, and those of other instances, go on."""

    async def scenario(world: World) -> None:
        first, second = Gate(), Gate()
        async with (
            serving(world, endpoint(world, "held", first.wait)) as one,
            serving(world, endpoint(world, "held", second.wait)) as two,
        ):
            rpc = await caller(world)
            calls = [
                asyncio.ensure_future(rpc.call("shop", "held", number, timeout=60, instance=instance))
                for number, instance in enumerate((one.id, one.id, two.id))
            ]
            await until(lambda: (first.running, second.running) == (2, 1), "all are being handled")
            calls[0].cancel()
            await until(lambda: first.cancelled == 1, "the first was cancelled")
            first.opened.set()
            second.opened.set()
            assert await asyncio.gather(*calls[1:]) == [1, 2]
            assert (first.cancelled, second.cancelled) == (1, 0)

    run_on(scenario)


def test_a_timeout_of_the_caller_ends_the_work() -> None:
    """Even of a handler whose service gave it more time, and whose clock says something else."""

    async def scenario(world: World) -> None:
        gate = Gate()
        async with serving(world, endpoint(world, "held", gate.wait, timeout=300)):
            rpc = await caller(world)
            with pytest.raises(RequestTimeout):
                await rpc.call("shop", "held", timeout=1)
            await until(lambda: gate.cancelled == 1, "the handler was cancelled")

    run_on_twin(scenario)


def test_a_plain_caller_can_cancel(run_on: Runner) -> None:
    """A request with an id of the caller's choice, and that id on the service's cancel subject."""

    async def scenario(world: World) -> None:
        gate = Gate()
        async with serving(world, endpoint(world, "held", gate.wait)):
            plain = await world.connect()
            headers = {"Jetloom-Request-Id": "mine-1"}
            await plain.publish(world.names.rpc("shop", "held"), b"1", headers=headers)
            await plain.publish(
                world.names.rpc("shop", "held"), b"2", headers={"Jetloom-Request-Id": "x" * 101}
            )
            await until(lambda: gate.running == 2, "both are being handled")
            await plain.publish("$SRV.CANCEL.shop", b"unknown")
            await plain.publish("$SRV.CANCEL.shop", b"x" * 101)
            await plain.publish("$SRV.CANCEL.shop", b"mine-1")
            await until(lambda: gate.cancelled == 1, "the first was cancelled")
            assert gate.running == 1
            gate.opened.set()
            await until(lambda: gate.running == 0, "the other has ended")

    run_on(scenario)


def test_deadlines_of_many_requests() -> None:
    """Each request ends at its own time, the endpoint's limit or the caller's deadline, whichever comes first."""

    async def scenario(world: World) -> None:
        gate = Gate()
        async with serving(world, endpoint(world, "held", gate.wait, timeout=4)) as service:
            plain = await world.connect()
            began = world.clock.now()
            ends: list[tuple[int, float]] = []

            async def ask(number: int, deadline: str) -> None:
                headers = {"Jetloom-Deadline": deadline} if deadline else {}
                reply = await plain.request(
                    world.names.rpc("shop", "held"), b"1", headers=headers, timeout=60
                )
                assert reply.headers["Nats-Service-Error-Code"] == "503"
                ends.append((number, round(world.clock.now() - began)))

            limits = [3, 1, 60, 2, 0]
            await asyncio.gather(
                *(
                    ask(number, to_rfc3339(began + limit) if limit else "")
                    for number, limit in enumerate(limits)
                )
            )
            assert sorted(ends) == [(0, 3), (1, 1), (2, 4), (3, 2), (4, 4)]
            assert service.stats["held"].num_errors == 5
            assert "request.timeout" in service.stats["held"].last_error

    run_on_twin(scenario)


def test_a_cancellation_right_behind_the_request(run_on: Runner) -> None:
    """It ends work that has not begun, and an id that is used twice by mistake ends the later one only."""

    async def scenario(world: World) -> None:
        gate = Gate()
        async with serving(world, endpoint(world, "held", gate.wait)) as service:
            plain = await world.connect()
            subject, headers = world.names.rpc("shop", "held"), {"Jetloom-Request-Id": "mine-1"}
            await plain.publish(subject, b"1", headers=headers)
            await plain.publish("$SRV.CANCEL.shop", b"mine-1")
            await until(lambda: service.stats["held"].num_requests == 1, "it has ended")
            assert gate.running == 0
            assert service.stats["held"].data == {"running": 0, "limit": 100}
            for number in (b"1", b"2"):
                await plain.publish(subject, number, headers=headers)
            await until(lambda: gate.running == 2, "both are being handled")
            await plain.publish("$SRV.CANCEL.shop", b"mine-1")
            await until(lambda: gate.running == 1, "one was cancelled")
            gate.opened.set()
            await until(lambda: service.stats["held"].num_requests == 3, "all have ended")

    run_on(scenario)
