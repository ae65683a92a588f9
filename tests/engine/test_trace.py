"""A W3C trace context goes with a run: to its steps here and elsewhere, to its tasks, to the events that it emits."""

from __future__ import annotations

from jetloom.engine import Worker
from jetloom.runtime import StepContext, StepHandler
from jetloom.telemetry import Context, current, use
from jetloom.types import JSON
from jetloom.workflows import Definition, Step
from tests.engine.world import World, play

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BOTH = Definition(
    id="both", steps=(Step("here", uses="do.here"), Step("far", uses="do.far", depends_on=("here",)))
)


def test_a_trace_goes_with_the_run() -> None:
    """What the starter's context held is found in a local body, in a worker's, and on the event of the run."""

    async def test(world: World) -> None:
        seen: list[tuple[str, str, str]] = []

        async def body(ctx: StepContext, _: JSON) -> JSON:
            seen.append((ctx.step, current().trace, current().trace_state))
            ctx.emit("shop.step.done", {"step": ctx.step})
            return None

        await world.begin(BOTH)
        await world.engine("e0", {"do.here": body})
        worker = Worker(
            world.server.connect("w"),
            world.names,
            clock=world.clock,
            handlers={"do.far": StepHandler("do.far", body)},
        )
        await worker.start()
        with use(Context(trace=TRACE, trace_state="vendor=1")):
            await world.client.run("both", id="r1")
        assert seen == [("here", TRACE, "vendor=1"), ("far", TRACE, "vendor=1")]
        assert current().trace == ""

        async def copied() -> bool:
            state = await world.transport.stream_state(world.names.events_stream)
            return state is not None and state.messages == 2

        await world.until("both events are copied", copied)
        events = await world.transport.read(world.names.events_stream, world.names.event(">"))
        assert {event.headers["traceparent"] for event in events} == {TRACE}
        await worker.stop()

    play(test)
