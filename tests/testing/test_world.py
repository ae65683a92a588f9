"""Whole modules, workflows and crashes in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from jetloom import Module, Runtime, TaskFailed
from jetloom.errors import InvalidInput, NoResponders, NotFound, StartFailed
from jetloom.testing import EPOCH, Deadlock, Delay, Leaked, SeededFaults, World, run_world
from jetloom.types import JSON, RunStatus
from tests.testing.shop import WORKFLOW, Placed, Sales, Stock, definition


async def shop(world: World) -> None:
    await world.fake_step("payments.charge", [{"charge": "c-1"}])
    await world.start(Stock)
    await world.start(Sales, workflows=[definition()])


# -- what happens
async def test_event_starts_a_run_that_ends(world: World) -> None:
    """An event is handled, its run's steps run in their processes, and what they emit is seen."""
    await shop(world)
    await world.publish("shop.order.placed", Placed("o-1"))
    await world.settled()
    assert [(each.type, each.payload) for each in world.published("shop.order.*")] == [
        ("shop.order.placed", {"order": "o-1", "pieces": 1}),
        ("shop.order.closed", {"order": "o-1"}),
    ]
    assert [str(each.actor) for each in world.published("shop.order.*")] == ["human:test"] * 2
    [handled] = world.handled("sales.placed")
    assert (handled.outcome, handled.process, handled.code) == ("ok", "sales", "")
    assert [each.output for each in world.handled("stock.reserve")] == [True]
    assert (await world.run("o-1")).status is RunStatus.COMPLETED
    assert (await world.kv("sales", Placed).get("o-1")).value == Placed("o-1")
    assert "order taken" in [record.getMessage() for record in world.logs]


async def test_time_passes_by_hand(world: World) -> None:
    """Retries and schedules happen when the test lets their time pass."""
    charge = await world.fake_step("payments.charge", [OSError("away"), {"charge": "c-1"}])
    await world.start(Stock, Sales, workflows=[definition()])
    run = await world.start_run("fulfil", {"order": "o-1"})
    await world.settled()
    assert (await world.run(run)).status is RunStatus.WAITING
    assert len(charge.calls) == 1
    await world.advance(minutes=5)
    assert (await world.run(run)).status is RunStatus.COMPLETED
    assert [each.attempt for each in charge.calls] == [1, 2]
    assert charge.calls[1].at - charge.calls[0].at >= 30
    await world.advance(hours=3)
    assert len(world.published("shop.tidied")) == 3
    assert len(world.handled("sales.tidy")) == 3


async def test_wait_lets_time_pass(world: World) -> None:
    """Waiting for a run's end lets as much time pass as the run takes, and gives it also when it failed."""
    charge = await world.fake_step("payments.charge", [TaskFailed("card.declined", "no")])
    await world.start(Stock, Sales, workflows=[definition()])
    view = await world.wait(await world.start_run("fulfil", {"order": "o-1"}))
    assert view.status is RunStatus.FAILED
    assert len(charge.calls) == 1
    assert len(world.handled("stock.release")) == 1
    charge.will(Delay(1_200, {"charge": "c-2"}))
    begun = world.clock.now()
    view = await world.wait(await world.start_run("fulfil", {"order": "o-2"}))
    assert view.status is RunStatus.COMPLETED
    assert world.clock.now() - begun >= 1_200


async def test_what_fails_is_seen(world: World) -> None:
    """A handler's errors stand in its calls, and what is given up in the dead letters."""
    await shop(world)
    await world.publish("shop.order.placed", Placed("o-1", -1))
    await world.publish("shop.order.placed", {"order": 7})
    await world.advance(minutes=5)
    assert [(each.outcome, each.code) for each in world.handled("sales.placed")] == [
        ("error", "order.negative")
    ]
    letters = await world.dead_letters("sales")
    assert {each.code for each in letters} == {"order.negative", "decode.failed"}


async def test_calls_and_configuration(world: World) -> None:
    """Endpoints are called as another module would, configured by a dict or the environment."""

    def by_length(order: JSON) -> int:
        return len(str(order))

    tax = await world.fake_endpoint("tax", "rate", [7, by_length, Delay(2, 1)])
    await world.start(Sales, config={"sales": {"cents": 200}}, workflows=[definition()])
    assert await world.call("sales", "price", Placed("o-1", 2), type=int) == 407
    assert await world.call("sales", "price", Placed("long-name")) == 209
    assert await world.call("sales", "price", Placed("o-1")) == 201
    assert tax.inputs == ["o-1", "long-name", "o-1"]
    assert [str(each.actor) for each in tax.calls] == ["human:test"] * 3
    rpc = await world.rpc()
    assert [part async for part in rpc.stream("sales", "count", 3)] == [0, 1, 2]
    assert world.handled("sales.count")[0].output == [0, 1, 2]
    assert isinstance(world.rt("sales"), Runtime)


async def test_replicas_share_the_work(world: World) -> None:
    """Replicas are processes of their own, and each event goes to one of them."""
    await world.fake_step("payments.charge")
    await world.start(Sales, replicas=3, environ={"JETLOOM_SALES__CENTS": "5"}, workflows=[definition()])
    await world.start(Stock)
    for number in range(30):
        await world.publish("shop.order.placed", Placed(f"o-{number}"))
    await world.settled()
    assert len(world.handled("sales.placed")) == 30
    assert {each.process for each in world.handled("sales.placed")} == {"sales", "sales#2", "sales#3"}


# -- crashes
async def test_crashed_module_resumes(world: World) -> None:
    """What a crashed process held is handled again by the next one, when its ack wait has passed."""
    await world.start(Stock)
    await world.publish("shop.stock.slow", 5)
    await world.settled()
    world.crash(Stock)
    assert [each.outcome for each in world.handled("stock.slow")] == ["killed"]
    await world.restart(Stock)
    await world.advance(minutes=1)
    assert [(each.outcome, each.process) for each in world.handled("stock.slow")] == [
        ("killed", "stock"),
        ("ok", "stock#2"),
    ]


async def test_crashed_engine_resumes(world: World) -> None:
    """A run goes on after its engine was killed in the middle of it."""
    charge = await world.fake_step("payments.charge", [Delay(100, {"charge": "c-1"})])
    await world.start(Stock, Sales, workflows=[definition()])
    run = await world.start_run("fulfil", {"order": "o-1"})
    await world.settled()
    world.crash("engine")
    await world.advance(minutes=5)
    assert (await world.run(run)).status is RunStatus.RUNNING
    await world.restart("engine")
    assert (await world.wait(run)).status is RunStatus.COMPLETED
    assert len(charge.calls) == 1


async def test_who_is_gone_does_not_answer(world: World) -> None:
    """A crashed module answers nothing, and what is not there can't be crashed."""
    await world.start(Sales)
    world.crash("sales")
    with pytest.raises(NoResponders):
        await world.call("sales", "price", Placed("o-1"))
    for module in ("sales", "nobody"):
        with pytest.raises(NotFound):
            world.crash(module)
    with pytest.raises(NotFound):
        await world.restart("nobody")
    with pytest.raises(NotFound):
        world.rt("sales")


async def test_server_outage(world: World) -> None:
    """The server may be away: what was stored is handled when it is back."""
    await shop(world)
    world.server.crash()
    await world.advance(10)
    world.server.restart()
    await world.advance(10)
    await world.publish("shop.order.placed", Placed("o-1"))
    await world.advance(10)
    assert (await world.run("o-1")).status is RunStatus.COMPLETED


@pytest.mark.parametrize("seed", range(2))
def test_seeds_and_faults(seed: int) -> None:
    """A seed gives an order and faults, and the same seed the same story."""

    async def main(world: World) -> list[tuple[float, str]]:
        world.server.faults = SeededFaults(seed)
        await shop(world)
        for number in range(3):
            await world.publish("shop.order.placed", Placed(f"o-{number}"))
        for number in range(3):
            assert (await world.wait(f"o-{number}")).status is RunStatus.COMPLETED
        return [(each.time.timestamp(), each.id) for each in world.published()]

    assert run_world(main, seed=seed) == run_world(main, seed=seed)


# -- mistakes
async def test_fakes_and_modules_exclude_each_other(world: World, tmp_path: Path) -> None:
    """What is faked can't be started, what runs can't be faked, and a workflow's file must be there."""
    await world.fake_step("stock.reserve")
    await world.fake_endpoint("sales", "price")
    await world.fake_endpoint("sales", "count")
    for module in (Stock, Sales):
        with pytest.raises(InvalidInput, match="faked"):
            await world.start(module)
    with pytest.raises(InvalidInput, match="already"):
        await world.fake_step("stock.reserve")
    with pytest.raises(InvalidInput, match="no workflow file"):
        await world.start(workflows=[tmp_path])
    with pytest.raises(InvalidInput, match="only goes on"):
        await world.advance(seconds=-1)


async def test_workflow_files(world: World, tmp_path: Path) -> None:
    """A folder's workflow files are registered."""
    (tmp_path / "fulfil.yaml").write_text(WORKFLOW, encoding="utf-8")
    await world.start(Stock, workflows=[tmp_path])
    await world.start(Sales, workflows=[tmp_path / "fulfil.yaml"])
    await world.fake_step("payments.charge")
    assert (await world.wait(await world.start_run("fulfil", {"order": "1"}))).status is RunStatus.COMPLETED


async def test_module_that_does_not_start(world: World) -> None:
    """A module that can't start says why, and the world goes on without it."""

    class Bad(Module):
        id = "bad"

        async def init(self, rt: Runtime) -> None:
            raise ValueError("no luck")

    with pytest.raises(StartFailed, match="no luck"):
        await world.start(Bad)
    await world.start(Stock)


def test_stuck_test_is_named() -> None:
    """A test that waits for what never comes ends at once, with its line and what else is waited for."""

    async def main(world: World) -> None:
        await world.start(Stock, Sales, workflows=[definition()])
        await world.start_run("fulfil", {"order": "o-1"}, id="o-1")
        await world.publish("shop.stock.slow", 100_000)
        await asyncio.Event().wait()

    with pytest.raises(
        Deadlock, match=r"nothing left to happen; waiting for: the test, in .*main.*test_world"
    ) as caught:
        run_world(main)
    assert "stock.slow, running in stock+sales" in str(caught.value)
    assert "run o-1 (running) for pay: a worker of payments.charge" in str(caught.value)


def test_leaks_are_named() -> None:
    """A task or subscription that outlives its module's shutdown fails the test, by name."""

    class Leaky(Module):
        id = "leaky"

        async def init(self, rt: Runtime) -> None:
            self.task = asyncio.get_running_loop().create_task(asyncio.sleep(1e6), name="forgotten")
            self.subscription = await rt.transport.subscribe("some.subject", lambda _: None)

    async def main(world: World) -> None:
        await world.start(Leaky)

    with pytest.raises(Leaked) as caught:
        run_world(main)
    [task, subscription] = caught.value.left
    assert task.startswith("leaky: task 'forgotten', in sleep")
    assert subscription == "leaky: subscription on some.subject"


async def test_clock_begins_at_the_epoch(world: World) -> None:
    """Virtual time begins at the same moment in every test."""
    assert world.clock.now() == EPOCH
