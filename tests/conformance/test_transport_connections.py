"""The transport's contract for core NATS, follows, lost connections and assets, on the twin and on a real server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jetloom.errors import (
    AssetDrifted,
    Disconnected,
    NoResponders,
    OutcomeUnknown,
    Refused,
    RequestTimeout,
)
from jetloom.transport import (
    ConsumerAsset,
    Incoming,
    Stored,
    StreamAsset,
    Write,
)
from tests.conformance.world import Box, World, elapse, scenario, stream, until, until_true, work_queue

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
async def test_follow_from_far_behind(world: World) -> None:
    """More than a few are read in pages: all are handed over, in order and once, and then what is new."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.append_all([Write(f"{p}.x{n % 7}", b"") for n in range(600)])
    seen: list[int] = []
    follow = await t.follow(name, f"{p}.*", lambda message: seen.append(message.sequence), after=20)
    await until(lambda: len(seen) >= 580, "all that is stored is seen")
    await t.append(f"{p}.new", b"")
    await until(lambda: len(seen) >= 581, "what is new is seen")
    assert seen == list(range(21, 602))
    await follow.stop()


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
