"""A typed bucket of the latest values, with conditional writes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import cast

import msgspec

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import (
    ConditionFailed,
    DecodeFailed,
    Disconnected,
    NameInvalid,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from ..messages import H_KV_OPERATION, H_NONCE, bucket_key, bucket_stream, decode_plain, encode
from ..transport import Stored, StreamAsset, Transport
from ..types import JSON

READ_BATCH = 256
"""Keys in one read of a listing; a page of this many values stays far below a megabyte for small ones."""

TRIES_MAX = 8
"""Of one write whose outcome is unknown, with pauses of 0.05 s doubled up to 1 s: above a leader's change (4-8 s)
together with the time each try waits."""

MODIFY_TRIES_MAX = 1_000
"""Of one change under contention. In each round somebody gets on, so this is above any number of writers that meet."""

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

        A slow reader misses intermediate values of a key, never the last one.
        """
        await self._ready()
        latest: dict[str, Stored] = {}
        arrived = asyncio.Event()

        def keep(stored: Stored) -> None:
            latest.pop(stored.subject, None)
            latest[stored.subject] = stored
            arrived.set()

        async def iterate() -> AsyncIterator[Change[T]]:
            while True:
                await arrived.wait()
                while latest:
                    stored = latest.pop(next(iter(latest)))
                    key = stored.subject.removeprefix(self._prefix)
                    entry = None if _gone(stored) else self._entry(stored)
                    yield Change(key, entry, stored.sequence)
                arrived.clear()

        subscription = await self._transport.follow(
            self._stream, self._prefix + _checked_pattern(pattern), keep, last=True
        )
        try:
            yield iterate()
        finally:
            await subscription.stop()

    # -- writing
    async def create(self, key: str, value: T) -> int:
        """Writes a key that is absent; its revision. Raises `ConditionFailed` when it is present."""
        subject, data = self._prefix + _checked(key), encode(value)
        try:
            return await self._write(subject, data, 0)
        except ConditionFailed:
            stored = await self._last(key)
            if stored is None or not _gone(stored):
                raise
        # Only over exactly that deletion: if somebody else creates the key first, that one has won.
        return await self._write(subject, data, stored.sequence)

    async def update(self, key: str, value: T, revision: int) -> int:
        """Writes over exactly `revision`; the new one. Raises `ConditionFailed` when another write was first."""
        return await self._write(self._prefix + _checked(key), encode(value), revision)

    async def put(self, key: str, value: T) -> int:
        """Writes whatever is there; the revision."""
        return await self._write(self._prefix + _checked(key), encode(value), None)

    async def delete(self, key: str, *, revision: int | None = None) -> None:
        """Makes the key absent, with `revision` only over exactly that one. An absent key is no error without it."""
        await self._write(self._prefix + _checked(key), b"", revision, {H_KV_OPERATION: "DEL"})

    async def modify(self, key: str, change: Callable[[T | None], T | None]) -> Entry[T] | None:
        """Reads, changes and writes conditionally, again until no other write was first; what is stored then.

        `change` gets None for an absent key and may be called several times; giving None deletes the key. Raises
        `ConditionFailed` after 1,000 times.
        """
        _checked(key)
        for _ in range(MODIFY_TRIES_MAX):
            found = await self.find(key)
            value = change(None if found is None else found.value)
            try:
                if value is None:
                    if found is not None:
                        await self.delete(key, revision=found.revision)
                    return None
                if found is None:
                    return Entry(key, value, await self.create(key, value))
                return Entry(key, value, await self.update(key, value, found.revision))
            except ConditionFailed:
                # Somebody else got on, so this ends; jitter keeps many writers from meeting again.
                await asyncio.sleep(0.02 * self._clock.random())
        raise ConditionFailed(self._prefix + key, 0)

    # -- inside
    async def _write(
        self, subject: str, data: bytes, expected: int | None, headers: dict[str, str] | None = None
    ) -> int:
        """One write until there is a verdict: after an unknown outcome the subject is read back for its nonce."""
        await self._ready()
        nonce = self._clock.token()
        sent = {**(headers or {}), H_NONCE: nonce}
        unknown: Exception | None = None
        for number in range(TRIES_MAX):
            try:
                done = await self._transport.append(subject, data, headers=sent, expected=expected)
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
        await self._ready()
        return await self._transport.last(self._stream, self._prefix + key)

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


async def _attempt(read: Coroutine[object, object, Stored | None]) -> tuple[Stored | None] | None:
    """What the read found, in a tuple; None when there was no answer."""
    try:
        return (await read,)
    except Unavailable:
        return None


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
