"""What every test shares: a clean environment, hypothesis settings, the repository's root."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from jetloom.transport import EmbeddedServer

ROOT = Path(__file__).resolve().parent.parent

# A property's deadline would assert on the machine's speed; in CI the same examples are tried every time.
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The folder of pyproject.toml."""
    return ROOT


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's `JETLOOM_*` settings don't reach a test. `NATS_URL` does, as it names a server."""
    for name in [name for name in os.environ if name.startswith("JETLOOM_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of this test process: tests that share it take namespaces of their own."""
    server = EmbeddedServer(tmp_path_factory.mktemp("nats"), 0)
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())
