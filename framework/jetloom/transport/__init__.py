"""The only door to NATS.

The port says what jetloom needs; `connect` gives it on a real connection, `MemoryServer` in memory, with faults
by a plan. Both keep the same conformance suite. `EmbeddedServer` starts a nats-server when there is none.
"""

from ._connect import check_version, connect
from ._embedded import EmbeddedServer, ServerBinary, find_server
from ._memory import Calm, Fate, Faults, MemoryServer, MemoryTransport, Op
from ._nats import NatsTransport
from ._port import (
    NO_HEADERS,
    REQUEST_SECONDS,
    Appended,
    Asset,
    Beater,
    ConsumerAsset,
    ConsumerState,
    Delivery,
    DeliveryHandler,
    Incoming,
    IncomingHandler,
    Pull,
    Reply,
    Schedule,
    ServerInfo,
    SourceAsset,
    Stored,
    StoredHandler,
    StreamAsset,
    StreamState,
    Subscription,
    Transform,
    Transport,
)

__all__ = [
    "NO_HEADERS",
    "REQUEST_SECONDS",
    "Appended",
    "Asset",
    "Beater",
    "Calm",
    "ConsumerAsset",
    "ConsumerState",
    "Delivery",
    "DeliveryHandler",
    "EmbeddedServer",
    "Fate",
    "Faults",
    "Incoming",
    "IncomingHandler",
    "MemoryServer",
    "MemoryTransport",
    "NatsTransport",
    "Op",
    "Pull",
    "Reply",
    "Schedule",
    "ServerBinary",
    "ServerInfo",
    "SourceAsset",
    "Stored",
    "StoredHandler",
    "StreamAsset",
    "StreamState",
    "Subscription",
    "Transform",
    "Transport",
    "check_version",
    "connect",
    "find_server",
]
