"""What the suite runs on: the memory twin, and a real server with the hot path and without it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from jetloom.transport import EmbeddedServer
from tests.conformance.world import Runner, run_on_server, run_on_twin


@pytest.fixture(scope="session")
def conformance_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for the whole suite: each scenario takes streams and subjects of its own."""
    store: Path = tmp_path_factory.mktemp("conformance")
    server = EmbeddedServer(store, 0)
    asyncio.run(server.start())
    yield server.url
    asyncio.run(server.stop())


@pytest.fixture(params=["twin", "hot", "plain"])
def run_on(request: pytest.FixtureRequest) -> Runner:
    """Runs a scenario on one of the three."""
    if request.param == "twin":
        return run_on_twin
    url: str = request.getfixturevalue("conformance_url")
    return partial(run_on_server, url, hot_path=request.param == "hot")
