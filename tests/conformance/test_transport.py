"""The transport's contract, on the memory twin and on a real server. Where they differ, the server is right."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jetloom.errors import (
    AssetDrifted,
    ConditionFailed,
    Disconnected,
    NoResponders,
    OutcomeUnknown,
    PayloadTooLarge,
    Refused,
    RequestTimeout,
)
from jetloom.transport import ConsumerAsset, Incoming, Stored, Transport
from tests.conformance.world import Box, World, elapse, scenario, stream, until, until_true

SLACK = 0.35
"""How late a real server and a busy machine may be."""


async def work_queue(world: World, t: Transport, **fields: Any) -> tuple[str, str]:
    """A work queue with one consumer `c` that redelivers after half a second."""
    name, prefix = await stream(world, t, retention="workqueue", discard="new")
    fields.setdefault("ack_wait", 0.5)
    await t.ensure(ConsumerAsset(stream=name, name="c", **fields))
    return name, prefix


# -- appending


@scenario
async def test_append_is_numbered(world: World) -> None:
    """Messages get sequences from 1, and are read back as they were."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    assert [(await t.append(f"{p}.{n}", b"x", headers={"K": f"v{n}"})).sequence for n in (1, 2, 3)] == [
        1,
        2,
        3,
    ]
    found = await t.get(name, 2)
    assert found is not None
    assert (found.subject, found.data, found.headers["K"]) == (f"{p}.2", b"x", "v2")
    assert abs(found.at - world.now()) < 10
    state = await t.stream_state(name)
    assert state is not None
    assert (state.messages, state.first, state.last) == (3, 1, 3)


@scenario
async def test_expected_sequence(world: World) -> None:
    """A write is refused when its subject's last sequence is another; the error says which, and nothing is stored."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    first = await t.append(f"{p}.x", b"1", expected=0)
    with pytest.raises(ConditionFailed) as failed:
        await t.append(f"{p}.x", b"2", expected=0)
    assert failed.value.actual_sequence == first.sequence
    await t.append(f"{p}.other", b"-")
    second = await t.append(f"{p}.x", b"2", expected=first.sequence)
    assert second.sequence == 3
    assert [one.data for one in await t.read(name, f"{p}.x")] == [b"1", b"2"]


@scenario
async def test_expected_is_stored_in_headers(world: World) -> None:
    """The condition travels and is stored as the server's own header."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.append(f"{p}.x", b"1", expected=0, message_id="m")
    found = await t.last(name, f"{p}.x")
    assert found is not None
    assert found.headers["Nats-Expected-Last-Subject-Sequence"] == "0"
    assert found.headers["Nats-Msg-Id"] == "m"


@scenario
async def test_duplicate_window(world: World) -> None:
    """A remembered message id is answered with the old sequence and not stored; the expectation is checked first."""
    t = await world.connect("a")
    name, p = await stream(world, t, duplicate_window=1)
    first = await t.append(f"{p}.x", b"1", message_id="id")
    again = await t.append(f"{p}.y", b"2", message_id="id")
    assert (again.sequence, again.duplicate) == (first.sequence, True)
    with pytest.raises(ConditionFailed):
        await t.append(f"{p}.x", b"1", message_id="id", expected=0)
    state = await t.stream_state(name)
    assert state is not None
    assert state.messages == 1
    await elapse(1.5)
    assert not (await t.append(f"{p}.x", b"3", message_id="id")).duplicate


@scenario
async def test_duplicate_window_outlives_the_message(world: World) -> None:
    """An id is remembered in the window also when its message was consumed; expected 0 alone would pass again."""
    t = await world.connect("a")
    name, p = await work_queue(world, t)
    await t.append(f"{p}.x", b"1", message_id="id", expected=0)
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    await t.ack(box.got[0].ack_subject)
    await t.flush()
    assert (await t.append(f"{p}.x", b"1", message_id="id", expected=0)).duplicate
    assert not (await t.append(f"{p}.x", b"1", expected=0)).duplicate
    await pull.stop()


@scenario
async def test_no_stream(world: World) -> None:
    """An append that no stream takes has no verdict."""
    t = await world.connect("a")
    with pytest.raises(OutcomeUnknown):
        await t.append(f"nobody.{world.number}", b"x", timeout=1)


@scenario
async def test_payload_too_large(world: World) -> None:
    """A payload above the server's limit is refused by an error that names the limit, before it is sent."""
    t = await world.connect("a")
    _, p = await stream(world, t)
    with pytest.raises(PayloadTooLarge):
        await t.append(f"{p}.x", b"x" * (t.server.max_payload + 1))
    assert (await t.append(f"{p}.x", b"x")).sequence == 1


@scenario
async def test_publish_is_stored(world: World) -> None:
    """A plain publish on a stream's subject is stored, and a request on it gets the stream's answer."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.publish(f"{p}.x", b"plain")
    reply = await t.request(f"{p}.x", b"asked")
    assert b'"seq":2' in reply.data.replace(b" ", b"")
    assert [one.data for one in await t.read(name, f"{p}.x")] == [b"plain", b"asked"]


@scenario
async def test_messages_per_subject(world: World) -> None:
    """A stream with a limit per subject keeps the newest ones."""
    t = await world.connect("a")
    name, p = await stream(world, t, messages_per_subject_max=2)
    for n in range(4):
        await t.append(f"{p}.x", str(n).encode())
    await t.append(f"{p}.y", b"y")
    assert [one.data for one in await t.read(name, f"{p}.>")] == [b"2", b"3", b"y"]


@scenario
async def test_bytes_max_discards_new(world: World) -> None:
    """A full stream with `discard new` refuses, and takes again when there is room."""
    t = await world.connect("a")
    name, p = await stream(world, t, discard="new", bytes_max=2000)
    await t.append(f"{p}.x", b"x" * 1500)
    with pytest.raises(Refused) as refused:
        await t.append(f"{p}.x", b"x" * 1500)
    assert refused.value.server_code == 10077
    await t.purge(name, f"{p}.x")
    await t.append(f"{p}.x", b"x" * 1500)


# -- rollup, TTL


@scenario
async def test_rollup(world: World) -> None:
    """A rollup removes the older messages of its own subject only, under its condition."""
    t = await world.connect("a")
    name, p = await stream(world, t, rollup=True)
    for n in range(3):
        await t.append(f"{p}.x", str(n).encode())
    await t.append(f"{p}.y", b"y")
    with pytest.raises(ConditionFailed):
        await t.append(f"{p}.x", b"all", expected=1, rollup=True)
    rolled = await t.append(f"{p}.x", b"all", expected=3, rollup=True)
    assert [one.data for one in await t.read(name, f"{p}.>")] == [b"y", b"all"]
    await t.append(f"{p}.x", b"next", expected=rolled.sequence)


@scenario
async def test_rollup_refused(world: World) -> None:
    """A stream without rollup refuses it and keeps what it has."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.append(f"{p}.x", b"1")
    with pytest.raises(Refused) as refused:
        await t.append(f"{p}.x", b"all", rollup=True)
    assert refused.value.server_code == 10111
    assert [one.data for one in await t.read(name, f"{p}.x")] == [b"1"]


@scenario
async def test_ttl(world: World) -> None:
    """A message with a TTL is gone after it, its neighbours stay, and expected 0 passes again."""
    t = await world.connect("a")
    name, p = await stream(world, t, ttl=True)
    await t.append(f"{p}.stay", b"s")
    await t.append(f"{p}.x", b"x", ttl=1)
    with pytest.raises(ConditionFailed):
        await t.append(f"{p}.x", b"y", expected=0)
    await elapse(0.5)
    assert await t.last(name, f"{p}.x") is not None

    async def gone() -> bool:
        return await t.last(name, f"{p}.x") is None

    await until_true(gone, "the message expires")
    await t.append(f"{p}.x", b"y", expected=0)
    assert await t.last(name, f"{p}.stay") is not None


@scenario
async def test_ttl_refused(world: World) -> None:
    """A stream without TTL refuses it; below a second it is refused everywhere."""
    t = await world.connect("a")
    _, plain = await stream(world, t)
    with pytest.raises(Refused) as refused:
        await t.append(f"{plain}.x", b"x", ttl=1)
    assert refused.value.server_code == 10166
    _, expiring = await stream(world, t, ttl=True)
    with pytest.raises(Refused) as refused:
        await t.append(f"{expiring}.x", b"x", ttl=0.5)
    assert refused.value.server_code == 10165


@scenario
async def test_expired_is_not_redelivered(world: World) -> None:
    """A message that expires while it waits for its acknowledgement never comes again."""
    t = await world.connect("a")
    name, p = await stream(world, t, ttl=True)
    await t.ensure(ConsumerAsset(stream=name, name="c", ack_wait=1.6))
    await t.append(f"{p}.x", b"x", ttl=1)
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    await elapse(2.2)
    assert box.counts == [1]
    state = await t.consumer_state(name, "c")
    assert state is not None
    assert state.unacknowledged == 0
    await pull.stop()


# -- deleting, reading


@scenario
async def test_delete_and_purge(world: World) -> None:
    """Single messages and whole subjects are removed, by wildcard too, and counted."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    for subject in ("a.1", "a.2", "b.1", "b.1"):
        await t.append(f"{p}.{subject}", b"x")
    assert await t.delete(name, 1)
    assert not await t.delete(name, 1)
    assert await t.get(name, 1) is None
    assert await t.purge(name, f"{p}.b.*") == 2
    assert await t.purge(name, f"{p}.b.*") == 0
    assert [one.subject for one in await t.read(name, f"{p}.>")] == [f"{p}.a.2"]


@scenario
async def test_read_pages(world: World) -> None:
    """A subject is read in pages, in order, from the leader and directly; a short page was the last."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    for n in range(7):
        await t.append(f"{p}.x.{n % 2}", str(n).encode())
    for direct in (False, True):
        assert await t.read(name, f"{p}.none", direct=direct) == []
        page = await t.read(name, f"{p}.x.*", limit=4, direct=direct)
        assert [one.sequence for one in page] == [1, 2, 3, 4]
        rest = await t.read(name, f"{p}.x.*", after=4, limit=4, direct=direct)
        assert [one.data for one in rest] == [b"4", b"5", b"6"]
        exact = await t.read(name, f"{p}.x.1", after=2, direct=direct)
        assert [one.sequence for one in exact] == [4, 6]


@scenario
async def test_last_and_get(world: World) -> None:
    """The last message of a subject and a message by number, or None; leader and direct agree on one replica."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    for direct in (False, True):
        assert await t.last(name, f"{p}.x{direct}", direct=direct) is None
        for n in range(2):
            await t.append(f"{p}.x{direct}", str(n).encode())
        found = await t.last(name, f"{p}.x{direct}", direct=direct)
        assert found is not None
        assert found.data == b"1"
        assert await t.get(name, found.sequence, direct=direct) == found
        assert await t.get(name, 99, direct=direct) is None


@scenario
async def test_leader_reads_see_every_acknowledged_write(world: World) -> None:
    """What one connection's append acknowledged, another's leader read sees."""
    a, b = await world.connect("a"), await world.connect("b")
    name, p = await stream(world, a)
    for n in range(50):
        done = await a.append(f"{p}.x", str(n).encode())
        found = await b.last(name, f"{p}.x")
        assert found is not None
        assert found.sequence == done.sequence


@scenario
async def test_states_of_what_is_not_there(world: World) -> None:
    """A stream or consumer that does not exist has no state, and removing it says so."""
    t = await world.connect("a")
    assert await t.stream_state("NOSUCH") is None
    assert await t.consumer_state("NOSUCH", "c") is None
    assert not await t.remove("NOSUCH")
    name, _ = await stream(world, t)
    assert await t.consumer_state(name, "c") is None
    assert not await t.remove(name, "c")


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
    """A beater keeps what it holds from being delivered again, and stops with it."""
    t = await world.connect("a")
    name, p = await work_queue(world, t)
    await t.append(f"{p}.x", b"1")
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    beater = await t.open_beater()
    beater.hold(box.got[0].ack_subject, 0.15)
    await elapse(1.2)
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
    pull = await box.open(name, "c", expiry=5)
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


# -- schedules


def at(world: World, seconds: float) -> str:
    from datetime import UTC, datetime

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
    from jetloom.transport import Schedule

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
    from jetloom.transport import Schedule

    t = await world.connect("a")
    _, p, box = await timers(world, t)
    await t.append(f"{p}.timer.1", b"late", schedule=Schedule(at(world, -60), f"{p}.wake.1"))
    begun = asyncio.get_running_loop().time()
    await until(lambda: box.got, "the timer fires")
    assert box.times[0] - begun < 0.5 + SLACK


@scenario
async def test_schedule_cancelled(world: World) -> None:
    """Purging its subject cancels a schedule; a new one on the same subject replaces the old one."""
    from jetloom.transport import Schedule

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
    from jetloom.transport import Schedule

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
    from jetloom.transport import Schedule

    t = await world.connect("a")
    name, p, box = await timers(world, t)
    await t.append(f"{p}.cron.1", b"tick", schedule=Schedule("*/2 * * * * *", f"{p}.wake.1", "Europe/Berlin"))
    await until(lambda: box.got, "it fired")
    assert int(box.got[0].at) % 2 == 0
    await t.purge(name, f"{p}.cron.1")


@scenario
async def test_schedule_refused(world: World) -> None:
    """Wrong rules, wrong targets and streams without schedules are refused, each by its code."""
    from jetloom.transport import Schedule

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


# -- sources


@scenario
async def test_source(world: World) -> None:
    """A stream with a source gets each matching message once, in order, with its subject rewritten."""
    from jetloom.transport import SourceAsset, StreamAsset, Transform

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


# -- follow


@scenario
async def test_follow(world: World) -> None:
    """A follow hands over what is stored from where it was asked to begin, in order."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    for n in range(3):
        await t.append(f"{p}.x{n % 2}", str(n).encode())
    seen: dict[str, list[bytes]] = {"all": [], "new": [], "last": [], "one": []}

    def into(which: str) -> Any:
        def take(message: Stored) -> None:
            seen[which].append(message.data)

        return take

    follows = [
        await t.follow(name, f"{p}.>", into("all"), after=0),
        await t.follow(name, f"{p}.>", into("new")),
        await t.follow(name, f"{p}.>", into("last"), last=True),
        await t.follow(name, f"{p}.x1", into("one"), after=1),
    ]
    await t.append(f"{p}.x0", b"3")
    await t.append(f"{p}.x1", b"4")
    wanted = {
        "all": [b"0", b"1", b"2", b"3", b"4"],
        "new": [b"3", b"4"],
        "last": [b"1", b"2", b"3", b"4"],
        "one": [b"1", b"4"],
    }
    await until(lambda: seen == wanted, f"each has seen its own: {wanted}")
    for follow in follows:
        await follow.stop()
    await t.append(f"{p}.x0", b"5")
    await elapse(0.2)
    assert seen == wanted


@scenario
async def test_follow_through_a_lost_connection(world: World) -> None:
    """What was stored while the connection was down is handed over after it, nothing twice."""
    a, b = await world.connect("a"), await world.connect("b")
    name, p = await stream(world, a)
    seen: list[bytes] = []
    follow = await b.follow(name, f"{p}.>", lambda message: seen.append(message.data), after=0)
    await a.append(f"{p}.x", b"1")
    await until(lambda: seen == [b"1"], "the first is seen")
    world.drop(b)
    await until(lambda: not b.connected, "the loss is noticed")
    await a.append(f"{p}.x", b"2")
    world.restore(b)
    await until(lambda: b.connected, "it is back")
    await a.append(f"{p}.x", b"3")
    await until(lambda: len(seen) >= 3, "the rest is seen")
    await elapse(0.2)
    assert seen == [b"1", b"2", b"3"]
    await follow.stop()


# -- core NATS


@scenario
async def test_request(world: World) -> None:
    """A request gets its answer; without a service it fails at once, with a mute one in time."""
    a, b = await world.connect("a"), await world.connect("b")
    base = f"q{world.number}"
    tasks: list[asyncio.Task[None]] = []

    def answer(message: Incoming) -> None:
        reply = b.publish(message.reply, b"re:" + message.data, headers={"Echo": message.headers["Ask"]})
        tasks.append(asyncio.ensure_future(reply))

    serving = await b.subscribe(f"{base}.*", answer)
    mute = await b.subscribe(f"mute.{base}", lambda message: None)
    reply = await a.request(f"{base}.x", b"hi", headers={"Ask": "1"})
    assert (reply.data, reply.headers["Echo"]) == (b"re:hi", "1")
    with pytest.raises(NoResponders):
        await a.request(f"none.{base}", b"hi")
    with pytest.raises(RequestTimeout):
        await a.request(f"mute.{base}", b"hi", timeout=0.2)
    await serving.stop()
    await serving.stop()
    await b.flush()
    with pytest.raises(NoResponders):
        await a.request(f"{base}.x", b"hi", headers={"Ask": "2"})
    await mute.stop()
    await asyncio.gather(*tasks)


@scenario
async def test_subscriptions_and_queue_groups(world: World) -> None:
    """Every plain subscriber gets a message, of a queue group one."""
    a, b = await world.connect("a"), await world.connect("b")
    base = f"s{world.number}"
    plain: list[bytes] = []
    grouped: list[bytes] = []
    made = [
        await a.subscribe(f"{base}.>", lambda message: plain.append(message.data)),
        await b.subscribe(f"{base}.*", lambda message: plain.append(message.data)),
        await a.subscribe(f"{base}.x", lambda message: grouped.append(message.data), queue="g"),
        await b.subscribe(f"{base}.x", lambda message: grouped.append(message.data), queue="g"),
    ]
    for n in range(10):
        await a.publish(f"{base}.x", str(n).encode())
    await a.flush()
    await until(lambda: len(plain) == 20 and len(grouped) == 10, "all have arrived")
    await elapse(0.1)
    assert (len(plain), sorted(grouped)) == (20, [str(n).encode() for n in range(10)])
    for one in made:
        await one.stop()


# -- lost connections


@scenario
async def test_lost_connection_fails_what_waits(world: World) -> None:
    """At a disconnect every unanswered call fails at once; while it is down calls fail without being queued."""
    a, b = await world.connect("a"), await world.connect("b")
    name, p = await stream(world, a)
    base = f"l{world.number}"
    mute = await a.subscribe(base, lambda message: None)
    changes: list[bool] = []
    b.on_change(changes.append)
    asking = asyncio.ensure_future(b.request(base, b"x", timeout=30))
    await elapse(0.1)
    world.drop(b)
    with pytest.raises(Disconnected):
        await asking
    await until(lambda: not b.connected, "the loss is noticed")
    assert changes == [False]
    with pytest.raises(OutcomeUnknown):
        await b.append(f"{p}.x", b"queued?")
    with pytest.raises(Disconnected):
        await b.publish(f"{p}.x", b"queued?")
    with pytest.raises(Disconnected):
        await b.request(base, b"x")
    with pytest.raises((Disconnected, RequestTimeout)):
        await b.last(name, f"{p}.x")
    await b.ack(f"$JS.ACK.{name}.c.1.1.1.1.0")
    world.restore(b)
    await until(lambda: b.connected, "it is back")
    await until(lambda: changes == [False, True], "both changes are told")
    await b.flush()
    assert await a.last(name, f"{p}.x") is None
    assert (await b.append(f"{p}.x", b"new")).sequence == 1
    await mute.stop()


@scenario
async def test_subscriptions_and_pulls_come_back(world: World) -> None:
    """Subscriptions and pulls go on after a reconnect; what was delivered before and not acknowledged comes again."""
    a, b = await world.connect("a"), await world.connect("b")
    name, p = await work_queue(world, a)
    heard: list[bytes] = []
    subscription = await b.subscribe(f"h{world.number}", lambda message: heard.append(message.data))
    box = Box(b)
    pull = await box.open(name, "c")
    await a.append(f"{p}.1", b"1")
    await until(lambda: box.got, "the first is delivered")
    world.drop(b)
    await until(lambda: not b.connected, "the loss is noticed")
    await a.append(f"{p}.2", b"2")
    world.restore(b)
    await until(lambda: b.connected, "it is back")

    async def listens() -> bool:
        await a.publish(f"h{world.number}", b"there?")
        return bool(heard)

    await until_true(listens, "the subscription is back")
    await until(
        lambda: {1, 2} <= {one.sequence for one in box.got if one.count > 1 or one.sequence == 2}, "both come"
    )
    assert box.got[0].count == 1
    for delivery in box.got:
        await b.ack(delivery.ack_subject)
    await b.flush()
    await subscription.stop()
    await pull.stop()


# -- assets


@scenario
async def test_drift(world: World) -> None:
    """An asset that differs from what is declared is named with each field; nothing is changed."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    from jetloom.transport import StreamAsset

    await t.ensure(StreamAsset(name=name, subjects=(f"{p}.>",), storage="memory"))
    with pytest.raises(AssetDrifted) as drifted:
        await t.ensure(
            StreamAsset(name=name, subjects=(f"{p}.>",), storage="memory", rollup=True, duplicate_window=30)
        )
    text = str(drifted.value)
    assert name in text
    assert "rollup" in text
    assert "duplicate_window" in text
    await t.ensure(ConsumerAsset(stream=name, name="c", ack_wait=2))
    await t.ensure(ConsumerAsset(stream=name, name="c", ack_wait=2))
    with pytest.raises(AssetDrifted, match="ack_wait"):
        await t.ensure(ConsumerAsset(stream=name, name="c", ack_wait=3))


@scenario
async def test_assets_listed_and_removed(world: World) -> None:
    """Streams are listed by prefix; a removed one is gone with its consumers."""
    t = await world.connect("a")
    name, _ = await stream(world, t)
    await t.ensure(ConsumerAsset(stream=name, name="c"))
    assert await t.assets(name) == [name]
    assert await t.remove(name, "c")
    assert await t.consumer_state(name, "c") is None
    assert await t.remove(name)
    assert await t.stream_state(name) is None


@scenario
async def test_consumer_of_no_stream(world: World) -> None:
    """A consumer of a stream that does not exist is refused."""
    t = await world.connect("a")
    with pytest.raises(Refused) as refused:
        await t.ensure(ConsumerAsset(stream="NOSUCH", name="c"))
    assert refused.value.server_code == 10059


@scenario
async def test_close(world: World) -> None:
    """Closing sends what was published before, and may be done twice."""
    a, b = await world.connect("a"), await world.connect("b")
    name, p = await stream(world, a)
    await b.publish(f"{p}.x", b"last words")
    await b.close()
    await b.close()

    async def stored() -> bool:
        return await a.last(name, f"{p}.x") is not None

    await until_true(stored, "it is stored")
