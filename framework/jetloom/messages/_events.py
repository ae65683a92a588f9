"""Events on the wire: CloudEvents 1.0 in binary mode. Read are structured mode and plain JSON as well, so that any
producer of CloudEvents and any NATS client can publish."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, unquote

import msgspec

from ..errors import DecodeFailed
from ..types import Actor
from ._headers import H_ACTOR, H_CONTENT_TYPE, H_TRACE, H_TRACE_STATE

CE_ID = "ce-id"
CE_TYPE = "ce-type"
CE_SOURCE = "ce-source"
CE_TIME = "ce-time"
CE_SPEC = "ce-specversion"
CE_CORRELATION = "ce-correlationid"
CE_CAUSATION = "ce-causationid"
CE_ACTOR = "ce-actor"
"""Stands in for `Jetloom-Actor`: an SDK of CloudEvents writes attributes only."""

STRUCTURED = "application/cloudevents"
"""What the content type of an event in structured mode begins with."""

STRUCTURED_JSON = "application/cloudevents+json"

_UNSAFE = re.compile(r'[^\x21-\x7e]|["%]')
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_DISTRIBUTED_TRACING = {"traceparent": H_TRACE, "tracestate": H_TRACE_STATE}


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
        CE_ID: attribute_to_header(event.id),
        CE_TYPE: event.type,
        CE_SOURCE: attribute_to_header(event.source),
        CE_TIME: to_rfc3339(event.time),
        H_CONTENT_TYPE: "application/json",
    }
    if event.actor is not None:
        headers[H_ACTOR] = str(event.actor)
    if event.trace:
        headers[H_TRACE] = event.trace
    if event.correlation:
        headers[CE_CORRELATION] = attribute_to_header(event.correlation)
    if event.causation:
        headers[CE_CAUSATION] = attribute_to_header(event.causation)
    return headers


def from_headers(
    headers: Mapping[str, str], *, event_type: str, sequence: int, stored_at: float
) -> EventHeaders:
    """Reads an event's headers. Without them: id `EVENTS-<sequence>`, the stored time, source `unknown`."""
    found = {name.lower(): value for name, value in headers.items()}
    actor = found.get(H_ACTOR.lower()) or attribute_of(found.get(CE_ACTOR, ""))
    return EventHeaders(
        id=attribute_of(found.get(CE_ID, "")) or f"EVENTS-{sequence}",
        type=event_type,
        source=attribute_of(found.get(CE_SOURCE, "")) or "unknown",
        time=from_rfc3339(attribute_of(found.get(CE_TIME, "")), stored_at),
        actor=Actor.parse(actor) if actor else None,
        trace=found.get(H_TRACE) or found.get(f"ce-{H_TRACE}", ""),
        correlation=attribute_of(found.get(CE_CORRELATION, "")),
        causation=attribute_of(found.get(CE_CAUSATION, "")),
    )


def attribute_to_header(value: str) -> str:
    """Percent-encoded where CloudEvents asks for it: controls, space, `"`, `%`, and what is no ASCII."""
    return quote(value, safe=_SAFE) if _UNSAFE.search(value) else value


def attribute_of(header: str) -> str:
    """The attribute that a header holds, percent-decoded."""
    return unquote(header) if "%" in header else header


def is_structured(headers: Mapping[str, str]) -> bool:
    """The body is the whole event, its attributes included."""
    kind = headers.get(H_CONTENT_TYPE)
    if kind is None:
        if not headers:
            return False
        kind = next((value for name, value in headers.items() if name.lower() == H_CONTENT_TYPE), "")
    return kind[: len(STRUCTURED)].lower() == STRUCTURED


def to_binary_mode(headers: Mapping[str, str], data: bytes) -> tuple[dict[str, str], bytes]:
    """The headers and the body that an event in structured mode has in binary mode. The message's own headers stay.
    Raises `DecodeFailed` for another format than JSON, a batch, and what is no event.
    """
    found = {name: value for name, value in headers.items() if name.lower() != H_CONTENT_TYPE}
    [kind] = [value for name, value in headers.items() if name.lower() == H_CONTENT_TYPE][:1] or [""]
    if kind.partition(";")[0].strip().lower() != STRUCTURED_JSON:
        raise DecodeFailed("the event", f"content type {kind}: one event as {STRUCTURED_JSON} can be read")
    try:
        attributes = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        body = _body_of(attributes)
        for name, raw in attributes.items():
            if name == "datacontenttype":
                found[H_CONTENT_TYPE] = msgspec.json.decode(raw, type=str)
                continue
            value = msgspec.json.decode(raw, type=str | bool | int | None)
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if value is None or not text:
                continue
            if name in _DISTRIBUTED_TRACING:
                found.setdefault(_DISTRIBUTED_TRACING[name], text)
            else:
                found[f"ce-{name}"] = attribute_to_header(text)
    except (msgspec.MsgspecError, binascii.Error) as error:
        raise DecodeFailed("the event in structured mode", str(error)) from error
    return found, body


def _body_of(attributes: dict[str, msgspec.Raw]) -> bytes:
    """Takes the data out of an event's members."""
    plain, coded = attributes.pop("data", None), attributes.pop("data_base64", None)
    if coded is None:
        return b"" if plain is None else bytes(plain)
    text = msgspec.json.decode(coded, type=str | None)
    return base64.b64decode(text, validate=True) if text else b""


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
