"""The transport's contract for schedules and sources, on the memory twin and on a real server."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from jetloom.errors import (
    ConditionFailed,
    Refused,
)
from jetloom.transport import (
    ConsumerAsset,
    Schedule,
    SourceAsset,
    StreamAsset,
    Transform,
    Transport,
)
from tests.conformance.world import SLACK, Box, World, elapse, scenario, stream, until, until_true

# -- schedules


def at(world: World, seconds: float) -> str:
    moment = datetime.fromtimestamp(world.now() + seconds, UTC)
    return f"@at {moment.isoformat(timespec='milliseconds').replace('+00:00', 'Z')}"


async def timers(world: World, t: Transport) -> tuple[str, str, Box]:
    name, p = await stream(world, t, retention="workqueue", schedules=True)
    await t.ensure(ConsumerAsset(stream=name, name="wakes", filters=(f"{p}.wake.>",), ack_wait=10))
    box = Box(t)
    await box.open(name, "wakes")
    return name, p, box


@scenario
async def test_schedule_at(world: World) -> None:
    """A scheduled message is stored at its target after its time, with its headers, and the schedule is gone."""
    t = await world.connect("a")
    name, p, box = await timers(world, t)
    begun = asyncio.get_running_loop().time()
    await t.append(
        f"{p}.timer.1", b"ring", headers={"Mine": "yes"}, schedule=Schedule(at(world, 1.0), f"{p}.wake.1")
    )
    assert await t.last(name, f"{p}.timer.1") is not None
    await until(lambda: box.got, "the timer fires")
    assert 0.9 <= box.times[0] - begun < 1.0 + 0.25 + SLACK
    fired = box.got[0]
    assert (fired.subject, fired.data, fired.headers["Mine"]) == (f"{p}.wake.1", b"ring", "yes")
    assert fired.headers["Nats-Scheduler"] == f"{p}.timer.1"
    assert fired.headers["Nats-Schedule-Next"] == "purge"
    assert "Nats-Schedule-Target" not in fired.headers

    async def gone() -> bool:
        return await t.last(name, f"{p}.timer.1") is None

    await until_true(gone, "the schedule is gone")


@scenario
async def test_schedule_due_already(world: World) -> None:
    """A schedule whose time is over fires soon."""
    t = await world.connect("a")
    _, p, box = await timers(world, t)
    await t.append(f"{p}.timer.1", b"late", schedule=Schedule(at(world, -60), f"{p}.wake.1"))
    begun = asyncio.get_running_loop().time()
    await until(lambda: box.got, "the timer fires")
    assert box.times[0] - begun < 0.5 + SLACK


@scenario
async def test_schedule_cancelled(world: World) -> None:
    """Purging its subject cancels a schedule; a new one on the same subject replaces the old one."""
    t = await world.connect("a")
    name, p, box = await timers(world, t)
    await t.append(f"{p}.timer.1", b"cancelled", schedule=Schedule(at(world, 1), f"{p}.wake.1"))
    await t.append(f"{p}.timer.2", b"old", schedule=Schedule(at(world, 1), f"{p}.wake.2"))
    await t.append(f"{p}.timer.2", b"new", schedule=Schedule(at(world, 1.2), f"{p}.wake.2"))
    assert len(await t.read(name, f"{p}.timer.2")) == 1
    assert await t.purge(name, f"{p}.timer.1") == 1
    await until(lambda: box.got, "the replaced timer fires")
    await elapse(0.5)
    assert [one.data for one in box.got] == [b"new"]


@scenario
async def test_schedule_every(world: World) -> None:
    """A recurring schedule fires again and again, and stays stored."""
    t = await world.connect("a")
    name, p, box = await timers(world, t)
    await t.append(f"{p}.cron.1", b"tick", schedule=Schedule("@every 1s", f"{p}.wake.1"))
    await until(lambda: len(box.got) >= 2, "it fired twice")
    assert 0.7 <= box.times[1] - box.times[0] < 1.3 + SLACK
    assert box.got[0].headers["Nats-Schedule-Next"] != "purge"
    assert await t.last(name, f"{p}.cron.1") is not None
    await t.purge(name, f"{p}.cron.1")


@scenario
async def test_schedule_cron(world: World) -> None:
    """A cron rule of six fields fires on its seconds."""
    t = await world.connect("a")
    name, p, box = await timers(world, t)
    await t.append(f"{p}.cron.1", b"tick", schedule=Schedule("*/2 * * * * *", f"{p}.wake.1", "Europe/Berlin"))
    await until(lambda: box.got, "it fired")
    assert int(box.got[0].at) % 2 == 0
    await t.purge(name, f"{p}.cron.1")


@scenario
async def test_schedule_refused(world: World) -> None:
    """Wrong rules, wrong targets and streams without schedules are refused, each by its code."""
    t = await world.connect("a")
    _, p = await stream(world, t, retention="workqueue", schedules=True)
    _, plain = await stream(world, t)
    cases = [
        (f"{p}.t", Schedule("*/5 * * * *", f"{p}.w"), 10189),
        (f"{p}.t", Schedule("@every 500ms", f"{p}.w"), 10189),
        (f"{p}.t", Schedule("@at yesterday", f"{p}.w"), 10189),
        (f"{p}.t", Schedule("@every 1s", f"{p}.t"), 10190),
        (f"{p}.t", Schedule("@every 1s", f"{p}.*"), 10190),
        (f"{p}.t", Schedule("@every 1s", "elsewhere.x"), 10190),
        (f"{p}.t", Schedule("0 0 0 * * *", f"{p}.w", "Mars/Olympus"), 10223),
        (f"{plain}.t", Schedule("@every 1s", f"{plain}.w"), 10188),
    ]
    for subject, schedule, code in cases:
        with pytest.raises(Refused) as refused:
            await t.append(subject, b"x", schedule=schedule)
        assert (schedule, refused.value.server_code) == (schedule, code)


@scenario
async def test_schedule_once_by_name(world: World) -> None:
    """Of several who arm the same timer the first one does, until it has fired; a wildcard cancels all of a name."""
    t = await world.connect("a")
    name, p, box = await timers(world, t)
    rule = Schedule(at(world, 1.0), f"{p}.wake.1")
    await t.append(f"{p}.cron.m.n.1", b"first", expected=0, schedule=rule)
    with pytest.raises(ConditionFailed):
        await t.append(f"{p}.cron.m.n.1", b"second", expected=0, schedule=rule)
    await until(lambda: box.got, "the timer fires")
    assert [one.data for one in box.got] == [b"first"]
    later = Schedule(at(world, 60), f"{p}.wake.1")

    async def again() -> bool:
        try:
            await t.append(f"{p}.cron.m.n.1", b"third", expected=0, schedule=later)
        except ConditionFailed:
            return False
        return True

    await until_true(again, "the name is free again")
    await t.append(f"{p}.cron.m.n.2", b"fourth", expected=0, schedule=later)
    await t.append(f"{p}.cron.m.other.2", b"fifth", expected=0, schedule=later)
    assert await t.purge(name, f"{p}.cron.m.n.*") == 2


@scenario
async def test_ticks_one_at_a_time(world: World) -> None:
    """With one allowed in work, the next message waits while one is worked on, and while it waits for its next try."""
    t = await world.connect("a")
    name, p = await stream(world, t, retention="workqueue", schedules=True)
    await t.ensure(
        ConsumerAsset(stream=name, name="tick", filters=(f"{p}.tick.m.n",), ack_wait=10, ack_pending_max=1)
    )
    one, other = Box(t, 1), Box(t, 1)
    pulls = [await box.open(name, "tick", batch=1) for box in (one, other)]
    await t.append(f"{p}.tick.m.n", b"1")
    await t.append(f"{p}.tick.m.n", b"2")
    both = lambda: sorted(one.got + other.got, key=lambda each: (each.sequence, each.count))  # noqa: E731
    await until(lambda: len(both()) == 1, "the first is delivered")
    await elapse(0.5)
    assert len(both()) == 1
    await t.nak(both()[0].ack_subject, 0.8)
    await elapse(0.4)
    assert len(both()) == 1
    await until(lambda: len(both()) == 2, "it comes again")
    assert [(each.data, each.count) for each in both()] == [(b"1", 1), (b"1", 2)]
    await t.ack(both()[1].ack_subject)
    await until(lambda: len(both()) == 3, "the second is delivered")
    assert both()[2].data == b"2"
    await t.ack(both()[2].ack_subject)
    for pull in pulls:
        await pull.stop()


@scenario
async def test_ticks_of_two_kinds_beside_each_other(world: World) -> None:
    """A work queue takes consumers of one token and of two; one that matches both is narrowed by an update first."""
    t = await world.connect("a")
    name, p = await stream(world, t, retention="workqueue", schedules=True)
    await t.ensure(ConsumerAsset(stream=name, name="ticks", filters=(f"{p}.tick.>",)))
    mine = ConsumerAsset(stream=name, name="tick=m=n", filters=(f"{p}.tick.m.n",))
    with pytest.raises(Refused) as refused:
        await t.ensure(mine)
    assert refused.value.server_code == 10100
    await t.ensure(ConsumerAsset(stream=name, name="ticks", filters=(f"{p}.tick.*",), update=True))
    await t.ensure(mine)
    box = Box(t)
    pull = await box.open(name, "tick=m=n")
    await t.append(f"{p}.tick.trigger", b"not this")
    await t.append(f"{p}.tick.m.n", b"this")
    await until(lambda: box.got, "it arrives")
    assert [one.data for one in box.got] == [b"this"]
    await pull.stop()


# -- sources


@scenario
async def test_source(world: World) -> None:
    """A stream with a source gets each matching message once, in order, with its subject rewritten."""
    t = await world.connect("a")
    origin, p = await stream(world, t)
    await t.append(f"{p}.emit.r.1.k.shop.order", b"before")
    target = f"E{origin}"
    world.made.append(target)
    rule = Transform(source=f"{p}.emit.*.*.*.>", destination=f"ev{p}.{{{{wildcard(1)}}}}.>")
    asset = StreamAsset(
        name=target, subjects=(f"ev{p}.>",), storage="memory", sources=(SourceAsset(origin, (rule,)),)
    )
    await t.ensure(asset)
    await t.ensure(asset)
    await t.append(f"{p}.effect.r", b"not this")
    for n in range(20):
        await t.append(f"{p}.emit.q{n}.1.k.shop.order", str(n).encode(), headers={"Mine": "yes"}, expected=0)

    async def all_there() -> bool:
        state = await t.stream_state(target)
        return state is not None and state.messages == 21

    await until_true(all_there, "all are copied")
    copies = await t.read(target, f"ev{p}.>")
    assert [one.data for one in copies] == [b"before", *(str(n).encode() for n in range(20))]
    assert copies[1].subject == f"ev{p}.q0.shop.order"
    assert copies[1].headers["Mine"] == "yes"
    assert "Nats-Expected-Last-Subject-Sequence" not in copies[1].headers
    source = copies[1].headers["Nats-Stream-Source"].split(" ")
    assert source[:2] == [origin, "3"]
