"""Events on the wire: CloudEvents 1.0 in binary mode, and the plain JSON that any NATS client may send instead."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from ..types import Actor
from ._headers import H_ACTOR, H_CONTENT_TYPE, H_TRACE

CE_ID = "ce-id"
CE_TYPE = "ce-type"
CE_SOURCE = "ce-source"
CE_TIME = "ce-time"
CE_SPEC = "ce-specversion"
CE_CORRELATION = "ce-correlationid"
CE_CAUSATION = "ce-causationid"


class EventHeaders(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event without its payload. `type` is `namespace.type`; `time` seconds since the epoch."""

    id: str
    type: str
    source: str
    time: float
    actor: Actor | None = None
    trace: str = ""
    correlation: str = ""
    causation: str = ""


def to_headers(event: EventHeaders) -> dict[str, str]:
    """The NATS headers of an event."""
    headers = {
        CE_SPEC: "1.0",
        CE_ID: event.id,
        CE_TYPE: event.type,
        CE_SOURCE: event.source,
        CE_TIME: to_rfc3339(event.time),
        H_CONTENT_TYPE: "application/json",
    }
    if event.actor is not None:
        headers[H_ACTOR] = str(event.actor)
    for name, value in (
        (H_TRACE, event.trace),
        (CE_CORRELATION, event.correlation),
        (CE_CAUSATION, event.causation),
    ):
        if value:
            headers[name] = value
    return headers


def from_headers(
    headers: Mapping[str, str], *, event_type: str, sequence: int, stored_at: float
) -> EventHeaders:
    """Reads an event's headers. Without them: id `EVENTS-<sequence>`, the stored time, source `unknown`."""
    found = {name.lower(): value for name, value in headers.items()}
    actor = found.get(H_ACTOR.lower())
    return EventHeaders(
        id=found.get(CE_ID) or f"EVENTS-{sequence}",
        type=event_type,
        source=found.get(CE_SOURCE) or "unknown",
        time=from_rfc3339(found.get(CE_TIME, ""), stored_at),
        actor=Actor.parse(actor) if actor else None,
        trace=found.get(H_TRACE, ""),
        correlation=found.get(CE_CORRELATION, ""),
        causation=found.get(CE_CAUSATION, ""),
    )


def to_rfc3339(seconds: float) -> str:
    """UTC with microseconds, ending in Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def from_rfc3339(text: str, default: float) -> float:
    """Seconds since the epoch; `default` for what is no time with a zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return default
    return moment.timestamp() if moment.tzinfo is not None else default
