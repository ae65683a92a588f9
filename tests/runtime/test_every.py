"""Scheduled methods are called once over all replicas, and nothing that fails on the way loses a firing silently."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from jetloom.bus import Retry, list_dead_letters
from jetloom.clock import SYSTEM_CLOCK
from jetloom.errors import InvalidInput, NotFound, StartFailed, TaskFailed
from jetloom.messages import Names
from jetloom.runtime import Module, Schedules, Tick, every
from jetloom.runtime._every import LOOK_SECONDS, ScheduleHandler, TickSubscription
from jetloom.runtime._module import Missed
from jetloom.schedules import Schedule
from jetloom.stores import TASK_ACK_WAIT
from jetloom.telemetry import Metrics
from jetloom.testing import EPOCH, PROCESS, VirtualLoop
from jetloom.transport import EmbeddedServer, MemoryTransport, Transport, connect
from tests.runtime.world import Runner, World, run_on_twin, until

type Body = Callable[[Tick], Awaitable[None]]


class Calls:
    """What was called, by which replica, and how many calls overlapped."""

    def __init__(self, world: World, *, takes: float = 0.0) -> None:
        self.world = world
        self.takes = takes
        self.ticks: list[Tick] = []
        self.by: list[str] = []
        self.ended: list[Tick] = []
        self.active = 0
        self.overlaps = 0

    def body(self, replica: str) -> Body:
        async def call(tick: Tick) -> None:
            self.ticks.append(tick)
            self.by.append(replica)
            self.active += 1
            self.overlaps += self.active > 1
            try:
                await asyncio.sleep(self.takes)
            finally:
                self.active -= 1
            self.ended.append(tick)

        return call

    @property
    def seconds(self) -> list[float]:
        return [tick.scheduled.timestamp() for tick in self.ticks]


async def serve(
    world: World,
    body: Body,
    spec: str = "1s",
    *,
    tz: str = "UTC",
    missed: Missed = "once",
    missed_max: int = 100,
    timeout: float | None = None,
    retry: Retry | None = None,
    transport: Transport | None = None,
) -> TickSubscription:
    handler = ScheduleHandler(
        module="m",
        name="job",
        schedule=Schedule.parse(spec, tz),
        function=body,
        missed=missed,
        missed_max=missed_max,
        timeout=timeout,
        retry=retry or Retry(max=2, initial=1, jitter=0),
    )
    transport = transport or await world.connect("replica")
    ticks = TickSubscription(handler, transport, world.names, world.clock, Metrics(process=False))
    await ticks.start()
    return ticks


async def schedules(world: World) -> Schedules:
    return Schedules(await world.connect("looker"), world.names, world.clock)


async def at(world: World, moment: str) -> None:
    """Lets virtual time pass until then."""
    await asyncio.sleep(datetime.fromisoformat(moment).timestamp() - world.clock.now())


async def elapse(seconds: float) -> None:
    """Lets time pass in which things must happen by themselves, or must not happen."""
    await asyncio.sleep(seconds)


def consecutive(instants: list[float], step: float) -> bool:
    return all(later - earlier == step for earlier, later in pairwise(instants))


# -- firing
def test_each_instant_is_called_for_once_over_all_replicas(run_on: Runner) -> None:
    """Two replicas share the firings of every second: no instant twice, none left out."""

    async def scenario(world: World) -> None:
        calls = Calls(world)
        replicas = [await serve(world, calls.body(name)) for name in ("a", "b")]
        await until(lambda: len(calls.ticks) >= 6, "it was called six times")
        for replica in replicas:
            assert await replica.drain(5) == 0
        assert consecutive(calls.seconds, 1.0), calls.seconds
        assert not any(tick.missed or tick.manual for tick in calls.ticks)
        assert all(0 <= (tick.fired - tick.scheduled).total_seconds() < 1 for tick in calls.ticks)

    run_on(scenario)


@pytest.mark.parametrize(
    ("spec", "begin", "end", "called"),
    [
        ("30 2 * * *", "2026-03-29T00:10+01:00", "2026-03-29T05:00+02:00", ["03:00+02:00"]),
        ("30 2 * * *", "2026-10-25T00:10+02:00", "2026-10-25T05:00+01:00", ["02:30+02:00"]),
        (
            "0,30 1-3 * * *", "2026-10-25T01:10+02:00", "2026-10-25T03:20+01:00",
            ["01:30+02:00", "02:00+02:00", "02:30+02:00", "03:00+01:00"],
        ),
        (
            "*/30 * * * *", "2026-10-25T01:40+02:00", "2026-10-25T03:20+01:00",
            ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00", "03:00+01:00"],
        ),
        (
            "*/30 * * * *", "2026-03-29T01:10+01:00", "2026-03-29T03:40+02:00",
            ["01:30+01:00", "03:00+02:00", "03:30+02:00"],
        ),
    ],
)  # fmt: skip
def test_clock_changes(spec: str, begin: str, end: str, called: list[str]) -> None:
    """In Berlin's two nights a time of day is called for once, and a rhythm goes on; with two replicas."""

    async def scenario(world: World) -> None:
        await at(world, begin)
        calls = Calls(world)
        replicas = [await serve(world, calls.body(name), spec, tz="Europe/Berlin") for name in ("a", "b")]
        await at(world, end)
        assert [f"{tick.scheduled:%H:%M%:z}" for tick in calls.ticks] == called
        for replica in replicas:
            await replica.stop()

    run_on_twin(scenario)


def test_calls_do_not_overlap_and_what_they_delay_is_one_call() -> None:
    """While a call runs for three and a half intervals nothing else is called; then once, which says what it stands
    for."""

    async def scenario(world: World) -> None:
        calls = Calls(world, takes=3.5)
        replicas = [await serve(world, calls.body(name)) for name in ("a", "b")]
        await elapse(40)
        assert calls.overlaps == 0
        gaps = [later - earlier for earlier, later in pairwise(calls.seconds)]
        assert len(gaps) >= 8
        assert all(3 <= gap <= 5 for gap in gaps)
        assert [tick.missed for tick in calls.ticks[1:]] == [gap - 1 for gap in gaps]
        for replica in replicas:
            await replica.stop()

    run_on_twin(scenario)


def test_another_replica_takes_over() -> None:
    """A replica that is killed in the middle of a call: another one calls for the same instant after the wait."""

    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        calls = Calls(world, takes=4)

        async def doomed() -> None:
            await serve(world, calls.body("a"), "60s", missed="skip")

        context = copy_context()
        context.run(PROCESS.set, "a")
        transport = await world.connect("b")
        task = loop.create_task(doomed(), context=context)
        await until_called(calls, 1)
        other = await serve(world, calls.body("b"), "60s", missed="skip", transport=transport)
        killed = loop.time()
        assert task.done()
        loop.kill("a")
        await until_called(calls, 2)
        assert calls.by == ["a", "b"]
        assert calls.ticks[0].scheduled == calls.ticks[1].scheduled
        assert loop.time() - killed < TASK_ACK_WAIT + 1
        await until_called(calls, 4)
        assert consecutive(calls.seconds[1:], 60.0)
        await other.stop()

    run_on_twin(scenario)


async def until_called(calls: Calls, count: int) -> None:
    """Virtual time may pass: minutes here are an interval's, not a slow machine's."""
    while len(calls.ticks) < count:
        await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() < 1e8


DOOMED = """
import asyncio
import sys

from jetloom.clock import SYSTEM_CLOCK
from jetloom.messages import Names
from jetloom.runtime._every import ScheduleHandler, TickSubscription
from jetloom.schedules import Schedule
from jetloom.telemetry import Metrics
from jetloom.transport import connect


async def call(tick):
    print(tick.scheduled.timestamp(), flush=True)
    await asyncio.Event().wait()


async def main():
    transport = await connect(sys.argv[1], name="doomed")
    handler = ScheduleHandler(module="m", name="job", schedule=Schedule.parse("1s"), function=call, missed="skip")
    ticks = TickSubscription(handler, transport, Names(sys.argv[2]), SYSTEM_CLOCK, Metrics(process=False))
    await ticks.start()
    await asyncio.Event().wait()


asyncio.run(main())
"""


def test_a_process_that_is_killed_in_a_call(modules_url: str) -> None:
    """SIGKILL in the middle of a call, on a real server: another replica calls for that instant first, though late."""

    async def main() -> None:
        namespace = f"killed-{os.getpid()}"
        doomed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DOOMED, modules_url, namespace, stdout=asyncio.subprocess.PIPE
        )
        transport = await connect(modules_url, name="heir")
        got: list[Tick] = []

        async def body(tick: Tick) -> None:
            got.append(tick)

        handler = ScheduleHandler(
            module="m", name="job", schedule=Schedule.parse("1s"), function=body, missed="skip"
        )
        ticks = TickSubscription(handler, transport, Names(namespace), SYSTEM_CLOCK, Metrics(process=False))
        try:
            assert doomed.stdout is not None
            begun = float(await doomed.stdout.readline())
            await ticks.start()
            doomed.kill()
            await until(lambda: len(got) >= 3, "the other one goes on")
            assert got[0].scheduled.timestamp() == begun
            assert got[1].missed >= TASK_ACK_WAIT / 2
            assert consecutive([tick.scheduled.timestamp() for tick in got[1:]], 1.0)
        finally:
            await ticks.stop()
            if doomed.returncode is None:
                doomed.kill()
            await doomed.communicate()
            for prefix in (namespace.upper() + "_", f"KV_{namespace}_"):
                for stream in await transport.assets(prefix):
                    await transport.remove(stream)
            await transport.close()

    asyncio.run(main())


# -- missed ones
@pytest.mark.parametrize(
    ("missed", "missed_max", "instants", "counts"),
    [("skip", 100, 0, []), ("once", 100, 1, [9]), ("all", 100, 10, [0] * 10), ("all", 3, 3, [7, 0, 0])],
)
def test_what_was_missed(missed: Missed, missed_max: int, instants: int, counts: list[int]) -> None:
    """After ten hours without a replica: skip calls for none, once for the latest, all for each or the last few."""

    async def scenario(world: World) -> None:
        calls = Calls(world)
        await at(world, "2026-01-01T00:30:00Z")
        first = await serve(world, calls.body("a"), "0 * * * *", missed=missed, missed_max=missed_max)
        await first.stop()
        await at(world, "2026-01-01T10:30:00Z")
        second = await serve(world, calls.body("b"), "0 * * * *", missed=missed, missed_max=missed_max)
        await elapse(20)
        assert len(calls.ticks) == instants
        assert [tick.missed for tick in calls.ticks] == counts
        hours = [tick.scheduled.hour for tick in calls.ticks]
        assert hours == list(range(11 - instants, 11))
        await at(world, "2026-01-01T11:00:10Z")
        assert calls.ticks[-1].scheduled.hour == 11
        assert len(calls.ticks) == instants + 1
        view = await (await schedules(world)).show("m.job")
        assert view.passed_over == 10 - instants
        await second.stop()

    run_on_twin(scenario)


def test_a_server_that_was_down_over_instants(tmp_path: Path) -> None:
    """A real server is killed and started again three seconds later: what was due meanwhile is called for once."""

    async def main() -> None:
        server = EmbeddedServer(tmp_path, 0)
        await server.start()
        transport = await connect(server.url, name="t")
        got: list[Tick] = []

        async def body(tick: Tick) -> None:
            got.append(tick)

        handler = ScheduleHandler(module="m", name="job", schedule=Schedule.parse("1s"), function=body)
        ticks = TickSubscription(handler, transport, Names("down"), SYSTEM_CLOCK, Metrics(process=False))
        try:
            await ticks.start()
            await until(lambda: len(got) >= 2, "it was called twice")
            server.kill()
            down = len(got)
            await elapse(3)
            await server.restart()
            await until(lambda: len(got) >= down + 4, "it is called again")
            instants = [tick.scheduled.timestamp() for tick in got]
            assert len(set(instants)) == len(instants), instants
            steps = [later - earlier for earlier, later in pairwise(instants)]
            covered = [1 + tick.missed for tick in got[1:]]
            assert steps == covered, (steps, covered)
            assert max(steps) >= 2
        finally:
            await ticks.stop()
            await transport.close()
            await server.stop()

    asyncio.run(main())


def test_a_chain_whose_timer_was_lost_goes_on() -> None:
    """A server that lost the armed timer: the next look arms it again."""

    async def scenario(world: World) -> None:
        calls = Calls(world)
        ticks = await serve(world, calls.body("a"), "10s")
        await until_called(calls, 1)
        looker = await world.connect("looker")
        assert await looker.purge(world.names.timers_stream(0), f"{world.names.namespace}.cron.>") == 1
        lost = asyncio.get_running_loop().time()
        await until_called(calls, 3)
        assert asyncio.get_running_loop().time() - lost < LOOK_SECONDS * 1.25 + 21
        await ticks.stop()

    run_on_twin(scenario)


# -- failures
def test_a_failing_call_is_tried_again_for_the_same_instant() -> None:
    """Tries of one instant carry the same `scheduled`; the instants that pass meanwhile are one later call."""

    async def scenario(world: World) -> None:
        got: list[Tick] = []

        async def body(tick: Tick) -> None:
            got.append(tick)
            if len(got) < 3:
                raise ConnectionError("try again")

        ticks = await serve(world, body)
        await until(lambda: len(got) >= 4, "it was called four times")
        assert len({tick.scheduled for tick in got[:3]}) == 1
        assert (got[3].scheduled - got[2].scheduled).total_seconds() == 1 + got[3].missed
        assert got[3].missed >= 2
        await ticks.stop()

    run_on_twin(scenario)


def test_what_fails_for_good_is_a_dead_letter_and_the_next_instant_is_called_for() -> None:
    """A terminal error ends the tries at once: the letter names the handler and the instant, and nothing stops."""

    async def scenario(world: World) -> None:
        got: list[Tick] = []

        async def body(tick: Tick) -> None:
            got.append(tick)
            if len(got) == 1:
                raise TaskFailed("books.closed", "the books are closed")

        ticks = await serve(world, body)
        await until(lambda: len(got) >= 3, "later instants are called for")
        looker = await world.connect("looker")
        letters, _ = await list_dead_letters(looker, world.names)
        assert [(one.module, one.handler, one.code) for one in letters] == [("m", "job", "books.closed")]
        assert letters[0].stream == world.names.timers_stream(0)
        assert f'"at":{got[0].scheduled.timestamp()}' in letters[0].data.decode()
        view = await (await schedules(world)).show("m.job")
        assert view.failures == 1
        assert any("dead letters" in problem for problem in view.problems)
        await ticks.stop()

    run_on_twin(scenario)


def test_retries_end_and_time_limits_count() -> None:
    """A call that takes longer than its timeout is ended and tried again, as often as the retries say."""

    async def scenario(world: World) -> None:
        calls = Calls(world, takes=100)
        ticks = await serve(world, calls.body("a"), "60s", timeout=2, retry=Retry(max=2, initial=1, jitter=0))
        await until_called(calls, 4)
        assert calls.seconds[0] == calls.seconds[2] < calls.seconds[3]
        letters, _ = await list_dead_letters(await world.connect("looker"), world.names)
        assert [(one.code, one.deliveries) for one in letters] == [("timeout", 3)]
        assert "longer than 2 s" in letters[0].reason
        await ticks.stop()

    run_on_twin(scenario)


def test_a_call_that_is_stopped_is_given_back() -> None:
    """A drain that runs out of time hands the tick back; another replica goes on with the same instant at once."""

    async def scenario(world: World) -> None:
        calls = Calls(world, takes=3600)
        first = await serve(world, calls.body("a"), "60s", missed="skip")
        await until_called(calls, 1)
        calls.takes = 1
        second = await serve(world, calls.body("b"), "60s", missed="skip")
        assert await first.drain(1) == 1
        await until_called(calls, 2)
        assert calls.by == ["a", "b"]
        assert calls.seconds[0] == calls.seconds[1]
        await second.stop()

    run_on_twin(scenario)


def test_a_tick_that_nobody_can_read_is_a_dead_letter() -> None:
    """Bytes on a tick's subject that are none: a dead letter at once, and the schedule goes on."""

    async def scenario(world: World) -> None:
        calls = Calls(world)
        ticks = await serve(world, calls.body("a"))
        looker = await world.connect("looker")
        await looker.append(world.names.schedule_tick("m", "job"), b"now!")
        await until_called(calls, 2)
        letters, _ = await list_dead_letters(looker, world.names)
        assert [(one.code, one.data) for one in letters] == [("decode.failed", b"now!")]
        await ticks.stop()

    run_on_twin(scenario)


def test_a_cut_connection_loses_nothing() -> None:
    """A replica that is cut off in a call comes back: the instant is called for again or done, and all later ones."""

    async def scenario(world: World) -> None:
        calls = Calls(world, takes=2)
        transport = await world.connect("a")
        assert isinstance(transport, MemoryTransport)
        ticks = await serve(world, calls.body("a"), "10s", transport=transport)
        await until_called(calls, 1)
        transport.disconnect()
        await elapse(25)
        transport.reconnect()
        count = len(calls.ticks)
        await elapse(60)
        assert len(calls.ticks) >= count + 4
        known = sorted(set(calls.seconds))
        gaps = [later - earlier for earlier, later in pairwise(known)]
        assert sum(tick.missed for tick in calls.ticks) == sum(gap / 10 - 1 for gap in gaps)
        await ticks.stop()

    run_on_twin(scenario)


# -- changes
def test_another_rule_counts_from_its_deployment() -> None:
    """A deployment with another rule arms it at once; the old timer is gone, and nothing of the past is called for."""

    async def scenario(world: World) -> None:
        await at(world, "2026-01-01T00:10:00Z")
        calls = Calls(world)
        old = await serve(world, calls.body("old"), "0 */6 * * *")
        new = await serve(world, calls.body("new"), "20 * * * *", tz="Europe/Berlin")
        looker = await world.connect("looker")
        armed = await looker.read(world.names.timers_stream(0), f"{world.names.namespace}.cron.>")
        assert len(armed) == 1
        await at(world, "2026-01-01T02:00:00Z")
        assert [f"{tick.scheduled:%H:%M}" for tick in calls.ticks] == ["01:20", "02:20"]
        await old.stop()
        await new.stop()

    run_on_twin(scenario)


def test_the_same_rule_again_keeps_its_state() -> None:
    """A restart with the same rule and another policy neither loses nor repeats an instant."""

    async def scenario(world: World) -> None:
        calls = Calls(world)
        for missed in ("once", "all", "skip", "once"):
            ticks = await serve(world, calls.body("a"), "5s", missed=missed)
            count = len(calls.ticks)
            await until_called(calls, count + 2)
            await ticks.drain(5)
        assert all(later - earlier >= 5 for earlier, later in pairwise(calls.seconds))
        assert (await (await schedules(world)).show("m.job")).missed == "once"

    run_on_twin(scenario)


# -- people
def test_pause_and_resume() -> None:
    """Nothing is called for during a pause, and its instants are no missed ones afterwards."""

    async def scenario(world: World) -> None:
        calls = Calls(world)
        ticks = await serve(world, calls.body("a"), "10s", missed="all")
        people = await schedules(world)
        await until_called(calls, 1)
        assert await people.pause("m.job") is True
        assert await people.pause("m.job") is False
        assert (await people.show("m.job")).paused
        await elapse(100)
        assert len(calls.ticks) == 1
        assert await people.resume("m.job") is True
        assert await people.resume("m.job") is False
        await elapse(25)
        assert len(calls.ticks) in (3, 4)
        assert all(tick.missed == 0 for tick in calls.ticks)
        assert calls.seconds[1] > calls.seconds[0] + 100
        assert consecutive(calls.seconds[1:], 10.0)
        await ticks.stop()

    run_on_twin(scenario)


def test_trigger(run_on: Runner) -> None:
    """A call that somebody asks for comes at once, beside the schedule, paused or not."""

    async def scenario(world: World) -> None:
        calls = Calls(world)
        ticks = await serve(world, calls.body("a"), "@yearly")
        people = await schedules(world)
        await people.pause("m.job")
        await people.trigger("m.job")
        await people.trigger("m.job", scheduled=EPOCH)
        await until(lambda: len(calls.ended) == 2, "it was called twice")
        assert [tick.manual for tick in calls.ticks] == [True, True]
        assert calls.ticks[1].scheduled == datetime.fromtimestamp(EPOCH, UTC)
        await ticks.drain(5)
        view = await people.show("m.job")
        assert (view.calls, view.paused, view.next) == (2, True, 0.0)

    run_on(scenario)


def test_what_a_list_says() -> None:
    """Rule, next instant and problems of each schedule; one that nobody serves says so."""

    async def scenario(world: World) -> None:
        people = await schedules(world)
        assert await people.list() == []
        with pytest.raises(NotFound, match=r"no schedule 'm\.job'"):
            await people.show("m.job")
        with pytest.raises(InvalidInput, match="<module>"):
            await people.trigger("job")
        calls = Calls(world)
        ticks = await serve(world, calls.body("a"), "0 12 * * *", tz="Europe/Berlin")
        await elapse(1)
        [view] = await people.list()
        assert (view.name, view.spec, view.tz, view.problems) == ("m.job", "0 12 * * *", "Europe/Berlin", [])
        assert datetime.fromtimestamp(view.next, UTC).isoformat() == "2026-01-01T11:00:00+00:00"
        schedule, coming = await people.upcoming("m.job", 3)
        assert [schedule.local(instant).hour for instant in coming] == [12, 12, 12]
        await ticks.stop()
        await elapse(5)
        [view] = await people.list()
        assert [problem.partition(":")[0] for problem in view.problems] == ["nobody serves it"]

    run_on_twin(scenario)


# -- modules
class Clerk(Module):
    id = "clerk"
    seen: list[Tick | None]

    @every("1s")
    async def tidy(self, tick: Tick) -> None:
        self.seen.append(tick)

    @every("@hourly", name="count")
    def count_all(self) -> None:
        self.seen.append(None)


class Wrong(Module):
    id = "wrong"

    @every("61 * * * *", tz="Mars/Olympus")
    async def one(self) -> None: ...

    @every("61 * * * *")
    async def two(self) -> None: ...

    @every("1s")
    async def three(self, one: int, two: int) -> None: ...


def test_a_module_with_schedules(run_on: Runner) -> None:
    """A decorated method, async with the tick or sync without, is called in a running host."""

    async def scenario(world: World) -> None:
        clerk = Clerk()
        clerk.seen = []
        async with world.running(clerk):
            await until(lambda: clerk.seen, "it was called")
            people = await schedules(world)
            assert [view.name for view in await people.list()] == ["clerk.count", "clerk.tidy"]
            await people.trigger("clerk.count")
            await until(lambda: None in clerk.seen, "the sync method was called")

    run_on(scenario)


def test_a_wrong_schedule_is_named_at_the_start() -> None:
    """Zone, field and signature: all of them at once, each with what was expected."""

    async def scenario(world: World) -> None:
        host = world.host([Wrong], await world.connect())
        with pytest.raises(StartFailed) as failed:
            await host.start()
        text = str(failed.value)
        assert "Wrong.one" in text
        assert "tz is 'Mars/Olympus', expected an IANA time zone" in text
        assert "Wrong.two" in text
        assert "minute is '61'" in text
        assert "0-59" in text
        assert "Wrong.three" in text
        assert "takes a Tick or nothing" in text

    run_on_twin(scenario)


def test_retries_leave_one_tick_behind() -> None:
    """However often a call is tried, no more than one tick waits behind it."""

    async def scenario(world: World) -> None:
        tries = 0

        async def body(tick: Tick) -> None:
            nonlocal tries
            tries += 1
            raise ConnectionError("try again")

        ticks = await serve(world, body, retry=Retry(max=100, initial=1, max_delay=2, jitter=0))
        await until(lambda: tries >= 10, "it was tried ten times")
        view = await (await schedules(world)).show("m.job")
        assert view.running
        assert view.waiting <= 1
        await ticks.stop()

    run_on_twin(scenario)
