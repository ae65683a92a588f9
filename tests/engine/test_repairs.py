"""What was lost or left behind is made good: by a poke, by a takeover, by a drain. On the memory twin."""

from __future__ import annotations

import asyncio

from jetloom.messages import Result, Start, encode, input_hash
from jetloom.runtime import StepContext
from jetloom.stores import IndexStore
from jetloom.types import JSON
from jetloom.workflows import Definition, Step, Wait
from tests.engine.world import World, play

BEFORE_A_SWEEP = 45.0
"""Above the time for which the stream of tasks remembers what it held, below that of two sweeps."""
REMOTE = Definition(id="remote", steps=(Step("a", uses="far"),))
LOCAL = Definition(id="local", steps=(Step("a", uses="near"),))


async def near(context: StepContext, value: object) -> JSON:
    return context.step


def test_a_drain_during_a_head_start_leaves_no_journal_that_has_no_start() -> None:
    """A body that began before the first append is given back with its start, and nothing is journaled of it."""

    async def scene(world: World) -> None:
        began = asyncio.Event()

        async def stuck(context: StepContext, value: object) -> JSON:
            began.set()
            await asyncio.get_running_loop().create_future()
            return None

        await world.begin(LOCAL)
        first = await world.engine("e1", {"near": stuck})
        started = await world.client.start("local", {})
        await began.wait()
        await first.stop(deadline=0)
        await world.engine("e2", {"near": near})
        assert await world.result(started.run) == "a"
        assert (await world.tags(started.run))[0][0] == "run_started"

    play(scene)


def test_a_poke_sends_a_lost_task_again_although_all_was_derived_before() -> None:
    """A task that vanished from its stream comes back with the next poke, at every poke."""

    async def scene(world: World) -> None:
        await world.begin(REMOTE)
        await world.engine("e1")
        started = await world.client.start("remote", {})
        names = world.names
        subject = names.task("far", started.run, started.inc, "a", 1)

        async def stored() -> bool:
            return await world.transport.last(names.tasks_stream, subject) is not None

        for _ in range(2):
            await world.until("the task is stored", stored, seconds=BEFORE_A_SWEEP)
            await world.transport.purge(names.tasks_stream, subject)
            await world.transport.append(names.poke(started.run), b"", expected=0)
        await world.until("the task is stored again", stored, seconds=BEFORE_A_SWEEP)
        result = names.result(started.run, "far", started.inc, "a", 1)
        await world.transport.append(result, encode(Result("ok", output="done")), expected=0)
        assert await world.result(started.run) == "done"

    play(scene)


def test_a_takeover_sends_what_its_dead_engine_did_not() -> None:
    """A remote task whose engine died between append and send is sent by the takeover, not when the local body ends."""
    both = Definition(id="both", steps=(Step("a", uses="near"), Step("b", uses="far")))

    async def scene(world: World) -> None:
        gate = asyncio.Event()

        async def waits(context: StepContext, value: object) -> JSON:
            await gate.wait()
            return context.step

        await world.begin(both)
        await world.engine("e1", {"near": waits})
        started = await world.client.start("both", {}, id="r1")
        names = world.names
        subject = names.task("far", started.run, started.inc, "b", 1)

        async def stored() -> bool:
            return await world.transport.last(names.tasks_stream, subject) is not None

        await world.until("the task is stored", stored)
        world.server.abandon("e1")
        # As if it had died a moment earlier.
        await world.transport.purge(names.tasks_stream, subject)
        await world.engine("e2", {"near": waits})
        await world.until("the takeover sent the task", stored, seconds=BEFORE_A_SWEEP)
        gate.set()
        result = names.result(started.run, "far", started.inc, "b", 1)
        await world.transport.append(result, encode(Result("ok", output="done")), expected=0)
        await world.result(started.run)

    play(scene)


def test_a_run_whose_results_come_soon_has_one_row() -> None:
    """A run that ends while its row waits is written once, as what it became; one that goes on gets its row."""

    async def scene(world: World) -> None:
        await world.begin(REMOTE)
        await world.engine("e1")
        names, index = world.names, IndexStore(world.transport, world.names)
        quick = await world.client.start("remote", {}, id="quick")
        await world.client.start("remote", {}, id="slow")
        subject = names.task("far", "quick", quick.inc, "a", 1)

        async def stored() -> bool:
            return await world.transport.last(names.tasks_stream, subject) is not None

        await world.until("the task is stored", stored)
        result = names.result("quick", "far", quick.inc, "a", 1)
        await world.transport.append(result, encode(Result("ok", output="done")), expected=0)
        await world.result("quick")
        assert await world.transport.last(names.mailbox_stream(0), names.start("slow")) is not None

        async def shown() -> bool:
            return len(await index.page()) == 2

        await world.until("both have a row", shown, seconds=1.0)
        assert {(row.run, row.status.value) for row in await index.page()} == {
            ("quick", "completed"),
            ("slow", "running"),
        }
        state = await world.transport.stream_state(names.index_stream)
        assert state is not None
        assert state.last == 2

        async def let_go() -> bool:
            return await world.transport.last(names.mailbox_stream(0), names.start("slow")) is None

        await world.until("the start is acknowledged", let_go, seconds=1.0)

    play(scene)


def test_a_row_that_waits_outlives_its_engine() -> None:
    """What moved the run is acknowledged only with its row: when the engine dies before, the next one writes it."""

    async def scene(world: World) -> None:
        await world.begin(REMOTE)
        await world.engine("e1")
        names, index = world.names, IndexStore(world.transport, world.names)
        started = await world.client.start("remote", {})
        subject = names.task("far", started.run, started.inc, "a", 1)

        async def stored() -> bool:
            return await world.transport.last(names.tasks_stream, subject) is not None

        await world.until("the task is stored", stored)
        assert not await index.page()
        world.server.abandon("e1")
        await world.engine("e2")

        async def shown() -> bool:
            return [row.run for row in await index.page()] == [started.run]

        await world.until("the run has a row", shown, seconds=10.0)

    play(scene)


def test_a_message_that_a_waiting_step_can_not_take_fails_the_step() -> None:
    """An output that breaks its schema ends the run by name, instead of bringing the message back for ever."""
    picky = Definition(
        id="picky", steps=(Step("a", wait=Wait(message="go"), output_schema={"type": "integer"}),)
    )

    async def scene(world: World) -> None:
        await world.begin(picky)
        await world.engine("e1")
        started = await world.client.start("picky", {})
        await world.client.message(started.run, "go", "text")

        async def failed() -> bool:
            return (await world.client.show(started.run)).status == "failed"

        await world.until("the run failed", failed)

    play(scene)


def test_a_run_that_waited_for_its_definition_begins_like_any_other() -> None:
    """Its timeout runs, and what a person decided meanwhile does not drop the messages that waited too."""
    late = Definition(id="late", steps=(Step("a", wait=Wait(message="go")),), timeout=3600.0)

    async def scene(world: World) -> None:
        await world.begin()
        await world.engine("e1")
        names = world.names
        value: JSON = {"x": 1}
        start = Start("late", input_hash("late", value), "nonce", input=value)
        await world.transport.append(names.start("r1"), encode(start), expected=0)

        async def parked() -> bool:
            return "parked" in [tag for tags in await world.tags("r1") for tag in tags]

        await world.until("the run waits for its definition", parked)
        await world.client.message("r1", "go", "hi")
        await world.client.register(encode(late).decode())
        await world.client.action("r1", "retry")
        assert await world.result("r1") == "hi"
        assert [
            record["name"]
            for line in await world.client.journal("r1")
            for record in line.records
            if record["t"] == "timer"
        ] == ["run"]

    play(scene)
