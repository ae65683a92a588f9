"""A typed bucket of the latest values, with conditional writes."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

import msgspec

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import (
    ConditionFailed,
    DecodeFailed,
    Disconnected,
    FencedOff,
    InvalidInput,
    NameInvalid,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from ..messages import H_FENCE, H_KV_OPERATION, H_NONCE, bucket_key, bucket_stream, decode_plain, encode
from ..transport import Stored, StreamAsset, Transport
from ..types import JSON, Duration, seconds

READ_BATCH = 256
"""Keys in one read of a listing; a page of this many values stays far below a megabyte for small ones."""

TRIES_MAX = 8
"""Of one write whose outcome is unknown, with pauses of 0.05 s doubled up to 1 s: above a leader's change (4-8 s)
together with the time each try waits."""

MODIFY_TRIES_MAX = 1_000
"""Of one change under contention. In each round somebody gets on, so this is above any number of writers that meet."""

EXPIRY_LOOK = 0.15
"""At least between a watch's looks at values that should have expired; the server is up to 0.25 s late."""

TTL_MIN = 1.0
"""The server counts TTLs in whole seconds."""

_KEY = re.compile(r"[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*")
_KEY_CHARACTERS_MAX = 512
_PATTERN = re.compile(r"([A-Za-z0-9_=/-]+|\*)(\.([A-Za-z0-9_=/-]+|\*))*(\.>)?|>")
_GONE = ("DEL", "PURGE")


class Entry[T](msgspec.Struct, frozen=True):
    """A key's value; `revision` is what a conditional write of it expects."""

    key: str
    value: T
    revision: int


class Change[T](msgspec.Struct, frozen=True):
    """What a watch reports; without an entry the key was deleted."""

    key: str
    entry: Entry[T] | None
    revision: int


class KeyValue[T]:
    """One bucket. Keys are dotted tokens of `A-Z a-z 0-9 _ - = /`; a key that was deleted is absent.

    Values of type `T` are JSON on the wire, so `nats kv get` reads them and `nats kv put` writes them; one that does
    not fit raises `DecodeFailed`. With an `asset` the bucket is made, or verified, at the first use.

    `ttl` (at least 1 s, rounded up to whole seconds) is how long that value is kept; the next write of the key decides
    anew. A value that expires is absent at most a quarter of a second later.

    `fence` is the fence of a lock. It is kept with the value, and a write with an older one raises `FencedOff`. After
    `claim(key, fence)` no write with an older fence is accepted any more; without a claim that is so only after the
    first write with the newer one. It holds among writers that all give a fence, and as long as the key has no ttl.
    """

    def __init__(
        self,
        transport: Transport,
        bucket: str,
        value_type: type[T] | object = JSON,
        *,
        asset: StreamAsset | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.bucket = bucket
        self._transport = transport
        self._stream = bucket_stream(bucket)
        self._prefix = bucket_key(bucket, "")
        self._decoder = None if value_type is JSON else msgspec.json.Decoder(value_type)
        self._asset = asset
        self._ensuring = asyncio.Lock()
        self._ensured = False
        self._clock = clock

    # -- reading
    async def get(self, key: str) -> Entry[T]:
        """Raises `NotFound`."""
        found = await self.find(key)
        if found is None:
            raise NotFound(f"no key {key!r} in bucket {self.bucket}", bucket=self.bucket, key=key)
        return found

    async def find(self, key: str) -> Entry[T] | None:
        """The latest value as the leader has it."""
        stored = await self._last(_checked(key))
        return None if stored is None or _gone(stored) else self._entry(stored)

    async def entries(self, pattern: str = ">") -> list[Entry[T]]:
        """Every present key that matches, in the order of the last writes. Costs a read of all of them."""
        await self._ready()
        found: list[Entry[T]] = []
        after = 0
        while True:
            page = await self._transport.read(
                self._stream, self._prefix + _checked_pattern(pattern), after=after, limit=READ_BATCH
            )
            found.extend(self._entry(stored) for stored in page if not _gone(stored))
            if len(page) < READ_BATCH:
                return found
            after = page[-1].sequence

    async def keys(self, pattern: str = ">") -> list[str]:
        """Every present key that matches. Costs a read of all of them."""
        return [entry.key for entry in await self.entries(pattern)]

    @asynccontextmanager
    async def watch(self, pattern: str = ">") -> AsyncGenerator[AsyncIterator[Change[T]]]:
        """The present entries that match, then every change, until the block is left.

        A slow reader misses intermediate values of a key, never the last one. It goes on after a restart of the
        server. A value that expires is reported as deleted, with the revision that it had, within a second.
        """
        await self._ready()
        seen = _Seen(self._clock)

        async def iterate() -> AsyncIterator[Change[T]]:
            while True:
                await seen.wait()
                while (stored := seen.take()) is not None:
                    key = stored.subject.removeprefix(self._prefix)
                    entry = None if _gone(stored) else self._entry(stored)
                    yield Change(key, entry, stored.sequence)
                while (stored := seen.take_due()) is not None:
                    if await self._expired(stored, seen):
                        yield Change(stored.subject.removeprefix(self._prefix), None, stored.sequence)

        subscription = await self._transport.follow(
            self._stream, self._prefix + _checked_pattern(pattern), seen.keep, last=True
        )
        try:
            yield iterate()
        finally:
            await subscription.stop()

    async def _expired(self, stored: Stored, seen: _Seen) -> bool:
        """Whether a value that is due is gone; else it is looked at again."""
        found = await _attempt(self._transport.last(self._stream, stored.subject))
        if found is not None and found[0] is None:
            return seen.forget(stored)
        if found is None or found[0] == stored:
            seen.again(stored)
        # Another one is there: it is reported as such.
        return False

    # -- writing
    async def create(
        self, key: str, value: T, *, ttl: Duration | None = None, fence: int | None = None
    ) -> int:
        """Writes a key that is absent; its revision. Raises `ConditionFailed` when it is present, `FencedOff`."""
        write = self._prepare(key, encode(value), ttl, fence)
        if fence is None:
            try:
                return await self._write(write, 0)
            except ConditionFailed:
                stored = await self._last(key)
                if stored is None or not _gone(stored):
                    raise
            # Only over exactly that deletion: if somebody else creates the key first, that one has won.
            return await self._write(write, stored.sequence)
        stored = await self._last(key)
        write.check(stored)
        if stored is not None and not _gone(stored):
            raise ConditionFailed(write.subject, 0, stored.sequence)
        return await self._write(write, 0 if stored is None else stored.sequence)

    async def update(
        self, key: str, value: T, revision: int, *, ttl: Duration | None = None, fence: int | None = None
    ) -> int:
        """Writes over exactly `revision`; the new one. Raises `ConditionFailed` when another write was first,
        `FencedOff` when the key has seen a newer fence."""
        write = self._prepare(key, encode(value), ttl, fence)
        await self._check_fence(write, revision)
        return await self._write(write, revision)

    async def put(self, key: str, value: T, *, ttl: Duration | None = None, fence: int | None = None) -> int:
        """Writes whatever is there; the revision. Raises `FencedOff` when the key has seen a newer fence."""
        write = self._prepare(key, encode(value), ttl, fence)
        if fence is None:
            return await self._write(write, None)
        return await self._over_any(write)

    async def delete(self, key: str, *, revision: int | None = None, fence: int | None = None) -> None:
        """Makes the key absent, with `revision` only over exactly that one. An absent key is no error without it."""
        write = self._prepare(key, b"", None, fence, H_KV_OPERATION, "DEL")
        if fence is not None and revision is None:
            await self._over_any(write)
            return
        if revision is not None:
            await self._check_fence(write, revision)
        await self._write(write, revision)

    async def claim(self, key: str, fence: int) -> Entry[T] | None:
        """Reads for a change under a lock: from now on the key takes no write with an older fence.

        The value stays, at a new revision, without a ttl; None for an absent key, which `create` with this fence may
        write. The first thing to do with a key under a lock. Raises `FencedOff` when a newer fence was there.
        """
        for _ in range(MODIFY_TRIES_MAX):
            stored = await self._last(_checked(key))
            absent = stored is None or _gone(stored)
            data = b"" if stored is None else stored.data
            write = self._prepare(key, data, None, fence, *((H_KV_OPERATION, "DEL") if absent else ()))
            write.check(stored)
            entry = None if stored is None or absent else self._entry(stored)
            if stored is not None and _fence(stored) == fence:
                return entry
            try:
                revision = await self._write(write, 0 if stored is None else stored.sequence)
            except ConditionFailed:
                await self._step_aside()
                continue
            return None if entry is None else Entry(key, entry.value, revision)
        raise ConditionFailed(self._prefix + key, 0)

    async def modify(
        self,
        key: str,
        change: Callable[[T | None], T | None],
        *,
        ttl: Duration | None = None,
        fence: int | None = None,
    ) -> Entry[T] | None:
        """Reads, changes and writes conditionally, again until no other write was first; what is stored then.

        `change` gets None for an absent key and may be called several times; giving None deletes the key. Raises
        `ConditionFailed` after 1,000 times, `FencedOff` when the key has seen a newer fence.
        """
        _checked(key)
        for _ in range(MODIFY_TRIES_MAX):
            found = await self.find(key)
            value = change(None if found is None else found.value)
            try:
                if value is None:
                    if found is not None:
                        await self.delete(key, revision=found.revision, fence=fence)
                    return None
                if found is None:
                    return Entry(key, value, await self.create(key, value, ttl=ttl, fence=fence))
                revision = await self.update(key, value, found.revision, ttl=ttl, fence=fence)
                return Entry(key, value, revision)
            except ConditionFailed:
                await self._step_aside()
        raise ConditionFailed(self._prefix + key, 0)

    # -- inside
    def _prepare(
        self, key: str, data: bytes, ttl: Duration | None, fence: int | None, *header: str
    ) -> _Write:
        """Raises what is wrong with key, ttl and fence."""
        length = None if ttl is None else seconds(ttl)
        if length is not None and not length >= TTL_MIN:
            raise InvalidInput(f"a ttl of {length:g} s for key {key!r}: expected at least {TTL_MIN:g} s")
        if fence is not None and fence < 1:
            raise InvalidInput(
                f"fence {fence} for key {key!r}: expected the fence of a lock, which is at least 1"
            )
        headers = {} if fence is None else {H_FENCE: str(fence)}
        if header:
            headers[header[0]] = header[1]
        whole = None if length is None else float(math.ceil(length))
        return _Write(self._prefix + _checked(key), data, headers, whole, fence)

    async def _over_any(self, write: _Write) -> int:
        """Over whatever is there and has no newer fence."""
        for _ in range(MODIFY_TRIES_MAX):
            stored = await self._transport_last(write.subject)
            write.check(stored)
            try:
                return await self._write(write, 0 if stored is None else stored.sequence)
            except ConditionFailed:
                await self._step_aside()
        raise ConditionFailed(write.subject, 0)

    async def _check_fence(self, write: _Write, revision: int) -> None:
        """A revision's fence never changes, so what holds for the one that is read holds when it is written over."""
        if write.fence is None:
            return
        stored = await self._transport_last(write.subject)
        write.check(stored)
        actual = 0 if stored is None else stored.sequence
        if actual != revision:
            raise ConditionFailed(write.subject, revision, actual)

    async def _step_aside(self) -> None:
        # Somebody else got on, so this ends; jitter keeps many writers from meeting again.
        await asyncio.sleep(0.02 * self._clock.random())

    async def _write(self, write: _Write, expected: int | None) -> int:
        """One write until there is a verdict: after an unknown outcome the subject is read back for its nonce."""
        await self._ready()
        subject = write.subject
        nonce = self._clock.token()
        sent = {**write.headers, H_NONCE: nonce}
        unknown: Exception | None = None
        for number in range(TRIES_MAX):
            try:
                done = await self._transport.append(
                    subject, write.data, headers=sent, expected=expected, ttl=write.ttl
                )
            except (OutcomeUnknown, Disconnected) as error:
                unknown = error
            except ConditionFailed:
                if unknown is None:
                    raise
            else:
                return done.sequence
            found = await _attempt(self._transport.last(self._stream, subject))
            if found is not None:
                stored = found[0]
                if stored is not None and stored.headers.get(H_NONCE) == nonce:
                    return stored.sequence
                if expected is None or (stored.sequence if stored is not None else 0) != expected:
                    # Ours may have been stored and overwritten since: one value is kept, nobody can say.
                    raise OutcomeUnknown(subject, str(unknown)) from unknown
            # Nothing new is stored: the same conditional write again can't be done twice.
            await asyncio.sleep(min(1.0, 0.05 * 2**number))
        raise OutcomeUnknown(subject, str(unknown)) from unknown

    async def _last(self, key: str) -> Stored | None:
        return await self._transport_last(self._prefix + key)

    async def _transport_last(self, subject: str) -> Stored | None:
        await self._ready()
        return await self._transport.last(self._stream, subject)

    async def _ready(self) -> None:
        if self._asset is None or self._ensured:
            return
        async with self._ensuring:
            if not self._ensured:
                await self._transport.ensure(self._asset)
                self._ensured = True

    def _entry(self, stored: Stored) -> Entry[T]:
        key = stored.subject.removeprefix(self._prefix)
        what = f"value of {key!r} in bucket {self.bucket}"
        if self._decoder is None:
            return Entry(key, cast("T", decode_plain(stored.data, what)), stored.sequence)
        try:
            return Entry(key, cast("T", self._decoder.decode(stored.data)), stored.sequence)
        except msgspec.MsgspecError as error:
            raise DecodeFailed(what, str(error)) from error


class _Seen:
    """What a watch has still to report: the last message of each key, and values that should have expired."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._latest: dict[str, Stored] = {}
        self._expiring: dict[str, Stored] = {}
        self._due: list[tuple[float, int, Stored]] = []
        self._arrived = asyncio.Event()

    def keep(self, stored: Stored) -> None:
        self._latest.pop(stored.subject, None)
        self._latest[stored.subject] = stored
        ttl = _ttl(stored)
        if ttl:
            self._expiring[stored.subject] = stored
            heapq.heappush(self._due, (stored.at + ttl, stored.sequence, stored))
        else:
            self._expiring.pop(stored.subject, None)
        self._arrived.set()

    async def wait(self) -> None:
        """Until there is something to report, or a value is due."""
        pause = max(EXPIRY_LOOK, self._due[0][0] - self._clock.now()) if self._due else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._arrived.wait()
        self._arrived.clear()

    def take(self) -> Stored | None:
        return self._latest.pop(next(iter(self._latest))) if self._latest else None

    def take_due(self) -> Stored | None:
        while self._due and self._due[0][0] <= self._clock.now():
            _, _, stored = heapq.heappop(self._due)
            if self._expiring.get(stored.subject) is stored:
                return stored
        return None

    def again(self, stored: Stored) -> None:
        """The server is late, or its clock is behind ours."""
        heapq.heappush(self._due, (self._clock.now() + 2 * EXPIRY_LOOK, stored.sequence, stored))

    def forget(self, stored: Stored) -> bool:
        """False when the key has got another value meanwhile, which is reported instead."""
        if self._expiring.get(stored.subject) is not stored or stored.subject in self._latest:
            return False
        del self._expiring[stored.subject]
        return True


class _Write(NamedTuple):
    """What is to be stored, whatever the condition."""

    subject: str
    data: bytes
    headers: dict[str, str]
    ttl: float | None
    fence: int | None

    def check(self, stored: Stored | None) -> None:
        """Raises `FencedOff` when what is stored has a newer fence."""
        if self.fence is not None and stored is not None and (newest := _fence(stored)) > self.fence:
            raise FencedOff(self.subject, self.fence, newest)


async def _attempt(read: Coroutine[object, object, Stored | None]) -> tuple[Stored | None] | None:
    """What the read found, in a tuple; None when there was no answer."""
    try:
        return (await read,)
    except Unavailable:
        return None


def _ttl(stored: Stored) -> float:
    """Seconds after which the server removes it; 0 for never."""
    text = stored.headers.get("Nats-TTL", "").removesuffix("s")
    return float(text) if text.isdecimal() else 0.0


def _fence(stored: Stored) -> int:
    text = stored.headers.get(H_FENCE, "0")
    return int(text) if text.isdecimal() else 0


def _gone(stored: Stored) -> bool:
    return stored.headers.get(H_KV_OPERATION) in _GONE


def _checked(key: str) -> str:
    if len(key) > _KEY_CHARACTERS_MAX or not _KEY.fullmatch(key):
        raise NameInvalid("key", key, "dotted tokens of A-Z a-z 0-9 _ - = /, at most 512 characters")
    return key


def _checked_pattern(pattern: str) -> str:
    if not _PATTERN.fullmatch(pattern):
        raise NameInvalid("pattern", pattern, "a key whose tokens may be *, the last one >")
    return pattern
