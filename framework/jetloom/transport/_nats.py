"""The port on a real connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ..clock import Clock
from ..errors import (
    Disconnected,
    NoResponders,
    OutcomeUnknown,
    PayloadTooLarge,
    Refused,
    RequestTimeout,
)
from ._answers import (
    NO_VERDICT,
    Collector,
    stored_of,
    unanswered_question,
    unanswered_write,
    write_error,
)
from ._assets import ensure_asset, list_streams, remove_asset
from ._follow import NatsFollow
from ._link import Link, NoAnswer
from ._port import (
    NO_HEADERS,
    REQUEST_SECONDS,
    Appended,
    Asset,
    Beater,
    ConsumerState,
    DeliveryHandler,
    Incoming,
    IncomingHandler,
    Pull,
    Reply,
    Schedule,
    ServerInfo,
    Stored,
    StoredHandler,
    StreamState,
    Subscription,
    Write,
)
from ._pull import NatsPull
from ._wire import (
    Head,
    bytes_of,
    decode_ack,
    decode_count,
    decode_get,
    encode_headers,
    seconds_of,
)

if TYPE_CHECKING:
    from ._beater import Opener

logger = logging.getLogger("jetloom.transport")

BATCH_BYTES_MAX = 8 << 20
"""What one batched read brings, apart from a single larger message; it is paged on from there."""

BATCHES_MAX = 4
"""Batched reads open at once: together half of the 64 MiB pending at which a server cuts a client off as slow."""


class _Shape(NamedTuple):
    """What is known of a stream since it was first asked about."""

    replicas: int
    subjects: tuple[str, ...]


class NatsTransport:
    """See `Transport`. Made by `connect`."""

    def __init__(self, link: Link, server: ServerInfo, clock: Clock, open_beater: Opener) -> None:
        self._link = link
        self._server = server
        self._clock = clock
        self._open_beater = open_beater
        token = clock.token()[:22]
        self._inbox = f"_INBOX.{token}"
        self._inboxes = 0
        self._group_prefix = token
        self._groups = 0
        self._handlers: list[Callable[[bool], None]] = []
        self._pulls: list[NatsPull] = []
        self._follows: list[NatsFollow] = []
        self._shapes: dict[str, _Shape] = {}
        self._batches = asyncio.Semaphore(BATCHES_MAX)
        self._closed = False
        self._told = True
        """Whether the handlers were last told that the connection stands."""
        link.expect_answers(self._inbox)
        link.on_lost = self._lost

    # -- connection
    @property
    def server(self) -> ServerInfo:
        return self._server

    @property
    def connected(self) -> bool:
        return self._link.is_connected

    @property
    def link(self) -> Link:
        """The connection, for the parts of this unit."""
        return self._link

    @property
    def clock(self) -> Clock:
        return self._clock

    def on_change(self, handler: Callable[[bool], None]) -> None:
        self._handlers.append(handler)

    def _lost(self) -> None:
        """The connection is gone: what was queued is discarded, every unanswered call has failed."""
        for pull in self._pulls:
            pull.lost()
        if self._told and not self._closed:
            self._told = False
            for handler in self._handlers:
                handler(False)

    def restored(self, server: ServerInfo) -> None:
        """The connection is back, perhaps to another server."""
        self._server = server
        self._told = True
        for pull in self._pulls:
            pull.wake()
        for follow in self._follows:
            follow.wake()
        for handler in self._handlers:
            handler(True)

    def new_inbox(self) -> str:
        self._inboxes += 1
        return f"{self._inbox}i.{self._inboxes}"

    # -- asking
    async def _ask(self, subject: str, block: bytes, data: bytes, timeout: float) -> tuple[Head, bytes]:
        """Raises `RequestTimeout`, `Disconnected`."""
        try:
            return await self._link.ask(subject, block, data, timeout)
        except NoAnswer as missing:
            raise unanswered_question(subject, timeout, missing) from None

    async def api(self, verb: str, body: object = None, *, timeout: float = REQUEST_SECONDS) -> bytes:
        """A question to the JetStream API. Raises `RequestTimeout`, `Disconnected`."""
        subject = f"$JS.API.{verb}"
        data = msgspec.json.encode(body) if body is not None else b""
        head, answer = await self._ask(subject, b"", data, timeout)
        if head.status == 503:
            raise RequestTimeout(f"{subject} (no leader, or JetStream is off)", timeout)
        return answer

    # -- core NATS
    async def publish(
        self, subject: str, data: bytes, *, headers: Mapping[str, str] = NO_HEADERS, reply: str = ""
    ) -> None:
        block = encode_headers(headers) if headers else b""
        self._check_size(subject, block, data)
        try:
            await self._link.room(len(data))
        except NoAnswer:
            raise Disconnected(subject) from None
        self._link.send(subject, reply, block, data)

    async def request(
        self,
        subject: str,
        data: bytes,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout: float = REQUEST_SECONDS,
    ) -> Reply:
        block = encode_headers(headers) if headers else b""
        self._check_size(subject, block, data)
        head, answer = await self._ask(subject, block, data, timeout)
        if head.status == 503:
            raise NoResponders(subject)
        return Reply(answer, head.headers)

    async def subscribe(self, subject: str, handler: IncomingHandler, *, queue: str = "") -> Subscription:
        def received(found: str, reply: str, head: Head, data: bytes) -> None:
            handler(Incoming(found, data, head.headers, reply))

        sid = self._link.listen(subject, received, queue)
        listening = False
        try:
            await self.flush()
            listening = True
        finally:
            if not listening:
                # Nobody will ever stop what nobody was given.
                self._link.forget(sid)
        return _Listening(self, sid)

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
        if expected is None and not (message_id or rollup) and ttl is None and schedule is None:
            block = encode_headers(headers) if headers else b""
        else:
            block = encode_headers(_every_header(headers, expected, message_id, ttl, rollup, schedule))
        if len(block) + len(data) > self._server.max_payload:
            self._check_size(subject, block, data)
        try:
            head, body = await self._link.ask(subject, block, data, timeout)
        except NoAnswer as missing:
            raise unanswered_write(subject, timeout, missing) from None
        return self._acknowledged(subject, expected, head, body)

    def _acknowledged(self, subject: str, expected: int | None, head: Head, body: bytes) -> Appended:
        if head.status:
            raise OutcomeUnknown(subject, f"no stream answered ({head.status})")
        try:
            ack = decode_ack(body)
        except msgspec.MsgspecError:
            raise OutcomeUnknown(subject, "what answered is no stream") from None
        if ack.error is not None:
            raise write_error(subject, expected, ack.error)
        return Appended(ack.stream, ack.seq, ack.duplicate)

    async def append_all(self, writes: Sequence[Write], *, timeout: float = REQUEST_SECONDS) -> None:
        *early, last = writes
        blocks: list[bytes] = []
        for write in early:
            every = _every_header(write.headers, None, "", write.ttl, rollup=False, schedule=None)
            blocks.append(encode_headers(every) if every else b"")
            self._check_size(write.subject, blocks[-1], write.data)
        try:
            await self._link.room(sum(len(write.data) for write in writes))
        except NoAnswer as missing:
            raise unanswered_write(last.subject, timeout, missing) from None
        # Without a wait in between: either all of them are queued on this connection, or none is.
        for write, block in zip(early, blocks, strict=True):
            self._link.send(write.subject, "", block, write.data)
        await self.append(last.subject, last.data, headers=last.headers, ttl=last.ttl, timeout=timeout)

    async def append_group(self, writes: Sequence[Write], *, timeout: float = REQUEST_SECONDS) -> int:
        self._groups += 1
        identity = f"{self._group_prefix}.{self._groups}"
        blocks: list[bytes] = []
        for number, write in enumerate(writes, 1):
            own = f"Nats-Batch-Id: {identity}\r\nNats-Batch-Sequence: {number}\r\n"
            if number == len(writes):
                own += "Nats-Batch-Commit: 1\r\n"
            every = _every_header(write.headers, write.expected, "", write.ttl, write.rollup, None)
            blocks.append(encode_headers(every, own))
            self._check_size(write.subject, blocks[-1], write.data)
        last = writes[-1]
        try:
            await self._link.room(sum(len(write.data) for write in writes))
            # Without a wait in between: all of them are in one piece on this connection, or none is.
            for write, block in zip(writes[:-1], blocks[:-1], strict=True):
                self._link.send(write.subject, "", block, write.data)
            head, body = await self._link.ask(last.subject, blocks[-1], last.data, timeout)
        except NoAnswer as missing:
            raise unanswered_write(last.subject, timeout, missing) from None
        return self._acknowledged(last.subject, last.expected, head, body).sequence - len(writes) + 1

    async def delete(self, stream: str, sequence: int) -> bool:
        answer = decode_count(
            await self._write_api(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
        )
        return answer.success

    async def purge(self, stream: str, subject: str) -> int:
        answer = decode_count(await self._write_api(f"STREAM.PURGE.{stream}", {"filter": subject}))
        if answer.error is not None:
            raise Refused(f"purge of {subject}", answer.error.err_code, answer.error.description)
        return answer.purged

    async def _write_api(self, verb: str, body: object) -> bytes:
        try:
            return await self.api(verb, body)
        except (RequestTimeout, Disconnected) as error:
            raise OutcomeUnknown(verb, error.message) from error

    # -- streams: reading
    async def last(self, stream: str, subject: str, *, direct: bool = False) -> Stored | None:
        if direct or (await self._shape_of(stream)).replicas == 1:
            # With one replica the only one that can answer is the leader.
            return await self._direct(f"DIRECT.GET.{stream}.{subject}", None)
        return await self._leader(stream, {"last_by_subj": subject})

    async def get(self, stream: str, sequence: int, *, direct: bool = False) -> Stored | None:
        if direct or (await self._shape_of(stream)).replicas == 1:
            return await self._direct(f"DIRECT.GET.{stream}", {"seq": sequence})
        return await self._leader(stream, {"seq": sequence})

    async def read(
        self, stream: str, subject: str, *, after: int = 0, limit: int = 256, direct: bool = False
    ) -> Sequence[Stored]:
        if direct or (await self._shape_of(stream)).replicas == 1:
            if limit == 1:
                # Of one message the server counts nothing, of a batch all that match.
                one = await self._direct(f"DIRECT.GET.{stream}", {"seq": after + 1, "next_by_subj": subject})
                return [one] if one is not None else []
            stored, more = await self._batch(stream, subject, after, limit)
            # A batch ends early at BATCH_BYTES_MAX, and says that there is more.
            while more and 0 < len(stored) < limit:
                page, more = await self._batch(stream, subject, stored[-1].sequence, limit - len(stored))
                more = more and bool(page)
                stored += page
            return stored
        found: list[Stored] = []
        while len(found) < limit:
            stored = await self._leader(stream, {"seq": after + 1, "next_by_subj": subject})
            if stored is None:
                break
            found.append(stored)
            after = stored.sequence
        return found

    async def _leader(self, stream: str, body: object) -> Stored | None:
        answer = decode_get(await self.api(f"STREAM.MSG.GET.{stream}", body))
        if answer.message is not None:
            data, headers = bytes_of(answer.message)
            return Stored(
                answer.message.subject, answer.message.seq, data, headers, seconds_of(answer.message.time)
            )
        error = answer.error
        if error is None or error.err_code == 10037:
            return None
        if error.err_code in NO_VERDICT:
            raise RequestTimeout(f"a read of {stream} ({error.description})", 0.0)
        raise Refused(f"a read of {stream}", error.err_code, error.description)

    async def _direct(self, verb: str, body: object) -> Stored | None:
        subject = f"$JS.API.{verb}"
        head, data = await self._ask(
            subject,
            b"",
            msgspec.json.encode(body) if body is not None else b"",
            REQUEST_SECONDS,
        )
        if head.status == 503:
            raise RequestTimeout(subject, 0.0)
        return stored_of(head, data) if not head.status else None

    async def _batch(self, stream: str, subject: str, after: int, limit: int) -> tuple[list[Stored], bool]:
        """One batched direct get, and whether there is more.

        For each the server counts what is still to come, subject by subject: 8 ms of its time in a bucket of 10,000
        keys, 17 ms in one of 100,000. It knows the sum when all subjects are asked for, so who asks for all that the
        stream may hold does so in its words.
        """
        everything = subject.endswith(".>") and await self._holds_only(stream, subject)
        stored, more = await self._page(stream, ">" if everything else subject, after, limit)
        if everything and not all(one.subject.startswith(subject[:-1]) for one in stored):
            # The stream takes more subjects than when we asked.
            self._shapes.pop(stream, None)
            return await self._page(stream, subject, after, limit)
        return stored, more

    async def _page(self, stream: str, subject: str, after: int, limit: int) -> tuple[list[Stored], bool]:
        """Bounded in bytes and in how many are open: left alone the server sends up to 64 MiB at once, which is also
        what may be pending for a client before the server cuts it off as a slow one.
        """
        verb = f"$JS.API.DIRECT.GET.{stream}"
        collector = Collector()
        body = {"seq": after + 1, "next_by_subj": subject, "batch": limit, "max_bytes": BATCH_BYTES_MAX}
        async with self._batches:
            try:
                end, _ = await self._link.ask(
                    verb, b"", msgspec.json.encode(body), REQUEST_SECONDS, collector
                )
            except NoAnswer as missing:
                raise unanswered_question(verb, REQUEST_SECONDS, missing) from None
        if end.status not in (204, 404):
            raise RequestTimeout(f"a read ({end.description})", 0.0)
        more = end.headers.get("Nats-Num-Pending", "0") != "0"
        return [stored_of(head, data) for head, data in collector.parts], more

    async def _holds_only(self, stream: str, subject: str) -> bool:
        """Whether the stream takes nothing else. Not while its leader does not say: any replica serves a page."""
        try:
            return (await self._shape_of(stream)).subjects == (subject,)
        except RequestTimeout:
            return False

    async def _shape_of(self, stream: str) -> _Shape:
        known = self._shapes.get(stream)
        if known is None:
            answer = msgspec.json.decode(await self.api(f"STREAM.INFO.{stream}"))
            error = answer.get("error")
            if error is not None:
                raise Refused(f"stream {stream}", error.get("err_code", 0), error.get("description", ""))
            config = answer["config"]
            known = _Shape(int(config.get("num_replicas", 1)), tuple(config.get("subjects", ())))
            self._shapes[stream] = known
        return known

    async def follow(
        self,
        stream: str,
        subject: str,
        handler: StoredHandler,
        *,
        after: int | None = None,
        last: bool = False,
    ) -> Subscription:
        follow = NatsFollow(self, stream, subject, handler, after=after, last=last)
        await follow.start()
        self._follows.append(follow)
        return follow

    async def stream_state(self, stream: str) -> StreamState | None:
        answer = msgspec.json.decode(await self.api(f"STREAM.INFO.{stream}"))
        if "error" in answer:
            return None
        state = answer["state"]
        lag = sum(source.get("lag", 0) for source in answer.get("sources", []))
        return StreamState(state["messages"], state["bytes"], state["first_seq"], state["last_seq"], lag)

    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState | None:
        answer = msgspec.json.decode(await self.api(f"CONSUMER.INFO.{stream}.{consumer}"))
        if "error" in answer:
            return None
        return ConsumerState(
            answer["num_pending"], answer["num_ack_pending"], answer["num_waiting"], answer["num_redelivered"]
        )

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
        pull = NatsPull(self, stream, consumer, handler, capacity=capacity, expiry=expiry, batch=batch)
        self._pulls.append(pull)
        pull.start()
        return pull

    def dropped(self, ended: NatsPull | NatsFollow) -> None:
        if isinstance(ended, NatsPull):
            if ended in self._pulls:
                self._pulls.remove(ended)
        elif ended in self._follows:
            self._follows.remove(ended)

    async def ack(self, ack_subject: str) -> None:
        self._tell(ack_subject, b"+ACK")

    async def nak(self, ack_subject: str, delay: float = 0) -> None:
        self._tell(ack_subject, b'-NAK {"delay": %d}' % round(delay * 1e9) if delay > 0 else b"-NAK")

    async def term(self, ack_subject: str, reason: str = "") -> None:
        self._tell(ack_subject, b"+TERM " + reason.encode() if reason else b"+TERM")

    async def beat(self, ack_subject: str) -> None:
        self._tell(ack_subject, b"+WPI")

    def _tell(self, ack_subject: str, what: bytes) -> None:
        self._link.send(ack_subject, "", b"", what)

    async def beat_confirmed(self, ack_subject: str, *, timeout: float = 1.0) -> bool:
        try:
            head, _ = await self._ask(ack_subject, b"", b"+WPI", timeout)
        except (RequestTimeout, Disconnected):
            return False
        return head.status == 0

    async def open_beater(self) -> Beater:
        return await self._open_beater()

    # -- assets
    async def ensure(self, asset: Asset) -> None:
        await ensure_asset(self.api, asset)

    async def assets(self, prefix: str) -> Sequence[str]:
        return [name for name in await list_streams(self.api) if name.startswith(prefix)]

    async def remove(self, stream: str, consumer: str = "") -> bool:
        self._shapes.pop(stream, None)
        return await remove_asset(self.api, stream, consumer)

    # -- the end
    async def flush(self) -> None:
        """A message to ourselves: when it is here, the server has read all that was written before it."""
        try:
            await self._link.barrier(REQUEST_SECONDS)
        except NoAnswer as missing:
            if missing.reason == "late":
                raise RequestTimeout("a flush", REQUEST_SECONDS) from None
            logger.debug("a flush was cut off: the connection was lost")

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for pull in list(self._pulls):
            await pull.abandon()
        for follow in list(self._follows):
            await follow.stop()
        try:
            await self.flush()
        except RequestTimeout:
            logger.warning("closing a connection whose server does not read any more")
        self._link.closing = True
        await self._link.close()

    def _check_size(self, subject: str, block: bytes, data: bytes) -> None:
        # The server counts headers as payload, and ends the connection of one who sends more.
        size, limit = len(block) + len(data), self._server.max_payload
        if size > limit:
            raise PayloadTooLarge(f"the message on {subject}", size, limit)


class _Listening:
    """A core subscription."""

    def __init__(self, transport: NatsTransport, sid: int) -> None:
        self._transport = transport
        self._sid = sid
        self._stopped = False

    async def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        link = self._transport.link
        link.silence(self._sid)
        try:
            # What the server had sent before it read that is still handled: nobody would send it again.
            await self._transport.flush()
        except RequestTimeout:
            logger.debug("an unsubscription was not answered")
        finally:
            link.forget(self._sid)


def _every_header(
    headers: Mapping[str, str],
    expected: int | None,
    message_id: str,
    ttl: float | None,
    rollup: bool,
    schedule: Schedule | None,
) -> Mapping[str, str]:
    every = dict(headers)
    if expected is not None:
        every["Nats-Expected-Last-Subject-Sequence"] = str(expected)
    if message_id:
        every["Nats-Msg-Id"] = message_id
    if ttl is not None:
        every["Nats-TTL"] = f"{max(1, round(ttl))}s"
    if rollup:
        every["Nats-Rollup"] = "sub"
    if schedule is not None:
        every["Nats-Schedule"] = schedule.rule
        every["Nats-Schedule-Target"] = schedule.target
        if schedule.zone:
            every["Nats-Schedule-Time-Zone"] = schedule.zone
    return every
