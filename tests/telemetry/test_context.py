"""One context travels with the work."""

from __future__ import annotations

import asyncio

from jetloom.clock import SYSTEM_CLOCK
from jetloom.telemetry import (
    EMPTY,
    Context,
    context_from_headers,
    context_headers,
    current,
    remaining_seconds,
    use,
)
from jetloom.types import Actor, ActorKind


async def test_a_context_reaches_tasks_and_ends() -> None:
    """Tasks that are started inside the block have it; afterwards it is gone."""
    assert current() is EMPTY
    with use(Context(run="r1")):
        assert await asyncio.create_task(_seen()) == "r1"
        with use(Context(run="r2")):
            assert current().run == "r2"
        assert current().run == "r1"
    assert current() is EMPTY


async def _seen() -> str:
    return current().run


def test_headers_carry_it() -> None:
    """Actor, trace and deadline cross the wire; the trace stays as it came; local fields stay here."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    sent = Context(
        actor=Actor(ActorKind.AI_AGENT, "helper"),
        trace=trace,
        trace_state="vendor=1",
        deadline=1_800_000_000.25,
        correlation="c1",
        run="r1",
    )
    headers = context_headers(sent)
    assert headers["traceparent"] == trace
    back = context_from_headers({name.upper(): value for name, value in headers.items()})
    assert (back.actor, back.trace, back.trace_state, back.deadline, back.correlation, back.run) == (
        sent.actor, trace, "vendor=1", 1_800_000_000.25, "c1", "",
    )  # fmt: skip
    assert context_from_headers({"Jetloom-Deadline": "soon"}).deadline is None


def test_a_deadline_shortens() -> None:
    """What remains is the limit or less, never below nothing."""
    now = SYSTEM_CLOCK.now()
    assert remaining_seconds(EMPTY, SYSTEM_CLOCK, 5) == 5
    assert remaining_seconds(Context(deadline=now - 1), SYSTEM_CLOCK, 5) == 0
    assert 0 < remaining_seconds(Context(deadline=now + 2), SYSTEM_CLOCK, 5) <= 2
