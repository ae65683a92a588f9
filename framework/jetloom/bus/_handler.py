"""What handles which events, and how: the contract between a declaration and the subscription that serves it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Literal

import msgspec

from ..types import JSON
from ._event import Event, PayloadDecoder
from ._retry import Retry

type Mode = Literal["group", "broadcast", "live"]
"""`group`: durable, each event to one replica of the module. `broadcast`: each event to every replica, acknowledged and
retried, from the replica's start on. `live`: what is stored while this replica listens, once, not acknowledged."""

type Start = Literal["all", "new"] | datetime | int
"""Where a durable subscription begins when it is made: the oldest event, the next one, a time, a sequence."""


class EventHandler[T](msgspec.Struct, frozen=True, kw_only=True):
    """One handler. Durations in seconds.

    `module` and `name` make the group. `pattern` is a type in which `*` is any token and a last `>` all that follow.
    `where` is a CEL condition over `event` (its fields, `event.payload` among them): an event for which it is false is
    acknowledged unseen. With `key`, a CEL expression over `event`, events of one key are handled one after the other
    in the order of the stream, also over retries and takeovers; one replica at a time is active then. With `many` in
    place of `function` it takes at most `batch` events at once, the first of which waited at most `batch_wait`.
    `dedupe` above 0: an event whose source and id were handled within that time is acknowledged unseen.
    `timeout` limits one call. `schema` describes the payload.
    """

    module: str
    name: str
    pattern: str
    decoder: PayloadDecoder[T]
    function: Callable[[Event[T]], Awaitable[None]] | None = None
    many: Callable[[list[Event[T]]], Awaitable[None]] | None = None
    mode: Mode = "group"
    start: Start = "all"
    where: str = ""
    key: str = ""
    batch: int = 0
    batch_wait: float = 1.0
    dedupe: float = 0
    timeout: float | None = None
    retry: Retry = Retry()
    concurrency: int = 16
    ack_wait: float = 30.0
    schema: dict[str, JSON] | None = None
