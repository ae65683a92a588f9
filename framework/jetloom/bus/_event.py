"""An event as a handler sees it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

import msgspec

from ..errors import DecodeFailed
from ..messages import decode_plain, from_headers, is_structured, to_binary_mode
from ..types import JSON, Actor


class Event[T](msgspec.Struct, frozen=True, kw_only=True):
    """A fact on the bus.

    `type` is the whole type, such as `shop.order.placed`; `namespace` and `name` are its parts. `id` with `source` is
    the same for every delivery: what must not happen twice is remembered under it. `delivery` is 1 the first time.
    """

    id: str
    type: str
    source: str
    time: datetime
    payload: T
    sequence: int
    delivery: int = 1
    actor: Actor | None = None
    trace: str = ""
    correlation: str = ""
    causation: str = ""

    @property
    def namespace(self) -> str:
        return self.type.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.type.rpartition(".")[2]


class PayloadDecoder[T]:
    """Decodes the payload of one type, once built. Raises `TypeError` for a type that msgspec can't decode."""

    def __init__(self, kind: type[T] | object) -> None:
        self._plain = kind is JSON or kind is object
        self._decoder = None if self._plain else msgspec.json.Decoder(kind)

    def decode(self, data: bytes, what: str) -> T:
        """Raises `DecodeFailed` for what is no JSON or does not fit. An empty body is null."""
        if self._decoder is None:
            return cast("T", decode_plain(data, what))
        try:
            return cast("T", self._decoder.decode(data or b"null"))
        except msgspec.MsgspecError as error:
            raise DecodeFailed(what, str(error)) from error


def read_event(
    headers: Mapping[str, str], data: bytes, *, event_type: str, sequence: int, stored_at: float
) -> Event[JSON]:
    """For people: what is no JSON becomes text."""
    if is_structured(headers):
        # What can't be read stays as it is: somebody wants to see it.
        with contextlib.suppress(DecodeFailed):
            headers, data = to_binary_mode(headers, data)
    head = from_headers(headers, event_type=event_type, sequence=sequence, stored_at=stored_at)
    try:
        payload = decode_plain(data, "payload")
    except DecodeFailed:
        payload = data.decode(errors="replace")
    return Event(
        id=head.id,
        type=head.type,
        source=head.source,
        time=datetime.fromtimestamp(head.time, UTC),
        payload=payload,
        sequence=sequence,
        actor=head.actor,
        trace=head.trace,
        correlation=head.correlation,
        causation=head.causation,
    )
