"""A server for each test: they all use the default namespace, as the pages do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from jetloom.transport import EmbeddedServer


@pytest.fixture
async def url(tmp_path: Path) -> AsyncGenerator[str]:
    async with EmbeddedServer(tmp_path / "store", 0) as server:
        yield server.url


@pytest.fixture
def page(repo_root: Path) -> Path:
    return repo_root / "docs/how-to/interoperate.md"
