"""The transport's contract for consumers and pulls, on the memory twin and on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jetloom.errors import (
    ConditionFailed,
    Refused,
)
from jetloom.transport import ConsumerAsset, StreamAsset, delivery_number
from tests.conformance.world import SLACK, Box, World, elapse, scenario, stream, until, until_true, work_queue

# -- consumers


@scenario
async def test_work_queue_removes_at_ack(world: World) -> None:
    """An acknowledged message leaves a work queue, and its subject is empty for a condition."""
    t = await world.connect("a")
    name, p = await work_queue(world, t)
    await t.append(f"{p}.x", b"1", expected=0)
    with pytest.raises(ConditionFailed):
        await t.append(f"{p}.x", b"1", expected=0)
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    delivery = box.got[0]
    assert (delivery.subject, delivery.data, delivery.stream, delivery.consumer) == (
        f"{p}.x",
        b"1",
        name,
        "c",
    )
    assert (delivery.sequence, delivery.count) == (1, 1)
    await t.ack(delivery.ack_subject)
    await t.flush()

    async def empty() -> bool:
        state = await t.stream_state(name)
        return state is not None and state.messages == 0

    await until_true(empty, "the queue is empty")
    assert (await t.append(f"{p}.x", b"2", expected=0)).sequence == 2
    await until(lambda: box.sequences == [1, 2], "the next one is delivered")
    await pull.stop()


@scenario
async def test_limits_stream_keeps_at_ack(world: World) -> None:
    """On a limits stream an acknowledged message stays stored and is not delivered again."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.ensure(ConsumerAsset(stream=name, name="c", ack_wait=0.3))
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    await t.ack(box.got[0].ack_subject)
    await elapse(0.6)
    assert box.counts == [1]
    assert await t.get(name, 1) is not None
    await pull.stop()


@scenario
async def test_ack_wait(world: World) -> None:
    """What is not acknowledged comes again after `ack_wait`, with a count that grows."""
    t = await world.connect("a")
    name, p = await work_queue(world, t)
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: len(box.got) >= 3, "it is delivered three times")
    assert box.counts[:3] == [1, 2, 3]
    for earlier, later in zip(box.times, box.times[1:3], strict=False):
        assert 0.49 <= later - earlier < 0.5 + SLACK
    await t.ack(box.got[-1].ack_subject)
    await pull.stop()


@scenario
async def test_beat_extends(world: World) -> None:
    """A beat gives the whole `ack_wait` again; without one it comes again."""
    t = await world.connect("a")
    name, p = await work_queue(world, t)
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    for _ in range(4):
        await elapse(0.25)
        await t.beat(box.got[0].ack_subject)
    await t.flush()
    last_beat = asyncio.get_running_loop().time()
    assert box.counts == [1]
    await until(lambda: len(box.got) == 2, "it is delivered again")
    assert 0.4 <= box.times[1] - last_beat < 0.5 + SLACK
    await pull.stop()


@scenario
async def test_beat_confirmed(world: World) -> None:
    """A confirmed beat extends and says so; for a consumer that does not exist it says no."""
    t = await world.connect("a")
    name, p = await work_queue(world, t)
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    for _ in range(3):
        await elapse(0.25)
        assert await t.beat_confirmed(box.got[0].ack_subject)
    assert box.counts == [1]
    assert not await t.beat_confirmed(f"$JS.ACK.{name}.nosuch.1.1.1.1.0", timeout=0.3)
    await pull.stop()


@scenario
async def test_beater(world: World) -> None:
    """A beater keeps what it holds from being delivered again, and no longer."""
    t = await world.connect("a")
    name, p = await work_queue(world, t, ack_wait=1.2)
    beater = await t.open_beater()
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    beater.hold(box.got[0].ack_subject, 0.3)
    await elapse(2.5)
    assert box.counts == [1]
    beater.drop(box.got[0].ack_subject)
    await until(lambda: len(box.got) == 2, "it is delivered again")
    await beater.stop()
    await pull.stop()


@scenario
async def test_nak(world: World) -> None:
    """A refused message comes again at once, or after the delay asked for; each time its count grows."""
    t = await world.connect("a")
    name, p = await work_queue(world, t, ack_wait=5)
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: len(box.got) == 1, "the message is delivered")
    await t.nak(box.got[0].ack_subject)
    await until(lambda: len(box.got) == 2, "it is delivered again at once")
    assert box.times[1] - box.times[0] < SLACK
    await t.nak(box.got[1].ack_subject, 0.6)
    await until(lambda: len(box.got) == 3, "it is delivered after the delay")
    assert 0.59 <= box.times[2] - box.times[1] < 0.6 + SLACK
    assert box.counts == [1, 2, 3]
    await pull.stop()


@scenario
async def test_term(world: World) -> None:
    """A terminated message leaves a work queue and never comes again."""
    t = await world.connect("a")
    name, p = await work_queue(world, t, ack_wait=0.3)
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    await t.term(box.got[0].ack_subject, "no use")
    await elapse(0.7)
    assert box.counts == [1]
    state = await t.stream_state(name)
    assert state is not None
    assert state.messages == 0
    await pull.stop()


@scenario
async def test_ack_of_any_delivery_from_any_connection(world: World) -> None:
    """The ack subject of an early delivery, sent by another connection, acknowledges the message for good."""
    a, b = await world.connect("a"), await world.connect("b")
    name, p = await work_queue(world, a)
    await a.append(f"{p}.x", b"1")
    box = Box(a)
    pull = await box.open(name, "c")
    await until(lambda: len(box.got) == 2, "it is delivered twice")
    await b.ack(box.got[0].ack_subject)
    await elapse(0.8)
    assert box.counts == [1, 2]
    state = await a.stream_state(name)
    assert state is not None
    assert state.messages == 0
    await pull.stop()


@scenario
async def test_backoff(world: World) -> None:
    """With a backoff list the waits between deliveries are its, the last one for ever."""
    t = await world.connect("a")
    name, p = await work_queue(world, t, ack_wait=0.2, backoff=(0.2, 0.6), deliveries_max=5)
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: len(box.got) >= 4, "it is delivered four times")
    waits = [later - earlier for earlier, later in zip(box.times, box.times[1:4], strict=False)]
    for wait, wanted in zip(waits, (0.2, 0.6, 0.6), strict=True):
        assert wanted - 0.01 <= wait < wanted + SLACK
    await pull.stop()


@scenario
async def test_deliveries_max(world: World) -> None:
    """After `deliveries_max` a message is not delivered any more; it stays stored."""
    t = await world.connect("a")
    name, p = await work_queue(world, t, ack_wait=0.3, deliveries_max=2)
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: len(box.got) == 2, "it is delivered twice")
    await elapse(0.8)
    assert box.counts == [1, 2]
    state = await t.stream_state(name)
    assert state is not None
    assert state.messages == 1
    await pull.stop()


@scenario
async def test_ack_pending_max(world: World) -> None:
    """No more messages are out than `ack_pending_max`; an ack lets the next one go."""
    t = await world.connect("a")
    name, p = await work_queue(world, t, ack_wait=5, ack_pending_max=2)
    for n in range(4):
        await t.append(f"{p}.{n}", b"x")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: len(box.got) == 2, "two are delivered")
    await elapse(0.4)
    assert box.sequences == [1, 2]
    await t.ack(box.got[0].ack_subject)
    await until(lambda: box.sequences == [1, 2, 3], "the third is delivered")
    await pull.stop()


@scenario
async def test_filters(world: World) -> None:
    """Consumers with filters see their subjects only; overlapping ones are refused on a work queue."""
    t = await world.connect("a")
    name, p = await stream(world, t, retention="workqueue", discard="new")
    await t.ensure(ConsumerAsset(stream=name, name="one", filters=(f"{p}.*.start",)))
    await t.ensure(ConsumerAsset(stream=name, name="two", filters=(f"{p}.*.result", f"{p}.*.poke")))
    with pytest.raises(Refused):
        await t.ensure(ConsumerAsset(stream=name, name="three", filters=(f"{p}.r.*",)))
    for kind in ("start", "poke", "result", "start"):
        await t.append(f"{p}.r.{kind}", b"x")
    one, two = Box(t), Box(t)
    pulls = [await one.open(name, "one"), await two.open(name, "two")]
    await until(lambda: len(one.got) == 2 and len(two.got) == 2, "all are delivered")
    assert one.sequences == [1, 4]
    assert two.sequences == [2, 3]
    for pull in pulls:
        await pull.stop()


@scenario
async def test_consumer_starts(world: World) -> None:
    """A consumer begins at all, at new ones, at a sequence, at a time."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    for n in (1, 2):
        await t.append(f"{p}.{n}", b"x")
    await elapse(0.2)
    middle = world.now()
    await elapse(0.2)
    await t.append(f"{p}.3", b"x")
    starts: dict[str, Any] = {"all": "all", "new": "new", "seq": 2, "time": float(middle)}
    for consumer, start in starts.items():
        await t.ensure(ConsumerAsset(stream=name, name=consumer, start=start))
    await t.append(f"{p}.4", b"x")
    wanted = {"all": [1, 2, 3, 4], "new": [4], "seq": [2, 3, 4], "time": [3, 4]}
    for consumer, sequences in wanted.items():
        box = Box(t)
        pull = await box.open(name, consumer)
        await until(
            lambda box=box, wanted=sequences: box.sequences == wanted, f"{consumer} has all of its messages"
        )
        await pull.stop()


@scenario
async def test_consumer_state(world: World) -> None:
    """A consumer's state counts what is ahead and what is out."""
    t = await world.connect("a")
    name, p = await work_queue(world, t, ack_wait=5)
    for n in range(5):
        await t.append(f"{p}.{n}", b"x")
    box = Box(t, capacity=2)
    pull = await box.open(name, "c", expiry=0.5)
    await until(lambda: len(box.got) >= 2, "two are delivered")
    box.capacity = 0
    state = await t.consumer_state(name, "c")
    assert state is not None
    assert state.unacknowledged + state.pending == 5
    assert state.unacknowledged == len(box.got)
    await pull.stop()


# -- pulls


@scenario
async def test_pull_capacity(world: World) -> None:
    """No more is delivered than the capacity allows; `wake` brings the rest at once."""
    t = await world.connect("a")
    name, p = await work_queue(world, t, ack_wait=30)
    for n in range(10):
        await t.append(f"{p}.{n}", b"x")
    box = Box(t)

    def capacity() -> int:
        return box.capacity - len(box.got)

    box.capacity = 3
    pull = await t.pull(name, "c", box.receive, capacity=capacity, expiry=0.3)
    await until(lambda: len(box.got) == 3, "three are delivered")
    await elapse(0.5)
    assert len(box.got) == 3
    box.capacity = 10
    pull.wake()
    await until(lambda: len(box.got) == 10, "the rest is delivered")
    assert box.sequences == list(range(1, 11))
    await pull.stop()


@scenario
async def test_pull_goes_on(world: World) -> None:
    """A pull outlives its requests: what is stored much later is delivered at once, with the basis of its request."""
    t = await world.connect("a")
    name, p = await work_queue(world, t)
    box = Box(t)
    pull = await box.open(name, "c", expiry=0.3)
    await elapse(1.0)
    await t.append(f"{p}.x", b"x")
    await until(lambda: box.got, "the message is delivered")
    await t.ack(box.got[0].ack_subject)
    await pull.stop()


@scenario
async def test_pull_stopped(world: World) -> None:
    """After `stop` returns nothing is delivered any more, and what is stored then waits for others."""
    a, b = await world.connect("a"), await world.connect("b")
    name, p = await work_queue(world, a)
    box = Box(a)
    pull = await box.open(name, "c", expiry=0.3)
    await elapse(0.1)
    await pull.stop()
    await pull.stop()
    await a.append(f"{p}.x", b"x")
    other = Box(b)
    second = await other.open(name, "c")
    await until(lambda: other.got, "the other one gets it")
    assert (box.got, other.counts) == ([], [1])
    await second.stop()


@scenario
async def test_pull_waits_for_its_consumer(world: World) -> None:
    """A pull from a consumer that does not exist yet begins when it does."""
    t = await world.connect("a")
    name, p = await stream(world, t, retention="workqueue", discard="new")
    await t.append(f"{p}.x", b"x")
    box = Box(t)
    pull = await box.open(name, "late", expiry=0.3)
    await elapse(0.4)
    await t.ensure(ConsumerAsset(stream=name, name="late"))
    await until(lambda: box.got, "the message is delivered")
    await pull.stop()


@scenario
async def test_pulls_share(world: World) -> None:
    """Two connections that pull from one consumer share its messages, each delivered once."""
    a, b = await world.connect("a"), await world.connect("b")
    name, p = await work_queue(world, a, ack_wait=10)
    boxes = [Box(a), Box(b)]
    pulls = [await box.open(name, "c", expiry=5) for box in boxes]
    await elapse(0.1)
    for n in range(40):
        await a.append(f"{p}.{n}", b"x")
    await until(lambda: sum(len(box.got) for box in boxes) == 40, "all are delivered")
    assert sorted(boxes[0].sequences + boxes[1].sequences) == list(range(1, 41))
    assert all(box.got for box in boxes)
    for t in (a, b):
        await t.close()
    assert pulls


@scenario
async def test_an_update_changes_a_consumer(world: World) -> None:
    """With `update` a consumer gets the declared filters and limits; what it delivered stays delivered."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.ensure(ConsumerAsset(stream=name, name="c", filters=(f"{p}.x",), ack_wait=30, update=True))
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the first is delivered")
    await t.ack(box.got[0].ack_subject)
    changed = ConsumerAsset(
        stream=name, name="c", filters=(f"{p}.y", f"{p}.z"), ack_wait=0.5, ack_pending_max=7, update=True
    )
    await t.ensure(changed)
    await t.ensure(changed)
    await t.append(f"{p}.x", b"2")
    await t.append(f"{p}.z", b"3")
    await until(lambda: len(box.got) >= 3, "the new subject is delivered, and again after the new wait")
    assert [(one.subject, one.count) for one in box.got[:3]] == [
        (f"{p}.x", 1),
        (f"{p}.z", 1),
        (f"{p}.z", 2),
    ]
    await t.ack(box.got[-1].ack_subject)
    await t.ensure(ConsumerAsset(stream=name, name="c", filters=(f"{p}.x",), ack_wait=30, update=True))
    await t.append(f"{p}.x", b"4")
    await until(lambda: box.got[-1].data == b"4", "one filter in place of two works as well")
    await pull.stop()


@scenario
async def test_an_update_keeps_the_start(world: World) -> None:
    """Where a consumer began is kept by an update that declares another start; nothing is delivered twice."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.append(f"{p}.x", b"1")
    await t.ensure(ConsumerAsset(stream=name, name="c", start="new", update=True))
    await t.ensure(ConsumerAsset(stream=name, name="c", start="all", update=True))
    await t.ensure(ConsumerAsset(stream=name, name="c", start=1, update=True))
    await t.append(f"{p}.x", b"2")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the second is delivered")
    assert box.sequences == [2]
    await pull.stop()


@scenario
async def test_deliveries_are_numbered(world: World) -> None:
    """The ack subject has the consumer's count of deliveries, which grows by one with each, redeliveries among them."""
    t = await world.connect("a")
    name, p = await work_queue(world, t)
    for number in range(3):
        await t.append(f"{p}.{number}", b"x")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: len(box.got) >= 6, "all are delivered twice")
    assert [delivery_number(one.ack_subject) for one in box.got] == list(range(1, len(box.got) + 1))
    for one in box.got:
        await t.ack(one.ack_subject)
    await pull.stop()


@scenario
async def test_a_stream_gets_ttls_later(world: World) -> None:
    """A stream that was made without TTLs takes them once they are declared, and keeps what it holds."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.append(f"{p}.x", b"1")
    await t.ensure(StreamAsset(name=name, subjects=(f"{p}.>",), storage="memory", ttl=True))
    await t.append(f"{p}.y", b"2", ttl=1)
    await t.ensure(StreamAsset(name=name, subjects=(f"{p}.>",), storage="memory", ttl=True))

    async def gone() -> bool:
        return [one.data for one in await t.read(name, f"{p}.>")] == [b"1"]

    await until_true(gone, "the one with a ttl has left")
