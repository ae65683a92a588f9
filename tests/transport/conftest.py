"""Connections to the shared server."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from jetloom.transport import NatsTransport, connect


@pytest.fixture
async def transport(nats_url: str) -> AsyncGenerator[NatsTransport]:
    made = await connect(nats_url, name="test")
    yield made
    await made.close()
