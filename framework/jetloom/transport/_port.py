"""What jetloom asks of NATS: the contract that the nats-py adapter and the memory twin keep.

Rules for every implementation:

- A write has three ends: its answer, a *verdict* against it (`ConditionFailed`, `Refused`, `PayloadTooLarge`), or
  `OutcomeUnknown` (timeout, disconnect, no leader, busy, a 10164 refusal): then it may be stored or not.
- A disconnect discards what was queued and fails every unanswered call at once: nothing decided before a
  disconnect is sent after it.
- Reads marked *leader* see every acknowledged write. *Direct* reads may be stale on replicated streams.
- `ack`, `nak` and `beat` are fire and forget and never raise for a lost connection: a lost one is redelivered.
  They work with the ack subject of any delivery of the message, from any connection.
- Cancelling a caller never loses a message silently: what was delivered and not acknowledged comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

NO_HEADERS: Mapping[str, str] = {}

REQUEST_SECONDS = 5.0
"""How long a request to the server or to a service waits by default; above a stream leader's change (4-8 s) loops
retry.
"""


class ServerInfo(msgspec.Struct, frozen=True):
    """What the server said of itself at connect."""

    name: str
    version: str
    max_payload: int
    api_level: int = 0
    url: str = ""


class Stored(NamedTuple):
    """A message as a stream holds it. `at` is the stored time, seconds since the epoch."""

    subject: str
    sequence: int
    data: bytes
    headers: Mapping[str, str]
    at: float


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message as a consumer delivers it.

    `count` is the delivery count (1 = first). `basis` is the monotonic sending time of the pull request that
    brought it: sureness is measured from it. `at` is the stored time, seconds since the epoch.
    """

    subject: str
    data: bytes
    headers: Mapping[str, str]
    stream: str
    consumer: str
    sequence: int
    count: int
    ack_subject: str
    basis: float
    at: float


class Incoming(NamedTuple):
    """A message of a core subscription; `reply` is empty when nobody waits."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    reply: str


class Reply(NamedTuple):
    data: bytes
    headers: Mapping[str, str]


class Appended(NamedTuple):
    """A positive acknowledgement. `duplicate`: refused silently because its message id is remembered."""

    stream: str
    sequence: int
    duplicate: bool = False


GROUP_MAX = 1_000
"""Messages of an atomic group: the server's own limit."""


class Write(NamedTuple):
    """One of several messages that are written together. `ttl` in seconds, at least 1; `expected` and `rollup` as for
    `Transport.append`.
    """

    subject: str
    data: bytes
    headers: Mapping[str, str] = NO_HEADERS
    ttl: float | None = None
    expected: int | None = None
    rollup: bool = False


class Schedule(NamedTuple):
    """A message that the server publishes to `target` later.

    `rule` is `@at <RFC3339>`, `@every 1s`, or 6-field cron.
    """

    rule: str
    target: str
    zone: str = ""


class StreamState(NamedTuple):
    messages: int
    bytes: int
    first: int
    last: int
    sources_lag: int = 0


class ConsumerState(NamedTuple):
    """`pending`: not yet delivered. `unacknowledged`: delivered, not acknowledged. `waiting`: open pull requests."""

    pending: int
    unacknowledged: int
    waiting: int
    redelivered: int = 0


class Transform(msgspec.Struct, frozen=True):
    source: str
    destination: str


class SourceAsset(msgspec.Struct, frozen=True):
    """Another stream that a stream copies from, with its subjects rewritten."""

    name: str
    transforms: tuple[Transform, ...] = ()


class StreamAsset(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as jetloom declares it. Sizes in bytes, ages in seconds, 0 = unlimited."""

    name: str
    subjects: tuple[str, ...] = ()
    retention: Literal["limits", "workqueue"] = "limits"
    discard: Literal["old", "new"] = "old"
    messages_per_subject_max: int = -1
    bytes_max: int = -1
    age_max: float = 0
    duplicate_window: float = 120
    replicas: int = 1
    storage: Literal["file", "memory"] = "file"
    rollup: bool = False
    ttl: bool = False
    direct: bool = True
    schedules: bool = False
    atomic: bool = False
    deny_delete: bool = False
    sources: tuple[SourceAsset, ...] = ()
    description: str = ""


class ConsumerAsset(msgspec.Struct, frozen=True, kw_only=True):
    """A durable pull consumer, acknowledged explicitly. Durations in seconds.

    `start` is where it begins when it is made: `all`, `new`, a sequence (int) or a time (float, epoch seconds).
    """

    stream: str
    name: str
    filters: tuple[str, ...] = ()
    ack_wait: float = 30
    deliveries_max: int = -1
    ack_pending_max: int = -1
    backoff: tuple[float, ...] = ()
    start: Literal["all", "new"] | int | float = "all"
    replicas: int = 0
    inactive_seconds: float = 0
    """0 = durable. Above: the server forgets the consumer after this long without a pull."""
    description: str = ""
    update: bool = False
    """What differs on the server is changed there, apart from `start`, which a consumer keeps from when it was made."""


type Asset = StreamAsset | ConsumerAsset

type DeliveryHandler = Callable[[Delivery], None]
"""Called in the event loop for each delivery, in order; must not block: hand the message on."""

type IncomingHandler = Callable[[Incoming], None]
type StoredHandler = Callable[[Stored], None]


class Subscription(Protocol):
    async def stop(self) -> None:
        """Ends it; nothing is delivered after this returns. May be called twice."""
        ...


class Pull(Protocol):
    """A continuous pull from one consumer."""

    def wake(self) -> None:
        """Looks at the capacity again, now."""
        ...

    async def stop(self) -> None:
        """Sends no further request, waits until the open ones have ended (at most the expiry), then ends.

        What arrives meanwhile is still handed to the handler, so that a drain can give it back.
        """
        ...


class Beater(Protocol):
    """Beats (`+WPI`) for messages from a thread and connection of its own, while bodies compute."""

    def hold(self, ack_subject: str, every: float) -> None: ...
    def drop(self, ack_subject: str) -> None: ...
    async def stop(self) -> None: ...


class Transport(Protocol):
    """One connection to NATS."""

    @property
    def server(self) -> ServerInfo: ...

    @property
    def connected(self) -> bool: ...

    def on_change(self, handler: Callable[[bool], None]) -> None:
        """Calls `handler(connected)` at each disconnect and reconnect."""
        ...

    # -- core NATS
    async def publish(
        self,
        subject: str,
        data: bytes,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        reply: str = "",
    ) -> None:
        """Sends without an acknowledgement. Raises `Disconnected` while the connection is down."""
        ...

    async def request(
        self,
        subject: str,
        data: bytes,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        timeout: float = REQUEST_SECONDS,
    ) -> Reply:
        """Raises `NoResponders`, `RequestTimeout`, `Disconnected`."""
        ...

    async def subscribe(self, subject: str, handler: IncomingHandler, *, queue: str = "") -> Subscription:
        """Returns when the server knows of it. Survives reconnects."""
        ...

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
        """Publishes and waits for the stream's acknowledgement.

        `expected` is the last sequence that the subject must have (0: none is stored). `ttl` in seconds, at least 1.
        `rollup` removes the subject's older messages. Raises `ConditionFailed` (a verdict), `OutcomeUnknown`,
        `PayloadTooLarge`, `Refused`.
        """
        ...

    async def append_all(self, writes: Sequence[Write], *, timeout: float = REQUEST_SECONDS) -> None:
        """Publishes all of them, in order and unconditionally, to one stream, and waits for one acknowledgement.

        That of the last, which the server gives after it took the others: what it refuses of those is not told. For
        what can be written again at any time. Raises `OutcomeUnknown`, `PayloadTooLarge`, `Refused`.
        """
        ...

    async def append_group(self, writes: Sequence[Write], *, timeout: float = REQUEST_SECONDS) -> int:
        """Stores all of them or none, to subjects of one stream that is `atomic`; the first one's sequence.

        The others follow without gaps. At most `GROUP_MAX`, each subject once. Raises what `append` raises:
        `ConditionFailed` when any of the conditions does not hold, whose subject and sequence it does not tell.
        """
        ...

    async def delete(self, stream: str, sequence: int) -> bool:
        """Deletes one message; False when it is not there. Raises `OutcomeUnknown`."""
        ...

    async def purge(self, stream: str, subject: str) -> int:
        """Removes every message on `subject` (wildcards allowed); how many. Raises `OutcomeUnknown`."""
        ...

    # -- streams: reading
    async def last(self, stream: str, subject: str, *, direct: bool = False) -> Stored | None:
        """The last message on `subject`: from the leader, or `direct`. Raises `RequestTimeout`, `Disconnected`."""
        ...

    async def get(self, stream: str, sequence: int, *, direct: bool = False) -> Stored | None: ...

    async def read(
        self,
        stream: str,
        subject: str,
        *,
        after: int = 0,
        limit: int = 256,
        direct: bool = False,
    ) -> Sequence[Stored]:
        """Messages on `subject` (wildcards allowed) with a sequence above `after`, in order, at most `limit`.

        Fewer than `limit` means that these were all at that moment.
        """
        ...

    async def follow(
        self,
        stream: str,
        subject: str,
        handler: StoredHandler,
        *,
        after: int | None = None,
        last: bool = False,
    ) -> Subscription:
        """Hands every message on `subject` to `handler`, in order, none twice, through reconnects.

        From those after sequence `after`; None: new ones only; `last`: first the last one of each subject, then
        new ones.
        """
        ...

    async def stream_state(self, stream: str) -> StreamState | None: ...
    async def consumer_state(self, stream: str, consumer: str) -> ConsumerState | None: ...

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
        """Keeps pull requests open for at most `capacity()` messages altogether, each living `expiry` seconds.

        `capacity()` is asked before each request; 0 sends none until `wake()` or a tick later. Goes on through
        reconnects and while the consumer does not exist (it is looked for again each second).
        """
        ...

    async def ack(self, ack_subject: str) -> None: ...
    async def nak(self, ack_subject: str, delay: float = 0) -> None: ...
    async def term(self, ack_subject: str, reason: str = "") -> None: ...
    async def beat(self, ack_subject: str) -> None: ...

    async def beat_confirmed(self, ack_subject: str, *, timeout: float = 1.0) -> bool:
        """Beats and waits for the server's word; False when none came. Order with other beats is kept."""
        ...

    async def open_beater(self) -> Beater: ...

    # -- assets
    async def ensure(self, asset: Asset) -> None:
        """Creates the asset, or verifies it by reading it back. Raises `AssetDrifted` by name and field.

        A consumer with `update` is changed where it differs; what a server can't change is still `AssetDrifted`. A
        stream that was made without TTLs gets them when they are declared now.
        """
        ...

    async def assets(self, prefix: str) -> Sequence[str]:
        """Names of the streams that start with `prefix`."""
        ...

    async def remove(self, stream: str, consumer: str = "") -> bool:
        """Deletes a stream, or one consumer of it; False when it is not there."""
        ...

    async def flush(self) -> None:
        """Returns when the server has read all that was sent before."""
        ...

    async def close(self) -> None:
        """Sends what is queued, then closes. May be called twice."""
        ...
