"""The hot path on a real server: losses in the middle of a burst, limits, closing, cancelled callers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from jetloom.errors import NatsUnavailable, OutcomeUnknown
from jetloom.transport import ConsumerAsset, Delivery, EmbeddedServer, NatsTransport, StreamAsset, connect
from jetloom.transport._fastpath import FastLink
from jetloom.transport._pull import NatsPull
from tests.conformance.world import Proxy
from tests.transport.fake import until


@pytest.fixture(params=["own", "nats-py's"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who reads from the socket: our protocol, or nats-py, as on TLS connections."""
    monkeypatch.setattr(FastLink, "reads_itself", request.param == "own")
    return str(request.param)


@asynccontextmanager
async def relayed(url: str) -> AsyncGenerator[tuple[NatsTransport, Proxy]]:
    """A connection that can be cut."""
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "", parts.port or 0)
    await proxy.start()
    transport = await connect(f"nats://127.0.0.1:{proxy.port}", name="relayed", hot_path=True)
    try:
        yield transport, proxy
    finally:
        proxy.mend()
        await transport.close()
        await proxy.stop()


async def burst(transport: NatsTransport, name: str, strike: Callable[[], None]) -> list[int]:
    """Many writers; after 300 acknowledgements `strike` happens. The acknowledged sequences."""
    acknowledged: list[int] = []
    ends = 0
    struck = False

    async def write(number: int) -> None:
        nonlocal ends, struck
        for turn in range(20):
            try:
                stored = await transport.append(f"{name}.{number}", b"x" * 200, timeout=60)
            except OutcomeUnknown:
                break
            acknowledged.append(stored.sequence)
            if len(acknowledged) >= 300 and not struck:
                struck = True
                strike()
            assert turn < 20
        ends += 1

    # Every call ends by itself, far below its timeout: at a loss all of them fail at once.
    await asyncio.wait_for(asyncio.gather(*(write(number) for number in range(100))), 30)
    assert (struck, ends) == (True, 100)
    assert transport.link.answers.waiting == {}
    return acknowledged


async def test_cut_in_a_burst(nats_url: str, transport: NatsTransport, reading: str) -> None:
    """Every call ends at the cut; what was acknowledged is stored, and nothing from before is sent after it."""
    name = f"CUT{reading[:3]}"
    await transport.ensure(StreamAsset(name=name, subjects=(f"{name}.>",), storage="memory"))
    async with relayed(nats_url) as (burdened, proxy):
        acknowledged = await burst(burdened, name, proxy.cut)
        await transport.flush()
        state = await transport.stream_state(name)
        assert state is not None
        proxy.mend()
        await until(lambda: burdened.connected, "it is back")
        await burdened.flush()
        assert await transport.stream_state(name) == state
        assert len(acknowledged) <= state.messages
        assert len(set(acknowledged)) == len(acknowledged)
        assert max(acknowledged) <= state.last
        assert (await burdened.append(f"{name}.new", b"")).sequence == state.last + 1
    await transport.remove(name)


async def test_killed_in_a_burst(tmp_path: Path, reading: str) -> None:
    """SIGKILL of the server in a burst, and a restart on its store: what was acknowledged is there."""
    async with EmbeddedServer(tmp_path, 0) as server:
        transport = await connect(server.url, name="test", hot_path=True)
        await transport.ensure(StreamAsset(name="K", subjects=("K.>",)))
        acknowledged = await burst(transport, "K", server.kill)
        await server.start()
        await until(lambda: transport.connected, "it is back")
        state = await transport.stream_state("K")
        assert state is not None
        assert max(acknowledged) <= state.last
        assert len(set(acknowledged)) == len(acknowledged) <= state.messages
        assert (await transport.append("K.new", b"")).sequence == state.last + 1
        await transport.close()


async def test_largest_message_and_headers(transport: NatsTransport, reading: str) -> None:
    """A message of the largest size with huge headers comes back as it was sent."""
    await transport.ensure(StreamAsset(name="LARGE", subjects=("large.>",), storage="memory"))
    headers = {f"H{number}": "ü" * 500 for number in range(50)}
    data = random.Random(1).randbytes(transport.server.max_payload - 60_000)
    await transport.append("large.x", data, headers=headers)
    found = await transport.last("LARGE", "large.x")
    assert found is not None
    assert (found.data, found.headers) == (data, headers)
    await transport.remove("LARGE")


async def test_callers_cancelled_at_random(transport: NatsTransport, reading: str) -> None:
    """Callers that are cancelled at any moment leave nothing behind, and take nobody's answer."""
    await transport.ensure(StreamAsset(name="CANCEL", subjects=("cancel.>",), storage="memory"))
    dice = random.Random(2)

    async def write(number: int) -> tuple[int, bytes]:
        stored = await transport.append("cancel.x", b"%d" % number)
        return stored.sequence, b"%d" % number

    writers = [asyncio.ensure_future(write(number)) for number in range(1000)]
    while not all(writer.done() for writer in writers):
        dice.choice(writers).cancel()
        await asyncio.sleep(0)
    ends = await asyncio.gather(*writers, return_exceptions=True)
    told = dict(end for end in ends if not isinstance(end, BaseException))
    await transport.flush()
    for stored in await transport.read("CANCEL", "cancel.>", limit=1000):
        assert told.get(stored.sequence, stored.data) == stored.data
    assert transport.link.answers.waiting == {}
    await transport.remove("CANCEL")


async def test_two_connections(nats_url: str, reading: str) -> None:
    """Two connections of one process do not hear each other's answers, and each keeps its own order."""
    one, two = [await connect(nats_url, name=name, hot_path=True) for name in ("one", "two")]
    await one.ensure(StreamAsset(name="TWO", subjects=("two.>",), storage="memory"))
    both = await asyncio.gather(*(t.append(f"two.{n % 2}", b"") for n in range(400) for t in (one, two)))
    assert sorted(stored.sequence for stored in both) == list(range(1, 801))
    for own in (both[0::2], both[1::2]):
        assert [stored.sequence for stored in own] == sorted(stored.sequence for stored in own)
    await one.remove("TWO")
    await one.close()
    await two.close()


async def test_closing_sends_what_is_queued(nats_url: str, transport: NatsTransport, reading: str) -> None:
    """What was published before `close` arrives, all of it and in order; a closed connection says so."""
    heard: list[bytes] = []
    listening = await transport.subscribe("closing", lambda message: heard.append(message.data))
    leaving = await connect(nats_url, name="leaving", hot_path=True)
    for number in range(2000):
        await leaving.publish("closing", b"%d" % number + b"x" * 1000)
    await leaving.close()
    await until(lambda: len(heard) == 2000, "all has arrived")
    assert [one.partition(b"x")[0] for one in heard] == [b"%d" % number for number in range(2000)]
    with pytest.raises(OutcomeUnknown):
        await leaving.append("closing", b"")
    await listening.stop()


async def drained(transport: NatsTransport, name: str, messages: int, size: int) -> int:
    """Stores messages, pulls and acknowledges all of them with a capacity of 256; requests that it took."""
    await transport.ensure(
        StreamAsset(
            name=name, subjects=(f"{name}.>",), retention="workqueue", discard="new", storage="memory"
        )
    )
    await transport.ensure(ConsumerAsset(stream=name, name="c", ack_pending_max=10_000))
    data = b"x" * size
    for begin in range(0, messages, 50):
        await asyncio.gather(*(transport.append(f"{name}.{n}", data) for n in range(begin, begin + 50)))
    seen: set[int] = set()
    counts: list[int] = []

    def take(delivery: Delivery) -> None:
        seen.add(delivery.sequence)
        counts.append(delivery.count)
        transport.link.send(delivery.ack_subject, "", b"", b"+ACK")

    pull = await transport.pull(name, "c", take, capacity=lambda: 256, expiry=1.0, batch=256)
    await until(lambda: len(seen) == messages, "all is delivered")
    assert isinstance(pull, NatsPull)
    requests = pull.requests
    await transport.flush()
    await pull.stop()
    assert set(counts) == {1}
    await transport.remove(name)
    return requests


async def test_few_pull_requests(transport: NatsTransport, reading: str) -> None:
    """Pulled with a capacity of 256, twenty messages and more come with one request."""
    assert await drained(transport, "FEW", 4000, 100) < 4000 * 0.05


async def test_a_pull_of_large_messages_is_bounded(transport: NatsTransport, reading: str) -> None:
    """Requests end at their bytes: a client that pulls large messages is not cut off as a slow consumer."""
    changes: list[bool] = []
    transport.on_change(changes.append)
    await drained(transport, "WIDE", 150, transport.server.max_payload - 1000)
    assert changes == []


async def test_nobody_at_the_other_end() -> None:
    """Without a server both ways of connecting say so."""
    for hot_path in (True, False):
        with pytest.raises(NatsUnavailable):
            await connect("nats://127.0.0.1:1", timeout=0.5, hot_path=hot_path)
