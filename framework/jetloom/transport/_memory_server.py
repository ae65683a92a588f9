"""The memory server: streams, subscriptions and connections, as nats-server 2.15 treats them for what jetloom uses."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING

import msgspec

from jetloom.clock import SYSTEM_CLOCK, Clock
from jetloom.errors import AssetDrifted, Refused
from jetloom.transport._memory_consumer import MemoryConsumer
from jetloom.transport._memory_link import settle
from jetloom.transport._memory_stream import MemoryStream, SourceLink
from jetloom.transport._memory_subjects import matcher, overlap
from jetloom.transport._port import (
    NO_HEADERS,
    Asset,
    ConsumerAsset,
    Incoming,
    Reply,
    StreamAsset,
    StreamState,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jetloom.transport._memory import MemoryTransport
    from jetloom.transport._memory_faults import Faults
    from jetloom.transport._memory_link import Link

RECONNECT_SECONDS = 0.25
"""After this a client tries again; jittered, so that not all come at the same moment."""

RESTART_SECONDS = 0.25
"""What fell due while the server was down fires this long after it is back (measured)."""

_ROUTES_MAX = 4096

type Deliver = Callable[[Incoming], None]


class Interest:
    """A subscription as the server knows it."""

    __slots__ = ("deliver", "link", "matches", "queue", "subject")

    def __init__(self, link: Link, subject: str, queue: str, deliver: Deliver) -> None:
        self.link = link
        self.subject = subject
        self.queue = queue
        self.deliver = deliver
        self.matches = matcher(subject)


class MemoryServer:
    """What all connections of a test share. It lives in one event loop, on virtual or on real time."""

    def __init__(
        self, clock: Clock = SYSTEM_CLOCK, *, faults: Faults | None = None, max_payload: int = 1_048_576
    ) -> None:
        self.clock = clock
        self.faults = faults
        self.max_payload = max_payload
        self.up = True
        self.streams: dict[str, MemoryStream] = {}
        self.transports: list[MemoryTransport] = []
        self.inboxes: dict[str, tuple[Link, asyncio.Future[Reply]]] = {}
        # Of no process: what the server does goes on when the process that caused it is frozen or killed.
        self.context = contextvars.Context()
        self._interests: list[Interest] = []
        self._routes: dict[str, tuple[Interest, ...]] = {}
        self._owners: dict[str, MemoryStream | None] = {}
        self._links: dict[tuple[str, str], SourceLink] = {}
        self._deferred: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def connect(self, name: str) -> MemoryTransport:
        """A connection whose callbacks run in the caller's context (so: in the caller's simulated process)."""
        from jetloom.transport._memory import MemoryTransport

        transport = MemoryTransport(self, name)
        self.transports.append(transport)
        return transport

    # -- a server's life

    def crash(self) -> None:
        """SIGKILL, with the store kept: every connection ends, what was sent and not yet read is lost."""
        self.up = False
        for transport in tuple(self.transports):
            transport.disconnect(lose_sent=True)

    def restart(self) -> None:
        self.up = True
        for stream in self.streams.values():
            stream.restart()
        deferred, self._deferred = self._deferred, []
        for callback, args in deferred:
            self.call_later(RESTART_SECONDS, callback, *args)
        for transport in self.transports:
            transport.reconnect_later(RECONNECT_SECONDS * (0.5 + self.clock.random()))

    def cut(self, link: Link, down: float) -> None:
        """Ends one connection; its client comes back after `down` seconds."""
        for transport in self.transports:
            if transport.link is link:
                transport.disconnect(lose_sent=True)
                transport.reconnect_later(down)
                return

    def abandon(self, connection: MemoryTransport | str) -> None:
        """Forgets the connections of a process that was killed: one, or all that have the name."""
        for transport in tuple(self.transports):
            if connection in (transport, transport.name):
                self.transports.remove(transport)
                transport.sever()

    # -- what streams and consumers ask

    def now(self) -> float:
        return self.clock.now()

    def call_later(
        self, seconds: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(max(seconds, 0.0), self._run, callback, args, context=self.context)

    def _run(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.up:
            callback(*args)
        else:
            self._deferred.append((callback, args))

    def advise(self, subject: str, body: dict[str, object]) -> None:
        self.route(None, subject, msgspec.json.encode(body), NO_HEADERS, "")

    # -- core NATS

    def subscribe(self, interest: Interest) -> None:
        self._interests.append(interest)
        self._routes.clear()

    def unsubscribe(self, interest: Interest) -> None:
        if interest in self._interests:
            self._interests.remove(interest)
            self._routes.clear()

    def forget_link(self, link: Link) -> None:
        kept = [interest for interest in self._interests if interest.link is not link]
        if len(kept) != len(self._interests):
            self._interests = kept
            self._routes.clear()

    def route(
        self, sender: Link | None, subject: str, data: bytes, headers: Mapping[str, str], reply: str
    ) -> bool:
        """Hands a core message on; whether anybody serves the subject."""
        if subject in self.inboxes:
            self._answer(sender, subject, data, headers)
            return True
        interests = self._interested(subject)
        if not interests:
            return False
        message = Incoming(subject, data, headers, reply)
        queues: dict[tuple[str, str], list[Interest]] = {}
        for interest in interests:
            if interest.queue:
                queues.setdefault((interest.subject, interest.queue), []).append(interest)
            else:
                self._hand(sender, interest, message)
        for members in queues.values():
            chosen = members[int(self.clock.random() * len(members))] if len(members) > 1 else members[0]
            self._hand(sender, chosen, message)
        return True

    def _answer(self, sender: Link | None, inbox: str, data: bytes, headers: Mapping[str, str]) -> None:
        link, future = self.inboxes.pop(inbox)
        if not self._separated(sender, link):
            link.send(link.transit(), settle, future, Reply(data, headers), None)

    def _interested(self, subject: str) -> tuple[Interest, ...]:
        found = self._routes.get(subject)
        if found is None:
            if len(self._routes) >= _ROUTES_MAX:
                self._routes.clear()
            found = tuple(interest for interest in self._interests if interest.matches(subject))
            self._routes[subject] = found
        return found

    def _hand(self, sender: Link | None, interest: Interest, message: Incoming) -> None:
        if not self._separated(sender, interest.link):
            interest.link.send(interest.link.transit(), interest.deliver, message)

    def _separated(self, sender: Link | None, receiver: Link) -> bool:
        faults = self.faults
        return faults is not None and sender is not None and faults.separated(sender.name, receiver.name)

    # -- streams

    def stream(self, name: str) -> MemoryStream:
        found = self.streams.get(name)
        if found is None:
            raise Refused(f"stream {name}", 10059, "stream not found")
        return found

    def consumer(self, stream: str, name: str) -> MemoryConsumer | None:
        found = self.streams.get(stream)
        return found.consumers.get(name) if found is not None else None

    def owner(self, subject: str) -> MemoryStream | None:
        """The stream that stores this subject."""
        if subject in self._owners:
            return self._owners[subject]
        if len(self._owners) >= _ROUTES_MAX:
            self._owners.clear()
        found = next((stream for stream in self.streams.values() if stream.accepts(subject)), None)
        self._owners[subject] = found
        return found

    def stream_state(self, name: str) -> StreamState | None:
        stream = self.streams.get(name)
        if stream is None:
            return None
        lag = sum(link.lag for (target, _), link in self._links.items() if target == name)
        return stream.state()._replace(sources_lag=lag)

    def ensure(self, asset: Asset) -> None:
        if isinstance(asset, StreamAsset):
            self._ensure_stream(asset)
        else:
            self._ensure_consumer(asset)

    def remove(self, name: str, consumer: str) -> bool:
        stream = self.streams.get(name)
        if stream is None:
            return False
        if consumer:
            found = stream.consumers.pop(consumer, None)
            if found is not None:
                found.close()
            return found is not None
        del self.streams[name]
        stream.close()
        for key in [key for key in self._links if name in key]:
            self._links.pop(key).close()
        self._owners.clear()
        return True

    def _ensure_stream(self, asset: StreamAsset) -> None:
        known = self.streams.get(asset.name)
        if known is not None:
            if asset.ttl and not known.asset.ttl:
                known.asset = msgspec.structs.replace(known.asset, ttl=True)
            _compare(f"stream {asset.name}", asset, known.asset)
            return
        if asset.schedules and asset.discard == "new":
            raise Refused(f"stream {asset.name}", 10052, "message scheduling cannot use discard new")
        if asset.schedules and asset.sources:
            raise Refused(f"stream {asset.name}", 10187, "message schedules can not be used with sources")
        for other in self.streams.values():
            if any(overlap(mine, theirs) for mine in asset.subjects for theirs in other.asset.subjects):
                raise Refused(f"stream {asset.name}", 10065, "subjects overlap with an existing stream")
        self.streams[asset.name] = MemoryStream(self, asset)
        self._owners.clear()
        for target in self.streams.values():
            for source in target.asset.sources:
                origin = self.streams.get(source.name)
                if origin is not None and (target.asset.name, source.name) not in self._links:
                    rules = tuple((one.source, one.destination) for one in source.transforms)
                    self._links[target.asset.name, source.name] = SourceLink(self, origin, target, rules)

    def _ensure_consumer(self, asset: ConsumerAsset) -> None:
        stream = self.stream(asset.stream)
        what = f"consumer {asset.stream}/{asset.name}"
        known = stream.consumers.get(asset.name)
        if known is not None:
            if asset.update:
                known.update(asset)
                return
            _compare(what, asset, known.asset)
            return
        if stream.asset.retention == "workqueue":
            mine = asset.filters or (">",)
            for other in stream.consumers.values():
                theirs = other.asset.filters or (">",)
                if mine == theirs == (">",):
                    raise Refused(
                        what, 10099, "multiple non-filtered consumers not allowed on workqueue stream"
                    )
                if any(overlap(a, b) for a in mine for b in theirs):
                    raise Refused(what, 10100, "filtered consumer not unique on workqueue stream")
            if asset.start != "all":
                raise Refused(what, 10101, "consumer must be deliver all on workqueue stream")
        stream.consumers[asset.name] = MemoryConsumer(self, stream, asset)

    # -- acknowledgements

    def acknowledge(self, ack_subject: str, verb: str, delay: float = 0.0) -> bool:
        """Applies `ack`, `nak`, `term` or `beat`; whether the consumer exists."""
        tokens = ack_subject.split(".")
        if len(tokens) != 9 or not ack_subject.startswith("$JS.ACK."):
            return False
        consumer = self.consumer(tokens[2], tokens[3])
        if consumer is None:
            return False
        sequence = int(tokens[5])
        if verb == "beat":
            consumer.progress(sequence)
        elif verb == "nak":
            consumer.refuse(sequence, delay)
        else:
            consumer.acknowledge(sequence)
        return True


def _compare(what: str, declared: Asset, found: Asset) -> None:
    differences = [
        f"{field}: expected {getattr(declared, field)!r}, found {getattr(found, field)!r}"
        for field in declared.__struct_fields__
        if field != "update" and getattr(declared, field) != getattr(found, field)
    ]
    if differences:
        raise AssetDrifted(what, differences)
