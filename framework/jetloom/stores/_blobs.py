"""Blobs: content-addressed chunks that belong to a tree of runs and leave with it."""

from __future__ import annotations

import hashlib

from ..errors import ConditionFailed, DecodeFailed, OutcomeUnknown
from ..messages import BlobRef, Names
from ..transport import Transport

CHUNK = 512 * 1024
"""Bytes per chunk: half of the default max_payload of 1 MiB. A server that takes less gets smaller ones."""
TRIES_MAX = 8


class BlobStore:
    """Puts, gets and verifies. A reference names its owner's tree, so that a purge finds everything by subject."""

    def __init__(self, transport: Transport, names: Names) -> None:
        self._transport = transport
        self._names = names

    async def put(self, root: str, inc: int, data: bytes) -> BlobRef:
        """Stores `data` under its digest; what is there already is not written again. Raises `OutcomeUnknown`."""
        digest = hashlib.sha256(data).hexdigest()
        size = min(CHUNK, self._transport.server.max_payload // 2)
        chunks = max(1, -(-len(data) // size))
        for index in range(chunks):
            subject = self._names.blob(root, inc, digest, index)
            await self._put_chunk(subject, data[index * size : (index + 1) * size])
        return BlobRef(digest, len(data), chunks, root, inc)

    async def _put_chunk(self, subject: str, data: bytes) -> None:
        for attempt in range(TRIES_MAX):
            try:
                await self._transport.append(subject, data, expected=0)
                return
            except ConditionFailed:
                return
            except OutcomeUnknown:
                # The same bytes under the same name: sending them again is refused when they are there.
                if attempt == TRIES_MAX - 1:
                    raise

    async def get(self, ref: BlobRef) -> bytes:
        """The bytes, verified against their digest. Raises `DecodeFailed` when they are gone or changed."""
        parts: list[bytes] = []
        for index in range(ref.chunks):
            stored = await self._transport.last(
                self._names.blobs_stream, self._names.blob(ref.root, ref.inc, ref.digest, index)
            )
            if stored is None:
                raise DecodeFailed(f"blob {ref.digest}", f"chunk {index} of {ref.chunks} is not stored")
            parts.append(stored.data)
        data = b"".join(parts)
        if hashlib.sha256(data).hexdigest() != ref.digest:
            raise DecodeFailed(f"blob {ref.digest}", "its bytes do not have this digest")
        return data

    async def purge(self, root: str, inc: int) -> int:
        """Removes every blob of a run's tree; how many chunks."""
        return await self._transport.purge(
            self._names.blobs_stream, f"{self._names.namespace}.blob.{root}.{inc}.>"
        )
