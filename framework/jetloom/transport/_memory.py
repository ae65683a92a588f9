"""The memory twin of the NATS transport: the same contract on a `MemoryServer` in the same process.

For tests and simulation: no socket, no real time, faults by a plan (`MemoryServer.faults`). What it does not have is
what jetloom does not use of NATS: push consumers, atomic batches, accounts and permissions, replicas.
"""

from __future__ import annotations

import asyncio
import contextvars
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from jetloom.errors import (
    Disconnected,
    JetloomError,
    NoResponders,
    OutcomeUnknown,
    PayloadTooLarge,
    Refused,
    RequestTimeout,
)
from jetloom.transport._memory_client import Kept, MemoryBeater, MemoryFollow, MemoryPull, MemorySubscription
from jetloom.transport._memory_faults import Calm, Fate, Faults, Op
from jetloom.transport._memory_link import Link, settle
from jetloom.transport._memory_schedules import parse_duration
from jetloom.transport._memory_server import MemoryServer
from jetloom.transport._memory_stream import Conditions
from jetloom.transport._memory_subjects import matcher
from jetloom.transport._port import (
    NO_HEADERS,
    REQUEST_SECONDS,
    Appended,
    Asset,
    ConsumerState,
    Reply,
    Schedule,
    ServerInfo,
    Stored,
    StreamState,
    Write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jetloom.transport._memory_faults import OpKind
    from jetloom.transport._port import (
        Beater,
        DeliveryHandler,
        IncomingHandler,
        Pull,
        StoredHandler,
        Subscription,
    )

__all__ = ["Calm", "Fate", "Faults", "MemoryServer", "MemoryTransport", "Op"]

_HEADER_BYTES = 12
"""`NATS/1.0` and two line ends."""

SPLIT_SECONDS = 0.001
"""How long a read that a fault plan interrupts waits before it goes on."""


class MemoryTransport:
    """One connection; made by `MemoryServer.connect`."""

    def __init__(self, memory: MemoryServer, name: str) -> None:
        self.memory = memory
        self.name = name
        self.context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self.link = Link(memory, name, self.context, self._loop)
        self._info = ServerInfo("memory", "2.15.0", memory.max_payload, 5, "memory://")
        self._handlers: list[Callable[[bool], None]] = []
        self._kept: list[Kept] = []
        self._inboxes = 0
        self._closed = False
        self._returning: asyncio.TimerHandle | None = None
        if not memory.up:
            self.link.detach(lose_sent=True)
            self.link.close()

    @property
    def server(self) -> ServerInfo:
        return self._info

    @property
    def connected(self) -> bool:
        return self.link.open

    def on_change(self, handler: Callable[[bool], None]) -> None:
        self._handlers.append(handler)

    # -- the connection, steered by tests

    def disconnect(self, *, lose_sent: bool = False) -> None:
        """Takes the connection down until `reconnect`. What was sent before still arrives, unless `lose_sent`.

        The client notices when its process runs: a frozen one reads first what it had received before.
        """
        if self.link.up:
            self.link.detach(lose_sent=lose_sent)
            self.memory.forget_link(self.link)
            self._loop.call_soon(self._notice, self.link, context=self.context)

    def _notice(self, link: Link) -> None:
        if not link.open or link is not self.link:
            return
        link.close()
        for kept in self._kept:
            kept.lapse()
        self._tell(False)

    def reconnect(self) -> None:
        """Brings the connection back, with its subscriptions, follows and pulls. Nothing while the server is down."""
        if self._returning is not None:
            self._returning.cancel()
            self._returning = None
        if self._closed or self.link.up or not self.memory.up:
            return
        self._notice(self.link)
        self.link = Link(self.memory, self.name, self.context, self._loop)
        for kept in tuple(self._kept):
            kept.renew()
        self._tell(True)

    def reconnect_later(self, seconds: float) -> None:
        if not self.link.up and not self._closed:
            if self._returning is not None:
                self._returning.cancel()
            self._returning = self._loop.call_later(seconds, self.reconnect, context=self.context)

    def sever(self) -> None:
        """The process is gone: the server forgets the connection, and nobody is told."""
        self._closed = True
        self.link.detach(lose_sent=False)
        self.link.open = False
        self.memory.forget_link(self.link)
        for kept in self._kept:
            if isinstance(kept, MemoryFollow):
                kept.lapse()
        self._kept.clear()
        if self._returning is not None:
            self._returning.cancel()

    def forget(self, kept: Kept) -> None:
        if kept in self._kept:
            self._kept.remove(kept)

    def _tell(self, connected: bool) -> None:
        for handler in tuple(self._handlers):
            self._loop.call_soon(handler, connected, context=self.context)

    async def _call[T](
        self, kind: OpKind, subject: str, apply: Callable[[], T], timeout: float = REQUEST_SECONDS
    ) -> T:
        link, faults = self.link, self.memory.faults
        op = link.op(kind, subject)
        if faults is None:
            return await link.call(op, apply, timeout)
        pause = faults.before(op)
        if pause is not None:
            await pause
        # The connection may have been lost and restored in the pause: nothing is decided anew here, so it goes out.
        try:
            return await self.link.call(op, apply, timeout)
        finally:
            pause = faults.after(op)
            if pause is not None:
                await pause

    async def _fire(self, kind: OpKind, subject: str, apply: Callable[[], object]) -> None:
        faults = self.memory.faults
        op = self.link.op(kind, subject)
        if faults is not None and (pause := faults.before(op)) is not None:
            await pause
        self.link.fire(op, apply)
        if faults is not None and (pause := faults.after(op)) is not None:
            await pause

    # -- core NATS

    async def publish(
        self, subject: str, data: bytes, *, headers: Mapping[str, str] = NO_HEADERS, reply: str = ""
    ) -> None:
        self._check_size(subject, data, headers)
        if not self.link.open:
            raise Disconnected(subject)
        await self._fire("publish", subject, partial(self._publish, self.link, subject, data, headers, reply))

    def _publish(self, link: Link, subject: str, data: bytes, headers: Mapping[str, str], reply: str) -> bool:
        """At the server: to subscribers, and to the stream that stores the subject, which answers to `reply`."""
        served = self.memory.route(link, subject, data, headers, reply)
        stream = self.memory.owner(subject)
        if stream is None:
            return served
        body: dict[str, object]
        try:
            done = stream.append(subject, data, headers, _conditions(headers))
            body = {"stream": done.stream, "seq": done.sequence}
            if done.duplicate:
                body["duplicate"] = True
        except JetloomError as error:
            code = error.server_code if isinstance(error, Refused) else 10071
            body = {"error": {"code": 400, "err_code": code, "description": error.message}}
        if reply:
            self.memory.route(None, reply, msgspec.json.encode(body), NO_HEADERS, "")
        return True

    async def request(
        self,
        subject: str,
        data: bytes,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout: float = REQUEST_SECONDS,
    ) -> Reply:
        self._check_size(subject, data, headers)
        faults, link = self.memory.faults, self.link
        op = link.op("request", subject)
        if faults is not None and (pause := faults.before(op)) is not None:
            await pause
        link = self.link
        if not link.open:
            await asyncio.sleep(0)
            raise Disconnected(subject)
        self._inboxes += 1
        inbox = f"_INBOX.{self.name}.{id(self):x}.{self._inboxes}"
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self.memory.inboxes[inbox] = (link, answer)
        link.wait_for(answer, op)
        error = RequestTimeout(subject, timeout)
        timer = self._loop.call_later(timeout, settle, answer, None, error, context=self.context)
        try:
            link.fire(op, partial(self._ask, link, subject, data, headers, inbox, answer))
            return await answer
        finally:
            timer.cancel()
            link.forget(answer)
            self.memory.inboxes.pop(inbox, None)
            if faults is not None and (pause := faults.after(op)) is not None:
                await pause

    def _ask(
        self,
        link: Link,
        subject: str,
        data: bytes,
        headers: Mapping[str, str],
        inbox: str,
        answer: asyncio.Future[Reply],
    ) -> None:
        if not self._publish(link, subject, data, headers, inbox):
            link.send(link.transit(), settle, answer, None, NoResponders(subject))

    async def subscribe(self, subject: str, handler: IncomingHandler, *, queue: str = "") -> Subscription:
        made = MemorySubscription(self, subject, queue, handler)
        self._kept.append(made)
        await self._keep("subscribe", subject, made)
        return made

    async def _keep(self, kind: OpKind, subject: str, made: MemorySubscription | MemoryFollow) -> None:
        try:
            await self._call(kind, subject, made.arrive)
        except BaseException:
            await made.stop()
            raise

    # -- streams: writing

    async def append(
        self,
        subject: str,
        data: bytes,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        expected: int | None = None,
        message_id: str = "",
        ttl: float | None = None,
        rollup: bool = False,
        schedule: Schedule | None = None,
        timeout: float = REQUEST_SECONDS,
    ) -> Appended:
        full = dict(headers)
        conditions: Conditions | None = None
        if expected is not None or message_id or ttl is not None or rollup or schedule is not None:
            rule, target, zone = schedule or ("", "", "")
            # The server's grain is a second.
            seconds = None if ttl is None else float(max(1, round(ttl)))
            conditions = Conditions(expected, message_id, seconds, rollup, rule, target, zone)
            _write(full, conditions)
        self._check_size(subject, data, full)
        return await self._call(
            "append", subject, partial(self._append, self.link, subject, data, full, conditions), timeout
        )

    async def append_all(self, writes: Sequence[Write], *, timeout: float = REQUEST_SECONDS) -> None:
        rows: list[tuple[str, bytes, dict[str, str], Conditions | None]] = []
        for write in writes:
            full = dict(write.headers)
            conditions = None if write.ttl is None else Conditions(ttl=float(max(1, round(write.ttl))))
            if conditions is not None:
                _write(full, conditions)
            self._check_size(write.subject, write.data, full)
            rows.append((write.subject, write.data, full, conditions))

        def store() -> None:
            for number, row in enumerate(rows, 1):
                try:
                    self._append(self.link, *row)
                except (OutcomeUnknown, Refused):
                    # The server tells only the last one's refusal.
                    if number == len(rows):
                        raise

        await self._call("append", writes[-1].subject, store, timeout)

    async def append_group(self, writes: Sequence[Write], *, timeout: float = REQUEST_SECONDS) -> int:
        rows: list[tuple[str, bytes, dict[str, str], Conditions]] = []
        for write in writes:
            full, ttl = dict(write.headers), write.ttl
            seconds = None if ttl is None else float(max(1, round(ttl)))
            conditions = Conditions(write.expected, ttl=seconds, rollup=write.rollup)
            _write(full, conditions)
            self._check_size(write.subject, write.data, full)
            rows.append((write.subject, write.data, full, conditions))

        def store() -> int:
            last = writes[-1].subject
            stream = self.memory.owner(last)
            if stream is None:
                raise OutcomeUnknown(last, "no responders: no stream stores this subject")
            if any(self.memory.owner(write.subject) is not stream for write in writes):
                raise Refused(last, 10176, "atomic publish batch is incomplete")
            stream.check_group(rows)
            return min([self._append(self.link, *row).sequence for row in rows])

        return await self._call("append", writes[-1].subject, store, timeout)

    def _append(
        self, link: Link, subject: str, data: bytes, headers: dict[str, str], conditions: Conditions | None
    ) -> Appended:
        self.memory.route(link, subject, data, headers, "")
        stream = self.memory.owner(subject)
        if stream is None:
            raise OutcomeUnknown(subject, "no responders: no stream stores this subject")
        return stream.append(subject, data, headers, conditions)

    def _check_size(self, subject: str, data: bytes, headers: Mapping[str, str]) -> None:
        size = len(data)
        if headers and size > self.memory.max_payload - 65_536:
            size += _HEADER_BYTES + sum(len(name) + len(value) + 4 for name, value in headers.items())
        if size > self.memory.max_payload:
            raise PayloadTooLarge(subject, size, self.memory.max_payload)

    async def delete(self, stream: str, sequence: int) -> bool:
        return await self._call("delete", stream, partial(self._delete, stream, sequence))

    def _delete(self, stream: str, sequence: int) -> bool:
        found = self.memory.stream(stream)
        if found.asset.deny_delete:
            raise Refused(f"stream {stream}", 10057, "message delete not permitted")
        return found.delete(sequence)

    async def purge(self, stream: str, subject: str) -> int:
        return await self._call("purge", subject, lambda: self.memory.stream(stream).purge(subject))

    # -- streams: reading

    async def last(self, stream: str, subject: str, *, direct: bool = False) -> Stored | None:
        past = self._staleness("last", subject) if direct else 0

        def look() -> Stored | None:
            found = self.memory.stream(stream)
            if not past:
                return found.last_of(subject)
            matches = matcher(subject)
            return next((one for one in reversed(found.past(past).values()) if matches(one.subject)), None)

        return await self._call("last", subject, look)

    async def get(self, stream: str, sequence: int, *, direct: bool = False) -> Stored | None:
        past = self._staleness("get", stream) if direct else 0

        def look() -> Stored | None:
            found = self.memory.stream(stream)
            return (found.past(past) if past else found.messages).get(sequence)

        return await self._call("get", stream, look)

    async def read(
        self, stream: str, subject: str, *, after: int = 0, limit: int = 256, direct: bool = False
    ) -> Sequence[Stored]:
        faults = self.memory.faults
        past = self._staleness("read", subject) if direct else 0

        def look(start: int, most: int) -> list[Stored]:
            found = self.memory.stream(stream)
            if not past:
                return found.read(subject, start, most)
            matches = matcher(subject)
            view = found.past(past).values()
            return [one for one in view if one.sequence > start and matches(one.subject)][:most]

        first = faults.split(self.link.op("read", subject)) if faults is not None else 0
        if not 0 < first < limit:
            return await self._call("read", subject, partial(look, after, limit))
        page = await self._call("read", subject, partial(look, after, first))
        if len(page) < first:
            return page
        await asyncio.sleep(SPLIT_SECONDS)
        return page + await self._call("read", subject, partial(look, page[-1].sequence, limit - first))

    def _staleness(self, kind: OpKind, subject: str) -> int:
        faults = self.memory.faults
        return 0 if faults is None else faults.stale(self.link.op(kind, subject))

    async def follow(
        self,
        stream: str,
        subject: str,
        handler: StoredHandler,
        *,
        after: int | None = None,
        last: bool = False,
    ) -> Subscription:
        made = MemoryFollow(self, stream, subject, handler, after, last)
        self._kept.append(made)
        await self._keep("follow", subject, made)
        return made

    async def stream_state(self, stream: str) -> StreamState | None:
        return await self._call("state", stream, lambda: self.memory.stream_state(stream))

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState | None:
        def look() -> ConsumerState | None:
            found = self.memory.consumer(stream, consumer)
            return None if found is None else found.state()

        return await self._call("state", f"{stream}.{consumer}", look)

    # -- consumers

    async def pull(
        self,
        stream: str,
        consumer: str,
        handler: DeliveryHandler,
        *,
        capacity: Callable[[], int],
        expiry: float,
        batch: int = 100,
    ) -> Pull:
        made = MemoryPull(self, stream, consumer, handler, capacity, expiry, batch)
        self._kept.append(made)
        self._loop.call_soon(made.wake, context=self.context)
        return made

    async def ack(self, ack_subject: str) -> None:
        await self._fire("ack", ack_subject, lambda: self.memory.acknowledge(ack_subject, "ack"))

    async def nak(self, ack_subject: str, delay: float = 0) -> None:
        await self._fire("nak", ack_subject, lambda: self.memory.acknowledge(ack_subject, "nak", delay))

    async def term(self, ack_subject: str, reason: str = "") -> None:
        await self._fire("term", ack_subject, lambda: self.memory.acknowledge(ack_subject, "term"))

    async def beat(self, ack_subject: str) -> None:
        await self._fire("beat", ack_subject, lambda: self.memory.acknowledge(ack_subject, "beat"))

    async def beat_confirmed(self, ack_subject: str, *, timeout: float = 1.0) -> bool:
        try:
            return await self._call(
                "beat_confirmed", ack_subject, lambda: self.memory.acknowledge(ack_subject, "beat"), timeout
            )
        except (RequestTimeout, Disconnected):
            return False

    async def open_beater(self) -> Beater:
        return MemoryBeater(self)

    # -- assets

    async def ensure(self, asset: Asset) -> None:
        await self._call("ensure", asset.name, lambda: self.memory.ensure(asset))

    async def assets(self, prefix: str) -> Sequence[str]:
        return await self._call(
            "assets", prefix, lambda: sorted(name for name in self.memory.streams if name.startswith(prefix))
        )

    async def remove(self, stream: str, consumer: str = "") -> bool:
        return await self._call("remove", stream, lambda: self.memory.remove(stream, consumer))

    async def flush(self) -> None:
        await self._call("flush", "", lambda: None)

    async def close(self) -> None:
        if self._closed:
            return
        if self.link.open:
            await self._call("flush", "", lambda: None)
        self._closed = True
        self.link.detach(lose_sent=False)
        self.link.close()
        self.memory.forget_link(self.link)
        for kept in self._kept:
            kept.lapse()
        self._kept.clear()
        if self in self.memory.transports:
            self.memory.transports.remove(self)
        if self._returning is not None:
            self._returning.cancel()


def _write(headers: dict[str, str], conditions: Conditions) -> None:
    if conditions.expected is not None:
        headers["Nats-Expected-Last-Subject-Sequence"] = str(conditions.expected)
    if conditions.message_id:
        headers["Nats-Msg-Id"] = conditions.message_id
    if conditions.ttl is not None:
        headers["Nats-TTL"] = f"{conditions.ttl:g}s"
    if conditions.rollup:
        headers["Nats-Rollup"] = "sub"
    if conditions.rule:
        headers["Nats-Schedule"] = conditions.rule
        headers["Nats-Schedule-Target"] = conditions.target
        if conditions.zone:
            headers["Nats-Schedule-Time-Zone"] = conditions.zone


def _conditions(headers: Mapping[str, str]) -> Conditions | None:
    """What a message that was published raw asks of the stream."""
    if not any(name.startswith("Nats-") for name in headers):
        return None
    expected = headers.get("Nats-Expected-Last-Subject-Sequence")
    ttl = headers.get("Nats-TTL")
    seconds: float | None = None
    if ttl is not None:
        seconds = float(ttl) if ttl.isdigit() else parse_duration(ttl) or 0.0
    return Conditions(
        None if expected is None else int(expected),
        headers.get("Nats-Msg-Id", ""),
        seconds,
        headers.get("Nats-Rollup") == "sub",
        headers.get("Nats-Schedule", ""),
        headers.get("Nats-Schedule-Target", ""),
        headers.get("Nats-Schedule-Time-Zone", ""),
    )
