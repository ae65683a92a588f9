"""What a step's body knows and can ask for, here and in a worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

from ..errors import PayloadTooLarge
from ..messages import EmitRequest, Names, check_event_type, decode_plain, encode, through_codec
from ..transport import Transport
from ..types import JSON, Actor
from ._constants import HEADER_ROOM
from .core import step_of

logger = logging.getLogger("jetloom.step")

EMITS_MAX = 1_000
NOTE_BYTES_MAX = 256 * 1024
HEARTBEAT = "heartbeat"


class StepLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds run, step and attempt to every line."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class Context:
    """The `StepContext` of one attempt."""

    def __init__(
        self,
        transport: Transport,
        names: Names,
        *,
        run: str,
        inc: int,
        unit: str,
        attempt: int,
        actor: Actor,
        deadline: float | None,
        trace: str = "",
        trace_state: str = "",
        still_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self._transport = transport
        self._names = names
        self._still_ours = still_ours
        self.run = run
        self.inc = inc
        self.unit = unit
        self.attempt = attempt
        self.actor = actor
        self.trace = trace
        self.trace_state = trace_state
        self._deadline = deadline
        self.emits: list[EmitRequest] = []
        self.noted = False

    @property
    def step(self) -> str:
        return step_of(self.unit)

    @property
    def key(self) -> str:
        return f"{self.run}.{self.inc}.{self.unit}"

    @property
    def deadline(self) -> datetime | None:
        return None if self._deadline is None else datetime.fromtimestamp(self._deadline, UTC)

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        return StepLogger(logger, {"run": self.run, "step": self.step, "attempt": self.attempt})

    def emit(self, event_type: str, payload: object = None, *, key: str = "") -> None:
        check_event_type(event_type)
        if len(self.emits) >= EMITS_MAX:
            raise PayloadTooLarge(f"the events of step {self.step!r}", len(self.emits) + 1, EMITS_MAX)
        size, limit = len(encode(payload)), self._transport.server.max_payload - HEADER_ROOM
        if size > limit:
            raise PayloadTooLarge(f"event {event_type}", size, limit)
        self.emits.append(EmitRequest(event_type, through_codec(payload), key))

    async def heartbeat(self, details: JSON = None) -> None:
        data = encode(details)
        if len(data) > NOTE_BYTES_MAX:
            raise PayloadTooLarge(f"the heartbeat of step {self.step!r}", len(data), NOTE_BYTES_MAX)
        self.noted = True
        if self._still_ours():
            await self._transport.append(self._names.note(self.run, self.inc, self.unit, HEARTBEAT), data)

    async def resume_details(self) -> JSON:
        subject = self._names.note(self.run, self.inc, self.unit, HEARTBEAT)
        stored = await self._transport.last(self._names.markers_stream, subject)
        if stored is None:
            return None
        self.noted = True
        return decode_plain(stored.data, f"the heartbeat of step {self.step}")
