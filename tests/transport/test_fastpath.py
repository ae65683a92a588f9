"""The hot path's own parts: the parser, the deadlines, and a server that does what servers seldom do."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from nats.aio.client import Client
from nats.aio.transport import TcpTransport
from nats.errors import ProtocolError

from jetloom.errors import Disconnected, OutcomeUnknown, Refused, RequestTimeout
from jetloom.testing import run_virtual
from jetloom.transport import Incoming
from jetloom.transport._fastpath import REACHED_INTO, FastLink
from jetloom.transport._link import PENDING_BYTES_MAX, SWEEP_SECONDS, Answers, NoAnswer
from jetloom.transport._wire import Head
from tests.transport.fake import FakeServer, connected, fake_server, until

# -- what is reached into


def test_what_is_reached_into_is_there() -> None:
    """Every inner name of nats-py that the hot path uses exists; if one has gone, nats-py's pin must not move."""

    async def main() -> None:
        client, stream = Client(), TcpTransport()
        gone = [name for name in REACHED_INTO if not hasattr(client, name)]
        gone += [f"TcpTransport.{name}" for name in ("_io_reader", "_io_writer") if not hasattr(stream, name)]
        assert gone == [], (
            f"this nats-py has no {gone} any more: look at transport/_fastpath.py before the pin moves"
        )
        assert isinstance(client._pending, list)
        assert isinstance(client._subs, dict)

    asyncio.run(main())


# -- the parser


class Recorder(FastLink):
    """A link without a connection, that keeps what the parser makes of its bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._status = Client.CONNECTED
        self.seen: list[object] = []
        self.listen("s", self._take)
        self.expect_answers("_INBOX.me")

    def _take(self, subject: str, reply: str, head: Head, data: bytes) -> None:
        self.seen.append((subject, reply, head.status, dict(head.headers), data))

    async def _process_err(self, err_msg: str) -> None:
        self.seen.append(err_msg)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        self.seen.append(info)


_data = some.binary(max_size=40) | some.sampled_from([b"\r\n", b"MSG s 1 2\r\nxx\r\n", b"PING\r\n", b""])
_reply = some.sampled_from(["", "r.1", "$JS.ACK.S.c.1.2.3.4.5"])


@some.composite
def frames(draw: some.DrawFn) -> tuple[bytes, list[object]]:
    """Bytes of the protocol, and what they mean."""
    wire, seen = b"", list[object]()
    for _ in range(draw(some.integers(0, 8))):
        kind = draw(
            some.sampled_from(["msg", "hmsg", "status", "ping", "pong", "ok", "err", "info", "other"])
        )
        data, reply = draw(_data), draw(_reply)
        between = f" {reply}" if reply else ""
        match kind:
            case "msg":
                wire += f"MSG s.x 1{between} {len(data)}\r\n".encode() + data + b"\r\n"
                seen.append(("s.x", reply, 0, dict[str, str](), data))
            case "hmsg":
                block = b"NATS/1.0\r\nA: b\r\nC: d: e\r\n\r\n"
                sizes = f"{len(block)} {len(block) + len(data)}"
                wire += f"HMSG s.y 1{between} {sizes}\r\n".encode() + block + data + b"\r\n"
                seen.append(("s.y", reply, 0, {"A": "b", "C": "d: e"}, data))
            case "status":
                block = b"NATS/1.0 408 Request Timeout\r\nN: 1\r\n\r\n"
                wire += f"HMSG s 1 {len(block)} {len(block)}\r\n".encode() + block + b"\r\n"
                seen.append(("s", "", 408, {"N": "1"}, b""))
            case "ping":
                wire += b"PING\r\n"
            case "pong":
                wire += b"PONG\r\n"
            case "ok":
                wire += b"+OK\r\n"
            case "err":
                wire += b"-ERR 'Some Trouble'\r\n"
                seen.append("'Some Trouble'")
            case "info":
                wire += b'INFO {"ldm":true}\r\n'
                seen.append({"ldm": True})
            case _:
                wire += f"MSG z 77 {len(data)}\r\n".encode() + data + b"\r\n"
    return wire, seen


@given(frames(), some.lists(some.integers(0, 400), max_size=30))
def test_frames_split_anywhere(frame: tuple[bytes, list[object]], cuts: list[int]) -> None:
    """However the bytes are cut, the same messages come out."""
    wire, expected = frame

    async def main() -> None:
        at = sorted({cut for cut in cuts if cut < len(wire)})
        for bounds in ([0, *at, len(wire)], list(range(len(wire) + 1))):
            link = Recorder()
            for begin, end in pairwise(bounds):
                link.feed(wire[begin:end])
            assert link.seen == expected
            assert (link._have, link._out.count(b"PONG\r\n")) == (0, _pings(wire, expected))

    asyncio.run(main())


def _pings(wire: bytes, expected: list[object]) -> int:
    """PINGs that are commands, not payload."""
    link = Recorder()
    link.feed(wire)
    assert link.seen == expected
    return link._out.count(b"PONG\r\n")


def test_every_boundary() -> None:
    """A recorded stream is cut in two at each of its bytes."""
    block = b"NATS/1.0\r\nK: v\r\n\r\n"
    wire = (
        b"PING\r\nMSG s 1 5\r\nhello\r\n+OK\r\n"
        + b"HMSG s 1 r %d %d\r\n" % (len(block), len(block) + 2)
        + block
        + b"\r\n\r\nPONG\r\nMSG s 1 r 0\r\n\r\n-ERR 'x'\r\n"
    )

    async def main() -> None:
        for cut in range(len(wire) + 1):
            link = Recorder()
            link.feed(wire[:cut])
            link.feed(wire[cut:])
            assert link.seen == [
                ("s", "", 0, {}, b"hello"),
                ("s", "r", 0, {"K": "v"}, b"\r\n"),
                ("s", "r", 0, {}, b""),
                "'x'",
            ]

    asyncio.run(main())


def test_a_large_message_in_many_pieces() -> None:
    """A payload that comes in thousands of pieces is put together once."""

    async def main() -> None:
        link, data = Recorder(), bytes(range(256)) * 8192
        wire = b"MSG s 1 %d\r\n" % len(data) + data + b"\r\nMSG s 1 1\r\nx\r\n"
        for at in range(0, len(wire), 1024):
            link.feed(wire[at : at + 1024])
        assert [one[4] for one in link.seen if isinstance(one, tuple)] == [data, b"x"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "line",
    [b"HELLO\r\n", b"MSG s 1\r\n", b"MSG s 1 x\r\n", b"MOG s 1 2\r\n", b"INFO {\r\n", b"x" * (1 << 21)],
)
def test_what_is_no_protocol(line: bytes) -> None:
    """Bytes that mean nothing end the connection instead of being skipped."""

    async def main() -> None:
        with pytest.raises(ProtocolError):
            Recorder().feed(line)

    asyncio.run(main())


def test_a_handlers_bug_ends_nothing() -> None:
    """A handler that raises is logged; the rest of the same bytes is delivered."""

    async def main() -> None:
        link = Recorder()
        seen: list[bytes] = []

        def handler(subject: str, reply: str, head: Head, data: bytes) -> None:
            seen.append(data)
            raise ValueError("a bug")

        sid = link.listen("t", handler)
        link.feed(b"MSG t %d 1\r\na\r\nMSG t %d 1\r\nb\r\n" % (sid, sid))
        assert seen == [b"a", b"b"]

    asyncio.run(main())


# -- deadlines


def test_every_call_ends_at_its_time() -> None:
    """One timer serves them all: nobody's call ends early, and none is noticed later than a sweep."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        answers = Answers(loop)
        late: list[float] = []

        async def call(timeout: float) -> None:
            begun = loop.time()
            _, future = answers.add("s", timeout, None)
            with pytest.raises(NoAnswer, match="late"):
                await future
            late.append(loop.time() - begun - timeout)

        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(call(0.01 + (number * 37 % 100) / 50))
                await asyncio.sleep(0.003)
        assert len(late) == 300
        assert -1e-6 <= min(late) <= max(late) <= SWEEP_SECONDS + 1e-6
        assert (answers.waiting, answers._timer) == ({}, None)

    run_virtual(main, seed=1)


# -- a server that does what servers seldom do


async def test_pings_are_answered() -> None:
    """The server's ping is answered at once."""
    async with fake_server() as fake, connected(fake):
        fake.send(b"PING\r\n")
        await until(lambda: b"PONG" in fake.lines, "a PONG arrives")


@pytest.mark.parametrize(
    "error", ["User Authentication Expired", "Slow Consumer", "Stale Connection", "Unknown"]
)
async def test_an_error_makes_a_new_connection(error: str) -> None:
    """Whatever the server says before it hangs up: calls fail at once, the next connection works."""
    async with fake_server() as fake, connected(fake) as transport:
        changes: list[bool] = []
        transport.on_change(changes.append)
        heard: list[Incoming] = []
        await_subscription = asyncio.ensure_future(transport.subscribe("s", heard.append))
        await until(lambda: any(line.startswith(b"SUB s ") for line in fake.lines), "it subscribed")
        asking = asyncio.ensure_future(transport.request("q", b"", timeout=60))
        await until(lambda: any(line.startswith(b"PUB q ") for line in fake.lines), "it asked")
        fake.send(f"-ERR '{error}'\r\n".encode())
        with pytest.raises(Disconnected):
            await asking
        await await_subscription
        await until(lambda: changes == [False, True], "it is back")
        assert fake.connections == 2
        sid = next(line.split()[-1] for line in fake.lines if line.startswith(b"SUB s "))
        fake.send(b"MSG s %b 2\r\nhi\r\n" % sid)
        await until(lambda: [one.data for one in heard] == [b"hi"], "the subscription is back")


async def test_what_permissions_forbid() -> None:
    """A write that permissions forbid is refused at once by its name; the connection and other calls stay."""
    async with fake_server() as fake, connected(fake) as transport:

        def deny(line: bytes) -> None:
            words = line.split()
            if words[:1] == [b"PUB"] and words[1].startswith(b"No."):
                fake.send(b"-ERR 'Permissions Violation for Publish to \"%b\"'\r\n" % words[1])

        fake.on_line = deny
        other = asyncio.ensure_future(transport.append("yes.x", b"", timeout=60))
        with pytest.raises(Refused, match="Permissions Violation"):
            await transport.append("No.x", b"", timeout=60)
        with pytest.raises(RequestTimeout, match="Permissions Violation"):
            await transport.request("No.y", b"", timeout=60)
        assert not other.done()
        assert (fake.connections, transport.connected) == (1, True)
        other.cancel()


async def test_a_server_in_lame_duck_mode() -> None:
    """The server's word that it will leave changes nothing yet; a new limit counts after the next connection."""
    async with fake_server() as fake, connected(fake) as transport:
        fake.send(b'INFO {"ldm":true,"connect_urls":[]}\r\nPING\r\n')
        await until(lambda: b"PONG" in fake.lines, "it goes on")
        assert (fake.connections, transport.connected) == (1, True)
        fake.stamp = {"max_payload": 100}
        fake.hang_up()
        await until(lambda: transport.server.max_payload == 100, "the new server's word counts")


async def test_half_a_message_is_none() -> None:
    """What a lost connection left incomplete is neither delivered nor completed by the next one."""
    async with fake_server() as fake, connected(fake) as transport:
        heard: list[bytes] = []
        link = transport.link
        sid = link.listen("s", lambda subject, reply, head, data: heard.append(data))
        fake.send(b"MSG s %d 10\r\nhalf" % sid)
        assert isinstance(link, FastLink)
        await until(lambda: link._have, "half of it is here")
        fake.hang_up()
        await until(lambda: fake.connections == 2 and transport.connected, "it is back")
        fake.send(b"MSG s %d 5\r\nwhole\r\n" % sid)
        await until(lambda: heard, "the next one is here")
        assert heard == [b"whole"]


async def stuffed(fake: FakeServer, link: FastLink, publish: Any) -> list[asyncio.Task[None]]:
    """Publishes until senders wait, with a server that does not read."""
    fake.reading.clear()
    senders = [asyncio.ensure_future(publish(number)) for number in range(600)]
    await until(lambda: link._senders, "senders wait")
    return senders


async def test_senders_wait_for_a_server_that_does_not_read() -> None:
    """What is queued is bounded; when the server reads again, everything arrives in order."""
    async with fake_server() as fake, connected(fake) as transport:
        link, data = transport.link, b"x" * 65_000
        assert isinstance(link, FastLink)

        async def publish(number: int) -> None:
            await transport.publish(f"n.{number}", data)

        senders = await stuffed(fake, link, publish)
        assert link._out_bytes <= PENDING_BYTES_MAX + 2 * (len(data) + 64)
        assert not all(sender.done() for sender in senders)
        fake.reading.set()
        await asyncio.gather(*senders)
        await until(lambda: fake.lines.count(data) == 600, "all has arrived")
        subjects = [line.split()[1] for line in fake.lines if line.startswith(b"PUB n.")]
        assert subjects == [b"n.%d" % number for number in range(600)]


async def test_waiting_senders_can_be_cancelled() -> None:
    """Senders that are cancelled while they wait for room leave the others their turn."""
    async with fake_server() as fake, connected(fake) as transport:
        link, data = transport.link, b"x" * 65_000
        assert isinstance(link, FastLink)

        async def publish(number: int) -> None:
            await transport.publish(f"n.{number}", data)

        senders = await stuffed(fake, link, publish)
        waiting = [sender for sender in senders if not sender.done()]
        for sender in waiting[:-1]:
            sender.cancel()
        fake.reading.set()
        await asyncio.wait_for(waiting[-1], 15)
        await until(lambda: not link._senders, "nobody waits")


async def test_a_full_socket_does_not_hold_the_reconnect_up() -> None:
    """A peer that reads nothing any more is left behind with what it did not take, and senders are told."""
    async with fake_server() as fake, connected(fake) as transport:
        link = transport.link
        assert isinstance(link, FastLink)

        async def append(number: int) -> None:
            await transport.append(f"n.{number}", b"x" * 65_000, timeout=60)

        senders = await stuffed(fake, link, append)
        await link.force_reconnect()
        ends = await asyncio.wait_for(asyncio.gather(*senders, return_exceptions=True), 15)
        assert all(isinstance(end, OutcomeUnknown) for end in ends)
        await until(lambda: fake.connections == 2 and transport.connected, "it is back")
        fake.reading.set()
        await until(lambda: any(line.startswith(b"SUB _INBOX") for line in fake.lines), "it subscribes again")
        assert not any(line.startswith(b"PUB n.") for line in fake.lines)
