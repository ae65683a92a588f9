"""The hot path: nats-py connects, authenticates, encrypts, pings and reconnects; the bytes between are ours.

- **Reading.** After the handshake a plain TCP connection gets our `asyncio.Protocol`, and what arrives is parsed where
  it lies, several hundred messages in one call. On TLS and WebSocket connections nats-py goes on reading and hands the
  bytes to the same parser. A message goes from the parser straight to its handler, or to the future of who waits for
  it; what belongs to a subscription of nats-py's own goes to nats-py.
- **Writing.** What is sent within one turn of the loop is one write. A call that nobody else waits beside is written
  at once. A socket that takes no more stops the writing, and above `PENDING_BYTES_MAX` the senders.
- **A loss** discards what is queued, aborts the socket (its unsent rest must not hold the reconnect up) and fails all
  that wait, in one turn.

Inner names of nats-py that are used stand in `REACHED_INTO`, and a test that they are there. Not guaranteed: nats-py's
own statistics, which count nothing of this.
"""

# What is reached into is listed, pinned and tested.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Coroutine
from typing import Any, cast, override

from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription
from nats.aio.transport import TcpTransport
from nats.errors import Error as NatsError
from nats.errors import ProtocolError, UnexpectedEOF

from ._link import (
    PENDING_BYTES_MAX,
    Answers,
    Collect,
    GuardedClient,
    NoAnswer,
    Received,
    ignore,
)
from ._wire import NO_HEAD, check_subject, denied_subject, parse_head

logger = logging.getLogger("jetloom.transport")

REACHED_INTO = (
    "_attempt_reconnect",
    "_close",
    "_connect_command",
    "_current_server",
    "_flush_queue",
    "_pending",
    "_pending_data_size",
    "_pings_outstanding",
    "_pongs",
    "_process_err",
    "_process_info",
    "_process_msg",
    "_process_op_err",
    "_ps",
    "_read_loop",
    "_server_info",
    "_sid",
    "_status",
    "_subs",
    "_transport",
)
"""Of `nats.aio.client.Client`. Of its `TcpTransport`: `_io_reader` and `_io_writer`."""

LINE_BYTES_MAX = 1 << 20
"""A line of the protocol without an end; the longest is INFO, which names every server of a cluster."""
CLOSE_SECONDS = 2.0
"""How long a close waits for the socket to take the rest."""
LOOK_SECONDS = 0.001
"""How often the queue is looked at on a connection that nats-py writes to, and that takes no more."""

_CRLF = b"\r\n"
_MESSAGE = b"MH"
_M, _H, _P, _MINUS, _PLUS, _I = b"MHP-+I"
_CONNECTED = Client.CONNECTED


class FastLink(GuardedClient):
    """One connection. See `Link`."""

    reads_itself = True
    """Whether a plain TCP connection is read by our protocol; False: nats-py reads and writes, as on TLS."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self.closing = False
        self.on_lost = ignore
        self.answers = Answers(self._loop)
        self._inbox = ""
        self._mux = b""
        self._mux_prefix = 0
        self._received: dict[bytes, Received] = {}
        self._wire: _Wire | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flushing = False
        self._senders: deque[tuple[asyncio.Future[None], int]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 0
        self._connection = 0
        """Counts connections: what the parser has left belongs to one of them."""
        self._ps = _Feed(self)  # pyright: ignore[reportAttributeAccessIssue]

    def server_info(self) -> dict[str, Any]:
        return self._server_info

    # -- sending
    def send(self, subject: str, reply: str, block: bytes, data: bytes) -> None:
        if self._status != _CONNECTED:
            return
        if not subject or " " in subject or not subject.isprintable():
            check_subject(subject)
        if reply:
            check_subject(reply)
            subject = f"{subject} {reply}"
        if block:
            size = len(block)
            total = size + len(data)
            self._out += (f"HPUB {subject} {size} {total}\r\n".encode(), block, data, _CRLF)
        else:
            total = len(data)
            self._out += (f"PUB {subject} {total}\r\n".encode(), data, _CRLF)
        self._out_bytes += total + 64
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _write(self, command: bytes) -> None:
        self._out.append(command)
        self._out_bytes += len(command)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write for everything that this turn brought. What cannot be written stays, in order."""
        self._flushing = False
        wire = self._wire
        if wire is not None:
            if wire.paused:
                return
            out, self._out = self._out, []
            if self._pending:
                # What nats-py wanted to write, or we before this connection was ours.
                out[:0] = self._pending
                self._pending = []
                self._pending_data_size = 0
            if out:
                wire.stream.write(b"".join(out))
        elif self._out:
            if self._pending_data_size > PENDING_BYTES_MAX:
                self._flushing = True
                self._loop.call_later(LOOK_SECONDS, self._flush)
                return
            self._pending.append(b"".join(self._out))
            self._pending_data_size += self._out_bytes
            self._out = []
            queue = self._flush_queue
            if queue is not None and queue.empty():
                queue.put_nowait(self._loop.create_future())
        self._out_bytes = 0
        if self._senders:
            self._admit()

    def _admit(self) -> None:
        """Lets in, in the order of their coming, as many senders as there is room for."""
        room = PENDING_BYTES_MAX
        while self._senders and room > 0:
            sender, size = self._senders.popleft()
            if not sender.done():
                room -= size
                sender.set_result(None)
        if self._senders and not self._flushing:
            # Also when none of those sends anything, being cancelled: the rest must not wait for them.
            self._flushing = True
            self._loop.call_soon(self._flush)

    async def room(self, size: int) -> None:
        if self._status != _CONNECTED:
            raise NoAnswer("gone")
        if self._out_bytes > PENDING_BYTES_MAX or self._senders:
            connection = self._connection
            sender: asyncio.Future[None] = self._loop.create_future()
            self._senders.append((sender, size))
            await sender
            if self._status != _CONNECTED or self._connection != connection:
                # Nothing decided before a loss is sent after it.
                raise NoAnswer("gone")

    # -- asking
    def expect_answers(self, inbox: str) -> None:
        self._inbox = inbox
        self._mux_prefix = len(inbox) + 1
        self._mux = b"%d" % self.listen(f"{inbox}.*", _nobody)

    async def ask(
        self, subject: str, block: bytes, data: bytes, timeout: float, collect: Collect | None = None
    ) -> tuple[Any, bytes]:
        if self._senders or self._out_bytes > PENDING_BYTES_MAX or self._status != _CONNECTED:
            await self.room(len(block) + len(data))
        if not subject or " " in subject or not subject.isprintable():
            check_subject(subject)
        answers = self.answers
        alone = not answers.waiting
        number, future = answers.add(subject, timeout, collect)
        if block:
            size = len(block)
            total = size + len(data)
            line = f"HPUB {subject} {self._inbox}.{number} {size} {total}\r\n".encode()
            self._out += (line, block, data, _CRLF)
        else:
            total = len(data)
            self._out += (f"PUB {subject} {self._inbox}.{number} {total}\r\n".encode(), data, _CRLF)
        self._out_bytes += total + 64
        if alone:
            # Nobody else is about to add to this write: the next turn would only be later.
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        try:
            return await future
        except asyncio.CancelledError:
            answers.waiting.pop(number, None)
            raise

    async def barrier(self, timeout: float) -> None:
        if self._status != _CONNECTED:
            raise NoAnswer("gone")
        number, future = self.answers.add(self._inbox, timeout, None)
        self.send(f"{self._inbox}.{number}", "", b"", b"")
        try:
            await future
        except asyncio.CancelledError:
            self.answers.waiting.pop(number, None)
            raise

    # -- subscriptions
    def listen(self, subject: str, received: Received, queue: str = "") -> int:
        check_subject(subject)
        if queue:
            check_subject(queue)
        self._sid += 1
        sid = self._sid
        # nats-py subscribes again, at a reconnect, to what stands in its table.
        self._subs[sid] = NatsSubscription(self, sid, subject, queue=queue)
        self._received[b"%d" % sid] = received
        if self._status == _CONNECTED:
            self._write(f"SUB {subject} {queue} {sid}\r\n".encode())
        return sid

    def silence(self, sid: int) -> None:
        if self._subs.pop(sid, None) is not None and self._status == _CONNECTED:
            self._write(b"UNSUB %d\r\n" % sid)

    def forget(self, sid: int) -> None:
        self.silence(sid)
        self._received.pop(b"%d" % sid, None)

    # -- reading
    def feed(self, data: bytes) -> None:
        """Parses what arrived. Raises `ProtocolError`."""
        if self._have:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts = []
            self._have = 0
        connection = self._connection
        end = len(data)
        at = 0
        need = 1
        find = data.find
        while at < end:
            stop = find(_CRLF, at)
            if stop < 0:
                if end - at > LINE_BYTES_MAX:
                    raise ProtocolError("nats: a line without an end")
                need = end - at + 1
                break
            first = data[at]
            if first not in _MESSAGE:
                self._control(first, data[at:stop])
                if self._connection != connection:
                    return
                at = stop + 2
                continue
            words = data[at:stop].split()
            try:
                # subject, sid, reply if any, size of the headers if any, size
                count = len(words) if first == _M else len(words) - 1
                if words[0] != (b"MSG" if first == _M else b"HMSG") or not 4 <= count <= 5:
                    raise ValueError
                size = int(words[-1])
                head_size = int(words[-2]) if first == _H else 0
                past = stop + 2 + size
                if past + 2 > end:
                    need = past + 2 - at
                    break
                subject, sid = words[1], words[2]
                reply = words[3] if count == 5 else b""
            except (ValueError, IndexError):
                raise ProtocolError(f"nats: malformed {words[0]!r}") from None
            body = stop + 2 + head_size
            block = data[stop + 2 : body] if head_size else b""
            at = past + 2
            try:
                if sid == self._mux:
                    number = int(subject[self._mux_prefix :])
                    self.answers.settle(number, parse_head(block) if block else NO_HEAD, data[body:past])
                elif (handler := self._received.get(sid)) is not None:
                    head = parse_head(block) if block else NO_HEAD
                    handler(subject.decode(), reply.decode(), head, data[body:past])
                elif int(sid) in self._subs:
                    self._run(self._process_msg(int(sid), subject, reply, data[body:past], block))
            except Exception:
                # A handler's bug must not end the reading, which would stop every other subscription too.
                logger.exception(
                    "a message handler failed", extra={"subject": subject.decode(errors="replace")}
                )
        if at < end and self._connection == connection:
            self._parts = [data[at:] if at else data]
            self._have = end - at
            self._need = need

    def _control(self, first: int, line: bytes) -> None:
        if first == _P and line.startswith(b"PING"):
            self._write(b"PONG\r\n")
        elif first == _P and line.startswith(b"PONG"):
            self._pings_outstanding = 0
            if self._pongs:
                waiting = cast("asyncio.Future[bool]", self._pongs.pop(0))
                if not waiting.done():
                    waiting.set_result(True)
        elif first == _PLUS and line.startswith(b"+OK"):
            pass
        elif first == _MINUS and line.startswith(b"-ERR"):
            self._run(self._process_err(line[4:].decode(errors="replace").strip()))
        elif first == _I and line.startswith(b"INFO"):
            try:
                known = json.loads(line[4:])
            except ValueError:
                raise ProtocolError("nats: malformed INFO") from None
            self._server_info = {**self._server_info, **known}
            self._run(self._process_info(known))
        else:
            raise ProtocolError(f"nats: unknown protocol {line[:40]!r}")

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """nats-py's handlers are coroutines that mostly end without waiting."""
        task = asyncio.Task(work, loop=self._loop, eager_start=True)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a handler of nats-py failed", exc_info=error)

    def forget_rest(self) -> None:
        """A new connection, or none: half of a message will not be completed."""
        self._connection += 1
        self._parts = []
        self._have = 0

    # -- the connection
    @override
    async def _read_loop(self) -> None:
        """nats-py starts this after each handshake."""
        taken = self._transport
        if not isinstance(taken, TcpTransport) or taken._io_writer is None or taken._io_reader is None:
            await super()._read_loop()  # WebSocket
            return
        # What StreamWriter.transport is declared as only writes; it is the socket's, which does both.
        stream = cast("asyncio.Transport", taken._io_writer.transport)
        if not self.reads_itself or stream.get_extra_info("sslcontext") is not None:
            await super()._read_loop()
            return
        reader = taken._io_reader
        wire = _Wire(self, stream, stream.get_protocol())
        stream.set_protocol(wire)
        self._wire = wire
        ended = reader.at_eof()
        reader.feed_eof()
        try:
            # What came together with the end of the handshake.
            wire.data_received(await reader.read(-1))
        except OSError as error:
            wire.broken(error)
            return
        if ended:
            wire.broken(UnexpectedEOF())
        elif not stream.is_reading():
            stream.resume_reading()
        self._flush()

    @override
    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes for good on most errors; whatever the server did not like, a new connection is the way on.
        if "permissions violation" in err_msg.lower():
            logger.warning("the server's permissions forbid something", extra={"error": err_msg})
            subject = denied_subject(err_msg)
            if subject:
                self.answers.deny(subject, err_msg.strip("'"))
            await super()._process_err(err_msg.lower())
            return
        await self._process_op_err(NatsError(f"nats: {err_msg}"))

    @override
    async def _process_op_err(self, e: Exception) -> None:
        if self.is_closed or self.is_reconnecting:
            return
        wire, self._wire = self._wire, None
        if wire is not None:
            # Not closed: that would wait until the peer has taken the rest, and it may be gone.
            wire.abort()
        await super()._process_op_err(e)
        self.lose()

    @override
    async def force_reconnect(self) -> None:
        if self.is_connected:
            await self._process_op_err(NatsError("nats: reconnecting as asked"))

    def lose(self) -> None:
        """The connection is gone: what was queued is discarded, every unanswered call fails."""
        self._pending = []
        self._pending_data_size = 0
        self._out = []
        self._out_bytes = 0
        self.forget_rest()
        self.answers.fail_all()
        senders, self._senders = self._senders, deque()
        for sender, _ in senders:
            if not sender.done():
                sender.set_result(None)
        self.on_lost()

    @override
    async def close(self) -> None:
        self._flush()
        wire = self._wire
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await super().close()
        except TimeoutError:
            logger.warning("the connection did not take the rest of what was to be sent")
        finally:
            if wire is not None:
                wire.abort()
        self.answers.fail_all()
        for task in list(self._tasks):
            task.cancel()


class _Feed:
    """In the place of nats-py's parser."""

    def __init__(self, link: FastLink) -> None:
        self._link = link

    async def parse(self, data: bytes = b"") -> None:
        self._link.feed(data)

    def reset(self) -> None:
        self._link.forget_rest()


class _Wire(asyncio.Protocol):
    """The socket's protocol after the handshake. nats-py's own still hears what concerns its writer."""

    def __init__(self, link: FastLink, stream: asyncio.Transport, behind: Any) -> None:
        self._link = link
        self.stream = stream
        self._behind: asyncio.streams.FlowControlMixin = behind
        self._ended = False
        self.paused = False

    def abort(self) -> None:
        if not self._ended:
            self.stream.abort()

    def data_received(self, data: bytes) -> None:
        link = self._link
        if link._wire is not self:
            return
        try:
            link.feed(data)
        except ProtocolError as error:
            self.broken(error)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._behind.connection_lost(exc)
        self.broken(exc or UnexpectedEOF())

    def broken(self, error: Exception) -> None:
        link = self._link
        if link._wire is self:
            link._run(link._process_op_err(error))

    def pause_writing(self) -> None:
        self.paused = True
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self.paused = False
        self._behind.resume_writing()
        if self._link._wire is self:
            self._link._flush()


def _nobody(subject: str, reply: str, head: object, data: bytes) -> None:
    """Answers go to those who wait, by the parser."""
