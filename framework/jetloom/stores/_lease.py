"""A lock as the bucket has it, and as its holder proves it.

A lock is one message with a TTL. Free: none, or a deletion. It is taken, renewed and freed by a write that is
conditional on what was read, so that of many only one succeeds; the fence is the sequence of the write that took it.
"""

from __future__ import annotations

import asyncio
import math
from typing import Literal

import msgspec

from ..clock import Clock
from ..errors import (
    ConditionFailed,
    Disconnected,
    ErrorClass,
    InvalidInput,
    JetloomError,
    NameInvalid,
    OutcomeUnknown,
    Refused,
    Unavailable,
)
from ..messages import H_KV_OPERATION, H_NONCE, Names, encode
from ..transport import Stored, Transport

TTL_MIN = 1.0
"""The server counts TTLs in whole seconds."""

TTL_MAX = 86_400.0
"""A lock that outlives its crashed holder by more than a day is a flag, and belongs into a bucket."""

MARGIN_MAX = 1.0
"""How long before its end on the server a lease counts as lost: a tenth of the ttl, at most this. Above what a busy
event loop needs to cancel the body."""

RELEASE_SECONDS = 2.0
"""For freeing a lock. Above a round trip on a busy server; what was not freed then expires."""

RETRY = 0.05
"""After a write or read without an answer."""

NAME_CHARACTERS_MAX = 160
"""Of a lock's name: escaped it stays far below a subject's limit in nearly every alphabet."""

RESERVED = frozenset({"sweeper"})
"""The engines' own."""

GONE = ("DEL", "PURGE")


class LockValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """A held lock on the wire. `fence` 0: the message's own sequence. Times are seconds since the epoch.

    `process` is the holder's, as it stands in line with others; `engine` is what the engines' own lock has.
    """

    owner: str = ""
    until: float = 0.0
    since: float = 0.0
    fence: int = 0
    ttl: float = 0.0
    process: str = ""
    engine: str = ""


class LockInfo(msgspec.Struct, frozen=True):
    """Who holds a lock. Times are seconds since the epoch; without a renewal it is free after `until`."""

    name: str
    owner: str
    fence: int
    since: float
    until: float
    ttl: float


class Lease:
    """What a holder knows of its lock: the revision to write over, and how far it is proven.

    `proven` is the monotonic time before the sending of the last write that is known stored: the server counts the
    ttl from later on.
    """

    __slots__ = ("fence", "nonces", "proven", "revision", "since", "subject", "ttl")

    def __init__(self, subject: str, ttl: float, fence: int, proven: float, since: float) -> None:
        self.subject = subject
        self.ttl = ttl
        self.fence = fence
        self.revision = fence
        self.proven = proven
        self.since = since
        self.nonces: dict[str, float] = {}
        """Renewals without a verdict, with their sending times."""

    @property
    def deadline(self) -> float:
        """Monotonic time from which on the lock is not proven any more."""
        return self.proven + self.ttl - min(MARGIN_MAX, self.ttl / 10)

    def renewed(self, revision: int, proven: float) -> None:
        self.revision = revision
        self.proven = proven
        # An older write without a verdict was conditional on the revision before: it can't be stored any more.
        self.nonces.clear()


class LockStore:
    """The bucket of locks."""

    def __init__(self, transport: Transport, names: Names, clock: Clock, owner: str) -> None:
        self.process = clock.token()[:16]
        self.transport = transport
        self.names = names
        self.clock = clock
        self._owner = owner or f"process {self.process}"

    async def read(self, subject: str) -> Stored | None:
        """The lock's message as the leader has it. Raises `Unavailable`, `Refused` without a stream."""
        return await self.transport.last(self.names.locks_stream, subject)

    async def take(self, subject: str, ttl: float, expected: int, nonce: str) -> tuple[Lease, Stored]:
        """Writes over exactly what was read. Raises `ConditionFailed`, `OutcomeUnknown`, `Disconnected`."""
        sent, now = self.clock.monotonic(), self.clock.now()
        value = LockValue(self._owner, now + ttl, now, ttl=ttl, process=self.process)
        sequence = await self._write(subject, value, nonce, expected, ttl)
        stored = Stored(subject, sequence, encode(value), {H_NONCE: nonce}, now)
        return Lease(subject, ttl, sequence, sent, now), stored

    async def renew(self, lease: Lease) -> Literal["renewed", "gone", "unknown"]:
        """One try. `unknown`: nobody can say yet, try again."""
        nonce, sent = self.clock.token(), self.clock.monotonic()
        lease.nonces[nonce] = sent
        until = self.clock.now() + lease.ttl
        value = LockValue(self._owner, until, lease.since, lease.fence, lease.ttl, self.process)
        try:
            sequence = await self._write(lease.subject, value, nonce, lease.revision, lease.ttl)
        except (ConditionFailed, OutcomeUnknown, Disconnected, Refused):
            pass
        else:
            lease.renewed(sequence, sent)
            return "renewed"
        try:
            stored = await self.read(lease.subject)
        except (Unavailable, Refused):
            return "unknown"
        if stored is None:
            return "gone"
        found = lease.nonces.get(stored.headers.get(H_NONCE, ""))
        if found is not None:
            lease.renewed(stored.sequence, found)
            return "renewed"
        return "unknown" if stored.sequence == lease.revision else "gone"

    async def release(self, lease: Lease) -> bool:
        """Frees the lock if it is still this lease's; False when nobody can say within two seconds."""
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                return await self._release(lease)
        except TimeoutError:
            return False

    async def _release(self, lease: Lease) -> bool:
        nonce = self.clock.token()
        # The deletion goes by itself a second later: a bucket of a million names that were used once stays empty.
        headers = {H_KV_OPERATION: "DEL", H_NONCE: nonce}
        while True:
            try:
                await self.transport.append(
                    lease.subject, b"", headers=headers, expected=lease.revision, ttl=TTL_MIN
                )
            except (ConditionFailed, OutcomeUnknown, Disconnected, Refused):
                pass
            else:
                return True
            try:
                stored = await self.read(lease.subject)
            except (Unavailable, Refused):
                await asyncio.sleep(RETRY)
                continue
            found = "" if stored is None else stored.headers.get(H_NONCE, "")
            if stored is None or found == nonce:
                return True
            if found in lease.nonces:
                # A renewal whose answer was not awaited.
                lease.renewed(stored.sequence, lease.nonces[found])
            elif stored.sequence != lease.revision:
                return True
            else:
                await asyncio.sleep(RETRY)

    async def _write(self, subject: str, value: LockValue, nonce: str, expected: int, ttl: float) -> int:
        done = await self.transport.append(
            subject, encode(value), headers={H_NONCE: nonce}, expected=expected, ttl=math.ceil(ttl)
        )
        return done.sequence


def held(stored: Stored | None) -> bool:
    """Whether a lock's message says that somebody has it."""
    return stored is not None and stored.headers.get(H_KV_OPERATION) not in GONE


def lock_value(stored: Stored) -> LockValue:
    """What the message says; nothing for what jetloom did not write."""
    try:
        return msgspec.json.decode(stored.data, type=LockValue)
    except msgspec.MsgspecError:
        return LockValue()


def lock_info(names: Names, stored: Stored) -> LockInfo:
    """Who holds the lock, by its message; another program's comes without an end."""
    value = lock_value(stored)
    return LockInfo(
        name=names.lock_name(stored.subject),
        owner=value.owner or value.engine or "another program",
        fence=value.fence or stored.sequence,
        since=value.since or stored.at,
        until=value.until,
        ttl=value.ttl,
    )


LIST_PAGE = 256


async def list_locks(transport: Transport, names: Names) -> list[LockInfo]:
    """Every lock that is held now, in the order of their names. Costs a read of all of them."""
    found: list[LockInfo] = []
    after = 0
    while True:
        page = await transport.read(
            names.locks_stream, f"$KV.{names.locks_bucket}.>", after=after, limit=LIST_PAGE
        )
        found.extend(lock_info(names, stored) for stored in page if held(stored))
        if len(page) < LIST_PAGE:
            return sorted(found, key=lambda info: info.name)
        after = page[-1].sequence


async def find_lock(transport: Transport, names: Names, name: str) -> LockInfo | None:
    """Who holds the lock now; None when it is free."""
    stored = await transport.last(names.locks_stream, names.lock(name))
    return lock_info(names, stored) if stored is not None and held(stored) else None


def check_lock_name(name: str) -> str:
    """Raises `NameInvalid`."""
    if not name or len(name) > NAME_CHARACTERS_MAX:
        raise NameInvalid("lock name", name, f"1-{NAME_CHARACTERS_MAX} characters, any of them")
    if name in RESERVED:
        raise NameInvalid("lock name", name, "a name that the engines don't use themselves")
    return name


def check_ttl(ttl: float) -> float:
    """Raises `InvalidInput`."""
    if not TTL_MIN <= ttl <= TTL_MAX:
        raise InvalidInput(
            f"a lock's ttl of {ttl:g} s: expected {TTL_MIN:g} s to {TTL_MAX:g} s; it is how long a crashed holder "
            "blocks the others, and is renewed while the block runs"
        )
    return ttl


def passing(error: JetloomError) -> bool:
    """Whether trying again may help: the server is away, or there is no verdict."""
    return isinstance(error, Unavailable | OutcomeUnknown) and error.error_class is ErrorClass.RETRYABLE
