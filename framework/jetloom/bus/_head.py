"""Reading what an event's headers say, and what an expression sees of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from ..messages import (
    H_ACTOR,
    H_CONTENT_TYPE,
    H_TRACE,
    H_TRACE_STATE,
    attribute_of,
    decode_plain,
    from_headers,
    to_rfc3339,
)
from ..types import JSON, Actor

_CE_ID, _CE_SOURCE, _CE_TIME = "ce-id", "ce-source", "ce-time"
_CE_CORRELATION, _CE_CAUSATION = "ce-correlationid", "ce-causationid"
_KNOWN = frozenset(
    {
        _CE_ID, _CE_SOURCE, _CE_TIME, _CE_CORRELATION, _CE_CAUSATION, "ce-type", "ce-specversion",
        H_ACTOR, H_CONTENT_TYPE, H_TRACE, H_TRACE_STATE, "Nats-Msg-Id", "Nats-TTL",
        "Nats-Expected-Last-Subject-Sequence",
    }
)  # fmt: skip
"""Headers in the spelling that jetloom gives them: where there are no others, none is looked for in another case."""


class Head(NamedTuple):
    """An event without its payload."""

    id: str
    type: str
    source: str
    time: datetime
    actor: Actor | None
    trace: str
    trace_state: str
    correlation: str
    causation: str


def read_head(headers: Mapping[str, str], event_type: str, sequence: int, stored_at: float) -> Head:
    """What the headers say, with the stand-ins for what they don't."""
    if not _KNOWN.issuperset(headers):
        return _read_any(headers, event_type, sequence, stored_at)
    actor = headers.get(H_ACTOR)
    return Head(
        attribute_of(headers.get(_CE_ID, "")) or f"EVENTS-{sequence}",
        event_type,
        attribute_of(headers.get(_CE_SOURCE, "")) or "unknown",
        _moment(headers.get(_CE_TIME), stored_at),
        Actor.parse(actor) if actor else None,
        headers.get(H_TRACE, ""),
        headers.get(H_TRACE_STATE, ""),
        attribute_of(headers.get(_CE_CORRELATION, "")),
        attribute_of(headers.get(_CE_CAUSATION, "")),
    )


def _read_any(headers: Mapping[str, str], event_type: str, sequence: int, stored_at: float) -> Head:
    found = from_headers(headers, event_type=event_type, sequence=sequence, stored_at=stored_at)
    state = next(
        (value for name, value in headers.items() if name.lower() in (H_TRACE_STATE, f"ce-{H_TRACE_STATE}")),
        "",
    )
    return Head(
        found.id,
        found.type,
        found.source,
        datetime.fromtimestamp(found.time, UTC),
        found.actor,
        found.trace,
        state,
        found.correlation,
        found.causation,
    )


def _moment(text: str | None, stored_at: float) -> datetime:
    if text:
        try:
            moment = datetime.fromisoformat(attribute_of(text))
        except ValueError:
            pass
        else:
            if moment.tzinfo is UTC:
                return moment
            if moment.tzinfo is not None:
                return moment.astimezone(UTC)
    return datetime.fromtimestamp(stored_at, UTC)


def scope_of(head: Head, data: bytes, *, sequence: int, delivery: int, with_payload: bool) -> dict[str, JSON]:
    """What `where` and `key` see: `event`, whose payload is as it was sent. Raises `DecodeFailed`."""
    namespace, _, name = head.type.rpartition(".")
    actor = head.actor
    event: dict[str, JSON] = {
        "id": head.id,
        "type": head.type,
        "namespace": namespace,
        "name": name,
        "source": head.source,
        "time": to_rfc3339(head.time.timestamp()),
        "sequence": sequence,
        "delivery": delivery,
        "actor": None if actor is None else {"kind": str(actor.kind), "id": actor.id, "name": actor.name},
        "trace": head.trace,
        "correlation": head.correlation,
        "causation": head.causation,
    }
    if with_payload:
        event["payload"] = decode_plain(data, f"payload of {head.type}")
    return {"event": event}
