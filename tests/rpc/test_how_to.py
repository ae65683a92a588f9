"""The pages about requests show what happens."""

from __future__ import annotations

import re
from pathlib import Path

from jetloom.rpc import Rpc
from jetloom.rpc._serving import PARTS_BYTES_MAX, PARTS_MAX
from jetloom.rpc._wire import (
    H_PART,
    H_PARTS,
    H_REQUEST_ID,
    PART_BEGINS,
    PART_END,
    READER_SECONDS,
    REQUEST_ID_CHARACTERS_MAX,
    SILENT_SECONDS,
    WINDOW_BYTES,
    WINDOW_PARTS,
)
from jetloom.runtime import Module
from tests.runtime.world import Runner, World


def test_the_modules_of_the_page_work(run_on: Runner, repo_root: Path) -> None:
    """Both modules are served; one calls the other through a client, in parts, and by name."""
    text = (repo_root / "docs/how-to/requests.md").read_text(encoding="utf-8")
    scope: dict[str, object] = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(code, "requests.md", "exec"), scope)
    modules: list[type[Module]] = []
    for value in scope.values():
        if isinstance(value, type) and issubclass(value, Module) and value is not Module:
            modules.append(value)

    async def scenario(world: World) -> None:
        assert [each.id for each in modules] == ["prices", "shop"]
        async with world.running(*modules):
            rpc = Rpc(await world.connect("caller"), world.names, world.clock, world.metrics)
            assert await rpc.call("shop", "total", "pen") == 750
            assert await rpc.call("shop", "cheapest", "pen") == 230
            assert await rpc.call("shop", "by_name", "pen") == 250
            assert {each.name for each in await rpc.discover("prices")} == {"prices"}

    run_on(scenario)


def test_figures_of_the_page_are_the_codes(repo_root: Path) -> None:
    """Headers and limits that the reference names are what the service keeps to."""
    text = " ".join((repo_root / "docs/reference/requests.md").read_text(encoding="utf-8").split())
    for said in (
        f"After every {WINDOW_PARTS} parts, or {WINDOW_BYTES >> 20} MiB",
        f"the next {WINDOW_PARTS} parts after {SILENT_SECONDS * 1000:.0f} ms",
        f"at most {READER_SECONDS:.0f} s",
        f"at most {PARTS_MAX:,} parts and {PARTS_BYTES_MAX >> 30} GiB",
        f"at most {REQUEST_ID_CHARACTERS_MAX} characters",
        f"`{H_PART}` is `{PART_BEGINS}`",
        f"`{PART_END}`",
        f"`{H_PARTS}`",
        f"`{H_REQUEST_ID}`",
    ):
        assert said in text, said
