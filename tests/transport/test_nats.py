"""What only the real connection can get wrong: sizes, lines of the protocol, batches, a server that restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from jetloom.errors import Disconnected, NameInvalid, OutcomeUnknown, PayloadTooLarge, Refused
from jetloom.transport import EmbeddedServer, NatsTransport, Stored, StreamAsset, connect
from jetloom.transport._fastpath import FastLink

WAIT_SECONDS = 15.0


async def until_connected(transport: NatsTransport, wanted: bool) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while transport.connected is not wanted:
            await asyncio.sleep(0.005)


async def test_headers_count_as_payload(transport: NatsTransport) -> None:
    """A message that only its headers make too large is refused here; the connection stays."""
    changes: list[bool] = []
    transport.on_change(changes.append)
    data = b"x" * (transport.server.max_payload - 10)
    with pytest.raises(PayloadTooLarge):
        await transport.append("size.x", data, headers={"A": "y" * 100})
    with pytest.raises(PayloadTooLarge):
        await transport.publish("size.x", data, headers={"A": "y" * 100})
    await transport.flush()
    assert (transport.connected, changes) == (True, [])


@pytest.mark.parametrize("subject", ["", "a b", "a\tb", "x 0\r\n\r\nPUB inject.y"])
async def test_a_subject_is_one_word(transport: NatsTransport, subject: str) -> None:
    """A subject that would end the protocol's line is refused, so that nobody's input becomes a command."""
    with pytest.raises(NameInvalid):
        await transport.publish(subject, b"")
    with pytest.raises(NameInvalid):
        await transport.append(subject, b"")
    with pytest.raises(NameInvalid):
        await transport.publish("fine", b"", reply=subject or " ")
    with pytest.raises(NameInvalid):
        await transport.subscribe(subject, lambda message: None)


async def test_a_read_is_not_cut_short(transport: NatsTransport) -> None:
    """A page above the 64 MiB at which the server ends a batch is complete."""
    await transport.ensure(StreamAsset(name="BIG", subjects=("big.>",), storage="memory"))
    chunk = b"x" * (900 * 1024)
    for number in range(80):
        await transport.append(f"big.{number}", chunk)
    found = await transport.read("BIG", "big.>", limit=100)
    assert [one.sequence for one in found] == list(range(1, 81))
    assert len(await transport.read("BIG", "big.>", after=2, limit=75)) == 75
    await transport.remove("BIG")


async def test_a_stream_that_takes_more_subjects_than_it_did(transport: NatsTransport) -> None:
    """Who asked for all of a stream gets what it asked for, also when the stream has come to hold more."""
    await transport.ensure(StreamAsset(name="GROWS", subjects=("grows.a.>",), storage="memory"))
    await transport.append("grows.a.1", b"")
    assert len(await transport.read("GROWS", "grows.a.>")) == 1
    config = msgspec.json.decode(await transport.api("STREAM.INFO.GROWS"))["config"]
    await transport.api("STREAM.UPDATE.GROWS", {**config, "subjects": ["grows.a.>", "grows.b.>"]})
    await transport.append("grows.b.1", b"")
    await transport.append("grows.a.2", b"")
    for _ in range(2):
        found = await transport.read("GROWS", "grows.a.>")
        assert [one.subject for one in found] == ["grows.a.1", "grows.a.2"]
    await transport.remove("GROWS")


async def test_a_subscription_that_was_given_up_is_none(transport: NatsTransport) -> None:
    """Who is cancelled before it has its subscription leaves none behind: nobody could stop it."""
    link = transport.link
    assert isinstance(link, FastLink)
    before = len(link._subs)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await transport.subscribe("given.up", lambda message: None)
    assert len(link._subs) == before


async def test_a_follow_of_no_stream_is_refused(transport: NatsTransport) -> None:
    """A follow does not wait for a stream that nobody made: it says so at once."""
    with pytest.raises(Refused) as refused:
        await transport.follow("NOSUCH", "no.>", lambda message: None, after=0)
    assert refused.value.server_code == 10059


async def test_a_follow_outlives_its_handlers_bug(transport: NatsTransport) -> None:
    """A handler that raises is logged, and the next message is handed over."""
    await transport.ensure(StreamAsset(name="BUG", subjects=("bug.>",), storage="memory"))
    seen: list[int] = []
    arrived = asyncio.Event()

    def handler(message: Stored) -> None:
        seen.append(message.sequence)
        if message.sequence == 1:
            raise ValueError("a bug")
        arrived.set()

    follow = await transport.follow("BUG", "bug.>", handler, after=0)
    await transport.append("bug.x", b"")
    await transport.append("bug.x", b"")
    async with asyncio.timeout(WAIT_SECONDS):
        await arrived.wait()
    assert seen == [1, 2]
    await follow.stop()
    await transport.remove("BUG")


async def test_waiting_is_cancellable(transport: NatsTransport) -> None:
    """A deadline around a call ends it, and leaves no waiter behind."""
    mute = await transport.subscribe("mute", lambda message: None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await transport.request("mute", b"", timeout=30)
    assert transport.link.answers.waiting == {}
    await mute.stop()


async def test_nothing_is_sent_after_a_loss(transport: NatsTransport) -> None:
    """A sender that waits for room when the connection is lost fails, instead of sending after it."""
    link = transport.link
    assert isinstance(link, FastLink)
    link._out_bytes = 1 << 30
    sending = asyncio.ensure_future(transport.publish("crowded", b"x"))
    await asyncio.sleep(0)
    status, link._status = link._status, link.RECONNECTING
    link.lose()
    with pytest.raises(Disconnected):
        await sending
    assert (link._out, link._pending) == ([], [])
    link._status = status


async def test_server_killed_in_the_middle(tmp_path: Path) -> None:
    """SIGKILL fails what waits at once; after a restart the connection is back and acknowledged writes are there."""
    async with EmbeddedServer(tmp_path, 0) as server:
        transport = await connect(server.url, name="test")
        await transport.ensure(StreamAsset(name="KEPT", subjects=("kept.>",)))
        await transport.append("kept.x", b"1", expected=0)
        mute = await transport.subscribe("mute", lambda message: None)
        waiting = asyncio.ensure_future(transport.request("mute", b"", timeout=60))
        await transport.flush()
        server.kill()
        with pytest.raises(Disconnected):
            await asyncio.wait_for(waiting, WAIT_SECONDS)
        await until_connected(transport, False)
        with pytest.raises(OutcomeUnknown):
            await transport.append("kept.x", b"2")
        await server.start()
        await until_connected(transport, True)
        found = await transport.last("KEPT", "kept.x")
        assert found is not None
        assert (found.sequence, found.data) == (1, b"1")
        assert (await transport.append("kept.x", b"3", expected=1)).sequence == 2
        await mute.stop()
        await transport.close()
