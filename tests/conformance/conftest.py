"""The two servers that the suite runs on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.conformance.world import Runner, run_on_server, run_on_twin


@pytest.fixture(params=["twin", "server"])
def run_on(request: pytest.FixtureRequest) -> Iterator[Runner]:
    if request.param == "twin":
        yield run_on_twin
    else:
        url: str = request.getfixturevalue("nats_url")
        yield partial(run_on_server, url)
