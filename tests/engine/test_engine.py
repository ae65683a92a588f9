"""Engines on a real server: what one run costs, how two engines share, and what large and long runs do."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jetloom.bus import list_dead_letters
from jetloom.errors import (
    DefinitionInvalid,
    ErrorClass,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    TaskFailed,
    VersionConflict,
    WaitTimeout,
    WorkflowNotFound,
)
from jetloom.runtime import StepContext
from jetloom.types import JSON, RunStatus, StepStatus
from jetloom.workflows import Definition, Emit, Retry, Saga, Step, Wait, Workflow
from tests.engine.real_world import RealWorld, echo, real_world, tags

CHAIN = Definition(
    id="chain",
    steps=(
        Step("a", uses="do.a"),
        Step("b", uses="do.b", depends_on=("a",)),
        Step("c", uses="do.c", depends_on=("b",)),
    ),
)
LOCAL = {"do.a": echo, "do.b": echo, "do.c": echo}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[RealWorld]:
    async with real_world(tmp_path) as world:
        yield world


async def test_a_quick_chain_is_one_start_three_appends_and_one_ack(world: RealWorld) -> None:
    """The floor of three quick local steps: one start, three appends, one acknowledgement, one row of the index."""
    await world.register(CHAIN)
    await world.engine("e", LOCAL)
    started = await world.client.start("chain", {"x": 1})
    assert await world.client.result(started.run) == {
        "step": "c",
        "input": {"step": "b", "input": {"step": "a", "input": {"x": 1}}},
    }
    await world.empty(world.names.mailbox_stream(0))
    journal = await world.client.journal(started.run)
    assert tags(journal) == [
        ["run_started", "driven", "held", "started", "completed", "started"],
        ["completed", "started"],
        ["completed", "finished"],
    ]
    runs = await world.transport.stream_state(world.names.runs_stream(0))
    mailbox = await world.transport.stream_state(world.names.mailbox_stream(0))
    index = await world.transport.stream_state(world.names.index_stream)
    tasks = await world.transport.stream_state(world.names.tasks_stream)
    assert runs is not None
    assert (runs.last, runs.messages) == (3, 1)
    assert mailbox is not None
    assert mailbox.last == 1
    assert index is not None
    assert index.last == 1
    assert tasks is not None
    assert tasks.last == 0


async def test_a_wide_fan_out_is_a_handful_of_appends(world: RealWorld) -> None:
    """100 parallel local steps and a join: results that arrive while an append is under way travel in the next one."""
    width = 100
    names = tuple(f"s{number}" for number in range(width))
    steps = tuple(Step(name, uses="do.a") for name in names)
    await world.register(Definition(id="wide", steps=(*steps, Step("join", uses="do.b", depends_on=names))))
    await world.engine("e", LOCAL)
    started = await world.client.start("wide", {})
    joined = await world.client.result(started.run)
    assert isinstance(joined, dict)
    assert set(joined["input"] if isinstance(joined["input"], dict) else ()) == set(names)
    assert len(await world.client.journal(started.run)) <= 10


async def test_two_engines_share_the_load_and_one_run(world: RealWorld) -> None:
    """Both engines start runs; the results of one run's steps are appended by both."""
    await world.register(
        Definition(id="far", steps=tuple(Step(f"s{number}", uses="far.do") for number in range(60)))
    )
    await world.engine("e1")
    await world.engine("e2")
    await world.worker({"far.do": echo})
    runs = [(await world.client.start("far", {"n": number})).run for number in range(8)]
    writers: set[str] = set()
    shared = 0
    for run in runs:
        await world.client.result(run, timeout=timedelta(seconds=30))
        by = {line.by.partition("-")[0] for line in await world.client.journal(run)}
        writers |= by
        shared += len(by) == 2
    assert writers == {"e1", "e2"}
    assert shared >= 1


async def test_a_cancel_stops_a_body_in_another_engine_within_a_second(world: RealWorld) -> None:
    """Whoever takes the cancel, the body hears of it within a second, and what completed is undone."""
    stopped: dict[str, float] = {}
    undone: list[str] = []

    async def long(context: StepContext, value: JSON) -> JSON:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped[context.run] = time.time()
            raise
        return None

    async def undo(context: StepContext, value: JSON) -> JSON:
        undone.append(context.run)
        return None

    handlers = {"do.a": echo, "do.long": long, "undo.a": undo}
    steps = (Step("a", uses="do.a", saga=Saga("undo.a")), Step("b", uses="do.long", depends_on=("a",)))
    await world.register(Definition(id="long", steps=steps))
    await world.engine("e1", handlers)
    await world.engine("e2", handlers)
    runs = [(await world.client.start("long", {})).run for _ in range(12)]
    for run in runs:
        await world.until(lambda run=run: _runs_step(world, run, "b"), f"b of {run} runs")
    foreign = 0
    # The server hands starts and cancels out in turn: in the same order each cancel would reach its run's own engine.
    for run in random.Random(7).sample(runs, len(runs)):
        asked = time.time()
        await world.client.cancel(run, reason="not wanted")
        with pytest.raises(RunCancelled, match="not wanted"):
            await world.client.result(run, timeout=timedelta(seconds=30))
        assert stopped[run] - asked <= 1.0
        journal = await world.client.journal(run)
        settled = next(line.by for line in journal for record in line.records if record["t"] == "settling")
        held = next(line.by for line in journal for record in line.records if record["t"] == "held")
        foreign += settled != held
    assert foreign >= 1, "no cancel reached the other engine"
    assert sorted(undone) == sorted(runs)


async def _runs_step(world: RealWorld, run: str, step: str) -> bool:
    view = await world.client.show(run)
    return any(found.id == step and found.status is StepStatus.RUNNING for found in view.steps)


async def test_start_is_idempotent_by_id_and_by_token(world: RealWorld) -> None:
    """The same id or token answers with the existing run; another input is a conflict; unknown names are named."""
    await world.register(CHAIN)
    first = await world.client.start("chain", {"x": 1}, id="order-1")
    again = await world.client.start("chain", {"x": 1}, id="order-1")
    assert (first.started, again.started, again.inc) == (True, False, first.inc)
    with pytest.raises(RunConflict):
        await world.client.start("chain", {"x": 2}, id="order-1")
    token = await world.client.start("chain", {"x": 1}, token="hook 7")
    assert not (await world.client.start("chain", {"x": 1}, token="hook 7")).started
    assert (await world.client.show(token.run)).status is RunStatus.PENDING
    await world.engine("e", LOCAL)
    await world.client.result("order-1")
    assert not (await world.client.start("chain", {"x": 1}, id="order-1")).started
    with pytest.raises(RunConflict):
        await world.client.start("chain", {"x": 2}, id="order-1")
    with pytest.raises(WorkflowNotFound, match="chain"):
        await world.client.start("chian", {})
    with pytest.raises(RunNotFound):
        await world.client.show("order-2")
    with pytest.raises(RunNotFound):
        await world.client.cancel("order-2")


async def test_a_cancelled_run_that_waits_for_an_engine_never_starts(world: RealWorld) -> None:
    """A cancel before any engine is up ends the run; its first body never runs."""
    ran: list[str] = []

    async def body(context: StepContext, value: JSON) -> JSON:
        ran.append(context.run)
        return None

    await world.register(Definition(id="one", steps=(Step("a", uses="do.a"),)))
    run = (await world.client.start("one", {}, not_before=datetime.now(UTC) + timedelta(hours=1))).run
    await world.client.cancel(run, reason="changed my mind")
    await world.engine("e", {"do.a": body})
    with pytest.raises(RunCancelled):
        await world.client.result(run, timeout=timedelta(seconds=20))
    await world.empty(world.names.mailbox_stream(0))
    assert ran == []


async def test_a_delayed_start_waits(world: RealWorld) -> None:
    """Nothing runs before `not_before`, and the run says that it is pending."""
    await world.register(CHAIN)
    await world.engine("e", LOCAL)
    due = datetime.now(UTC) + timedelta(seconds=1)
    run = (await world.client.start("chain", {}, not_before=due)).run
    await world.until(lambda: _pending(world, run), "the run is pending")
    await world.client.result(run, timeout=timedelta(seconds=20))
    view = await world.client.show(run)
    begun = [step.started_at for step in view.steps if step.started_at is not None]
    assert min(begun) >= due.timestamp()


async def _pending(world: RealWorld, run: str) -> bool:
    return (await world.client.show(run)).status is RunStatus.PENDING


async def test_large_payloads_go_to_blobs(world: RealWorld) -> None:
    """An input and outputs whose entry is above half of the server's max_payload are stored as blobs, and read back."""
    big = "x" * 400_000

    async def grow(context: StepContext, value: JSON) -> JSON:
        return {"text": big}

    steps = (Step("a", uses="do.grow"), Step("b", uses="do.grow"), Step("c", uses="do.grow"))
    await world.register(Definition(id="big", steps=steps))
    await world.engine("e", {"do.grow": grow})
    run = (await world.client.start("big", {"text": big})).run
    assert await world.client.result(run) == {name: {"text": big} for name in "abc"}
    blobs = await world.transport.stream_state(world.names.blobs_stream)
    assert blobs is not None
    assert blobs.messages >= 3
    assert (await world.client.journal(run))[-1].records[-1]["t"] == "finished"


async def test_a_result_above_the_limit_fails_the_step_by_name(world: RealWorld) -> None:
    """A worker's result above max_payload becomes an error that says the limit."""

    async def huge(context: StepContext, value: JSON) -> JSON:
        return "x" * 2_000_000

    await world.register(Definition(id="huge", steps=(Step("a", uses="far.huge"),)))
    await world.engine("e")
    await world.worker({"far.huge": huge})
    run = (await world.client.start("huge", {})).run
    with pytest.raises(RunFailed, match="1048576"):
        await world.client.result(run, timeout=timedelta(seconds=20))


async def test_snapshots_bound_a_long_journal(world: RealWorld) -> None:
    """After 500 entries the journal is rolled up; nothing of its history is lost."""
    length = 520
    steps = [Step("s0", uses="do.a")]
    steps += [Step(f"s{number}", uses="do.n", depends_on=(f"s{number - 1}",)) for number in range(1, length)]

    async def number(context: StepContext, value: JSON) -> JSON:
        return int(context.step[1:])

    await world.register(
        Definition(
            id="long", steps=(*steps, Step("end", wait=Wait(message="go"), depends_on=(steps[-1].id,)))
        )
    )
    await world.engine("e", {"do.a": echo, "do.n": number})
    run = (await world.client.start("long", {})).run

    async def waits() -> bool:
        return "end: message go" in (await world.client.show(run)).waits_for

    await world.until(waits, "the chain is through", 60)
    state = await world.transport.stream_state(world.names.runs_stream(0))
    assert state is not None
    assert state.messages < 100
    journal = await world.client.journal(run)
    assert [line.n for line in journal] == list(range(1, len(journal) + 1))
    await world.client.message(run, "go", {"ok": True})
    assert await world.client.result(run) == {"ok": True}


async def test_events_exist_once_and_messages_are_kept(world: RealWorld) -> None:
    """Two events of one type from one run are two events; a message that comes early is kept and taken later."""

    async def emits(context: StepContext, value: JSON) -> JSON:
        context.emit("shop.order.seen", {"n": 1})
        context.emit("shop.order.seen", {"n": 2})
        return None

    steps = (
        Step("a", uses="do.emits", emit=(Emit("shop.order.seen", {"n": 3}),)),
        Step("w", wait=Wait(message="approval", timeout=30), depends_on=("a",)),
    )
    await world.register(Definition(id="events", steps=steps))
    await world.engine("e", {"do.emits": emits})
    run = (await world.client.start("events", {}, id="ev-1")).run
    await world.client.message(run, "approval", {"by": "ann"}, id="m1")
    await world.client.message(run, "approval", {"by": "bob"}, id="m1")
    assert await world.client.result(run, timeout=timedelta(seconds=20)) == {"by": "ann"}

    async def three() -> bool:
        return len(await world.transport.read(world.names.events_stream, world.names.event(">"))) == 3

    await world.until(three, "three events are stored")
    stored = await world.transport.read(world.names.events_stream, world.names.event(">"))
    assert len({event.headers["ce-id"] for event in stored}) == 3


async def test_policy_decides_what_a_failure_means(world: RealWorld) -> None:
    """Terminal errors are not retried, rate limits wait as they say, a skipped step lets the run go on."""
    tries: dict[str, int] = {}

    async def fails(context: StepContext, value: JSON) -> JSON:
        tries[context.step] = tries.get(context.step, 0) + 1
        if context.step == "terminal":
            raise TaskFailed("no.way", "never")
        if context.step == "limited" and context.attempt == 1:
            raise TaskFailed("slow.down", "later", retry_after_ms=50)
        if context.step == "flaky" and context.attempt < 3:
            raise TaskFailed("busy", "again", error_class=ErrorClass.RETRYABLE)
        return context.attempt

    quick = Retry(initial=0.01)
    steps = (
        Step("terminal", uses="do.f", on_error="skip", retry=quick),
        Step("limited", uses="do.f", retry=quick),
        Step("flaky", uses="do.f", retry=quick),
    )
    output: JSON = {"limited": "${steps.limited}", "flaky": "${steps.flaky}"}
    await world.register(Definition(id="policy", steps=steps, output=output))
    await world.engine("e", {"do.f": fails})
    run = (await world.client.start("policy", {})).run
    assert await world.client.result(run) == {"limited": 2, "flaky": 3}
    assert tries == {"terminal": 1, "limited": 2, "flaky": 3}
    view = await world.client.show(run)
    assert {step.id: step.status for step in view.steps}["terminal"] is StepStatus.SKIPPED


async def test_timeouts_of_steps_runs_and_callers(world: RealWorld) -> None:
    """A step that takes too long is cancelled, a run that takes too long fails, a caller may give up."""

    async def slow(context: StepContext, value: JSON) -> JSON:
        await asyncio.sleep(30)
        return None

    await world.register(
        Definition(id="slow", steps=(Step("a", uses="do.slow", timeout=0.2, retry=Retry(max=0)),))
    )
    await world.register(Definition(id="late", timeout=0.5, steps=(Step("a", wait=Wait(for_=60)),)))
    await world.engine("e", {"do.slow": slow})
    slow_run = (await world.client.start("slow", {})).run
    with pytest.raises(RunFailed, match=r"step\.timeout"):
        await world.client.result(slow_run)
    late = (await world.client.start("late", {})).run
    with pytest.raises(WaitTimeout):
        await world.client.result(late, timeout=timedelta(seconds=0.1))
    with pytest.raises(RunFailed, match=r"run\.timeout"):
        await world.client.result(late, timeout=timedelta(seconds=20))


async def test_heartbeats_tell_the_next_attempt_how_far_the_last_one_came(world: RealWorld) -> None:
    """A step that fails half way resumes where its heartbeat says, in another process."""
    resumed: list[JSON] = []

    async def long(context: StepContext, value: JSON) -> JSON:
        done = await context.resume_details()
        resumed.append(done)
        if done is None:
            await context.heartbeat({"rows": 500})
            raise RuntimeError("half way")
        return done

    await world.register(
        Definition(id="beats", steps=(Step("a", uses="far.long", retry=Retry(initial=0.05)),))
    )
    await world.engine("e")
    await world.worker({"far.long": long})
    run = (await world.client.start("beats", {})).run
    assert await world.client.result(run, timeout=timedelta(seconds=20)) == {"rows": 500}
    assert resumed == [None, {"rows": 500}]


async def test_a_task_that_nobody_serves_waits_and_is_named(world: RealWorld) -> None:
    """A missing handler is no error: the run says which worker it waits for, and goes on when one comes."""
    await world.register(Definition(id="nobody", steps=(Step("a", uses="far.later"),)))
    await world.engine("e")
    run = (await world.client.start("nobody", {})).run

    async def named() -> bool:
        return (await world.client.show(run)).waits_for == ["a: a worker of far.later"]

    await world.until(named, "the missing worker is named")
    await world.worker({"far.later": echo})
    assert await world.client.result(run, timeout=timedelta(seconds=20)) == {"step": "a", "input": {}}


async def test_lists_show_where_runs_are(world: RealWorld) -> None:
    """Pages of runs by status and workflow, none twice, none missing."""
    await world.register(CHAIN)
    await world.engine("e", LOCAL)
    runs = {(await world.client.start("chain", {"n": number})).run for number in range(25)}
    for run in runs:
        await world.client.result(run)

    async def listed() -> list[str]:
        found: list[str] = []
        cursor = 0
        while True:
            page, cursor = await world.client.list(
                status=RunStatus.COMPLETED, workflow="chain", limit=10, after=cursor
            )
            found += [row.run for row in page]
            if not cursor:
                return found

    async def all_listed() -> bool:
        return len(await listed()) == len(runs)

    await world.until(all_listed, "all runs are in the index")
    assert sorted(await listed()) == sorted(runs)


async def test_tail_follows_a_run_to_its_end(world: RealWorld) -> None:
    """Every entry comes once, in order, and the tail ends with the run."""
    await world.register(CHAIN)
    run = (await world.client.start("chain", {}, id="tail-1")).run
    await world.engine("e", LOCAL)
    seen = [line.n async for line in world.client.tail(run)]
    assert seen == [line.n for line in await world.client.journal(run)]


async def test_a_task_above_the_limit_fails_by_name(world: RealWorld) -> None:
    """Outputs that are each legal but too large together for the task that joins them: the step fails and says why."""

    async def grow(context: StepContext, value: JSON) -> JSON:
        return "x" * 600_000

    steps = (
        Step("a", uses="do.grow"),
        Step("b", uses="do.grow"),
        Step("join", uses="far.join", depends_on=("a", "b")),
    )
    await world.register(Definition(id="joined", steps=steps))
    await world.engine("e", {"do.grow": grow})
    run = (await world.client.start("joined", {})).run
    with pytest.raises(RunFailed, match=r"payload\.too_large"):
        await world.client.result(run, timeout=timedelta(seconds=20))


async def test_a_message_that_does_not_fit_a_waiting_steps_schema_fails_the_step(world: RealWorld) -> None:
    """What a wait takes is checked like any other output; it fails the step, not the engine."""
    step = Step("w", wait=Wait(message="go"), output_schema={"type": "object", "required": ["ok"]})
    await world.register(Definition(id="strict", steps=(step,)))
    await world.engine("e")
    run = (await world.client.start("strict", {})).run
    await world.client.message(run, "go", {"not": "it"})
    with pytest.raises(RunFailed, match=r"schema\.mismatch"):
        await world.client.result(run, timeout=timedelta(seconds=20))


async def test_a_message_for_nobody_is_a_readable_dead_letter(world: RealWorld) -> None:
    """What an engine can't apply stands in the dead letters like an event that no handler could process."""
    await world.engine("e")
    subject = world.names.message("nobody", "go", "id-1")
    await world.transport.append(subject, b'{"payload": 1}', expected=0)

    async def stored() -> bool:
        return bool((await list_dead_letters(world.transport, world.names))[0])

    await world.until(stored, "the dead letter is stored")
    (letter,), _ = await list_dead_letters(world.transport, world.names, module="engine", handler="mailbox")
    assert (letter.code, letter.subject, letter.data) == ("run.unknown", subject, b'{"payload": 1}')


async def test_an_inline_definition_is_checked_registered_and_started(world: RealWorld) -> None:
    """A definition made in Python starts without a file; the same one again is no change; a bad one is refused."""
    built = Workflow("inline").step("a", uses="do.a", with_={"who": "${input.name}"}).build()
    await world.engine("e", LOCAL)
    run = (await world.client.start(built, {"name": "ann"})).run
    assert await world.client.result(run) == {"step": "a", "input": {"who": "ann"}}
    assert (await world.client.start(built, {"name": "ann"}, id="inline-1")).started
    with pytest.raises(VersionConflict):
        await world.client.start(Definition(id="inline", steps=(Step("b", uses="do.b"),)), {})
    with pytest.raises(DefinitionInvalid, match="nowhere"):
        await world.client.start(
            Definition(id="bad", steps=(Step("b", uses="do.b", depends_on=("nowhere",)),)), {}
        )
