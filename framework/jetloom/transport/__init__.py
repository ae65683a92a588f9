"""The only door to NATS.

The port says what jetloom needs; `connect` gives it on a real connection, `MemoryServer` in memory, with faults
by a plan. Both keep the same conformance suite. `EmbeddedServer` starts a nats-server when there is none.

The port's types load at once, the implementations when they are first asked for: nats-py and aiohttp take 0.2 s.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._acks import delivery_number
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
    Write,
)

if TYPE_CHECKING:
    from ._baseline import Baseline
    from ._connect import check_version, connect
    from ._embedded import EmbeddedServer, ServerBinary, find_server
    from ._memory import Calm, Fate, Faults, MemoryServer, MemoryTransport, Op
    from ._nats import NatsTransport

__all__ = [
    "NO_HEADERS",
    "REQUEST_SECONDS",
    "Appended",
    "Asset",
    "Baseline",
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
    "Write",
    "check_version",
    "connect",
    "delivery_number",
    "find_server",
]

_HOMES = {
    "Baseline": "._baseline",
    "Calm": "._memory",
    "EmbeddedServer": "._embedded",
    "Fate": "._memory",
    "Faults": "._memory",
    "MemoryServer": "._memory",
    "MemoryTransport": "._memory",
    "NatsTransport": "._nats",
    "Op": "._memory",
    "ServerBinary": "._embedded",
    "check_version": "._connect",
    "connect": "._connect",
    "find_server": "._embedded",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
