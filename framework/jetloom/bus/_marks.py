"""Which events a handler has handled already: for longer than the stream's own window.

A mark is one key per handler and event, with a TTL. *Open*: somebody handles it. *Done*: it was handled. An open mark
is renewed while the handler works; one that is not renewed for the ack wait belonged to a process that is gone, and is
taken over. The same delivery again takes over its own mark at once: its consumer gives it to nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

import msgspec

from ..clock import Clock
from ..errors import ConditionFailed, Disconnected, JetloomError, OutcomeUnknown, RequestTimeout
from ..messages import Names, bucket_key, digest, encode
from ..stores import handled_asset
from ..telemetry import get_logger
from ..transport import Stored, Transport

LOOK_SECONDS = 1.0
"""Between two looks at a mark that somebody else holds."""

TRIES_MAX = 5
"""Of one write without a verdict, with pauses of 0.1 s doubled."""

_logger = get_logger("bus")


class Mark(msgspec.Struct, frozen=True):
    state: Literal["open", "done"]
    sequence: int
    """Of the event in its stream."""
    owner: str
    """New with each write, so that a writer recognises its own."""


class Claim:
    """An open mark that is ours."""

    __slots__ = ("revision", "sequence", "subject")

    def __init__(self, subject: str, sequence: int, revision: int) -> None:
        self.subject = subject
        self.sequence = sequence
        self.revision = revision


class Marks:
    """The marks of one handler, kept for `keep` seconds; open ones are taken over after `stale` without renewal."""

    def __init__(
        self, transport: Transport, names: Names, clock: Clock, consumer: str, *, keep: float, stale: float
    ) -> None:
        self._transport = transport
        self._names = names
        self._clock = clock
        self._consumer = consumer
        self._keep = max(1.0, keep)
        self._stale = stale
        self._claims: dict[str, Claim] = {}

    async def start(self, replicas: int) -> None:
        await self._transport.ensure(handled_asset(self._names, replicas=max(1, replicas)))

    async def claim(
        self, source: str, event_id: str, sequence: int, *, wait: bool = True
    ) -> Claim | Literal["done", "busy"]:
        """Ours to handle; or handled before. While another copy is handled it waits, unless told not to.

        Raises `OutcomeUnknown`, `RequestTimeout`, `Disconnected`.
        """
        key = digest(source.encode(), event_id.encode())[:32]
        subject = bucket_key(self._names.handled_bucket, f"{self._consumer}.{key}")
        expected, seen, since = 0, 0, 0.0
        while True:
            revision = await self._write(subject, "open", sequence, expected)
            if revision is not None:
                claim = self._claims[subject] = Claim(subject, sequence, revision)
                return claim
            stored = await self._transport.last(self._names.handled_stream, subject)
            if stored is None:
                expected = 0
                continue
            mark = _read(stored)
            if mark is not None and mark.state == "done":
                return "done"
            now = self._clock.monotonic()
            if stored.sequence != seen:
                seen, since = stored.sequence, now
            if mark is None or mark.sequence == sequence or now - since >= self._stale:
                expected = stored.sequence
                continue
            if not wait:
                return "busy"
            await asyncio.sleep(min(LOOK_SECONDS, self._stale))

    async def done(self, claim: Claim) -> None:
        """Remembers it as handled. What can't be written is logged: the event was handled."""
        self._claims.pop(claim.subject, None)
        try:
            revision = await self._write(claim.subject, "done", claim.sequence, claim.revision)
        except JetloomError as error:
            _logger.warning(
                "a handled event could not be marked", extra={"key": claim.subject, "because": str(error)}
            )
            return
        if revision is None:
            _logger.warning(
                "a handled event's mark was taken over: another copy may have been handled too",
                extra={"key": claim.subject},
            )

    async def release(self, claim: Claim) -> None:
        """Forgets the claim: the next try, or another copy, begins anew."""
        self._claims.pop(claim.subject, None)
        with contextlib.suppress(OutcomeUnknown, Disconnected, RequestTimeout):
            # What can't be deleted now is taken over later.
            await self._transport.delete(self._names.handled_stream, claim.revision)

    def abandon(self, claim: Claim) -> None:
        """Renews it no more."""
        self._claims.pop(claim.subject, None)

    async def renew(self) -> None:
        """Writes every open mark again, so that nobody takes it for a dead process's."""
        for claim in list(self._claims.values()):
            with contextlib.suppress(JetloomError):
                revision = await self._write(claim.subject, "open", claim.sequence, claim.revision)
                if revision is not None:
                    claim.revision = revision

    async def _write(
        self, subject: str, state: Literal["open", "done"], sequence: int, expected: int
    ) -> int | None:
        """The mark's revision; None when it is another one's."""
        owner = self._clock.token()
        data = encode(Mark(state, sequence, owner))
        unknown = False
        for number in range(TRIES_MAX):
            try:
                done = await self._transport.append(subject, data, expected=expected, ttl=self._keep)
            except ConditionFailed:
                if not unknown:
                    return None
                stored = await self._transport.last(self._names.handled_stream, subject)
                mark = None if stored is None else _read(stored)
                return stored.sequence if stored and mark and mark.owner == owner else None
            except (OutcomeUnknown, Disconnected):
                unknown = True
                await asyncio.sleep(0.1 * 2**number)
            else:
                return done.sequence
        raise OutcomeUnknown(subject, f"no verdict in {TRIES_MAX} tries")


def _read(stored: Stored) -> Mark | None:
    try:
        return msgspec.json.decode(stored.data, type=Mark)
    except msgspec.MsgspecError:
        return None
