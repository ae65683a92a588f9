"""Blobs: chunks that fit the server, verified when they are read, gone with their run."""

from __future__ import annotations

import asyncio

import pytest

from jetloom.errors import DecodeFailed
from jetloom.messages import Names
from jetloom.stores import BlobStore, namespace_assets
from jetloom.testing import VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import MemoryServer, MemoryTransport


async def _transport(max_payload: int) -> MemoryTransport:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    transport = MemoryServer(VirtualClock(loop, 1), max_payload=max_payload).connect("blobs")
    for asset in namespace_assets(Names()):
        await transport.ensure(asset)
    return transport


@pytest.mark.parametrize("max_payload", [65_536, 1_048_576])
def test_put_get_and_purge(max_payload: int) -> None:
    """What is put comes back, twice the same bytes are stored once, and a purge leaves nothing."""

    async def main() -> None:
        transport = await _transport(max_payload)
        blobs, data = BlobStore(transport, Names()), bytes(range(256)) * 8_000
        ref = await blobs.put("run", 7, data)
        assert ref.chunks >= 2
        assert await blobs.put("run", 7, data) == ref
        state = await transport.stream_state(Names().blobs_stream)
        assert state is not None
        assert state.messages == ref.chunks
        assert await blobs.get(ref) == data
        assert await blobs.purge("run", 8) == 0
        assert await blobs.purge("run", 7) == ref.chunks
        with pytest.raises(DecodeFailed, match="not stored"):
            await blobs.get(ref)

    run_virtual(main)


def test_changed_bytes_are_refused() -> None:
    """A chunk that is not what its digest says is an error, never a value."""

    async def main() -> None:
        transport = await _transport(1_048_576)
        blobs = BlobStore(transport, Names())
        ref = await blobs.put("run", 7, b"the right bytes")
        subject = Names().blob("run", 7, ref.digest, 0)
        await transport.purge(Names().blobs_stream, subject)
        await transport.append(subject, b"the wrong bytes")
        with pytest.raises(DecodeFailed, match="digest"):
            await blobs.get(ref)

    run_virtual(main)
