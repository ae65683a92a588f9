"""The page about events shows what happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jetloom.bus import find_dead_letters
from jetloom.bus._group import AHEAD_MAX, AHEAD_SECONDS
from jetloom.bus._keyed import ACK_WAIT_MAX, BUFFER_MAX
from jetloom.bus._live import QUEUE_MAX
from jetloom.bus._subscription import BROADCAST_INACTIVE
from tests.runtime.world import Runner, World, until


def page_of(root: Path) -> str:
    return (root / "docs/how-to/events.md").read_text(encoding="utf-8")


def test_the_modules_of_the_page_work(run_on: Runner, repo_root: Path) -> None:
    """What one publishes reaches each handler of the others as the page says."""
    scope: dict[str, Any] = {"__name__": "page"}
    for code in re.findall(r"^```python\n(.*?)^```", page_of(repo_root), re.MULTILINE | re.DOTALL):
        exec(compile(code, "events.md", "exec"), scope)

    async def scenario(world: World) -> None:
        shop, mail, tap = scope["Shop"](), scope["Mail"](), scope["Tap"]()
        order = scope["Order"]
        async with world.running(shop, mail, tap) as (_, transport):
            await shop.place(order("a", "ann", 20_000))
            await shop.place(order("b", "bob", 5))
            assert await shop.import_orders([order("c", "ann"), order("d", "bob", 10_000)]) == 2
            await until(lambda: sorted(mail.sent) == ["a", "b", "c", "d"], "each is confirmed")
            await until(lambda: sorted(mail.ledger) == ["a", "b", "c", "d"], "each is accounted")
            assert mail.ledger.index("a") < mail.ledger.index("c")
            await until(lambda: sum(mail.counted) == 2, "the large ones are counted")
            await until(lambda: len(mail.seen) == 4, "the live handler saw them")
            await until(
                lambda: sorted(each["id"] for each in tap.got) == ["a", "b", "c", "d"], "the tap has them"
            )
            assert await find_dead_letters(transport, world.names) == []

    run_on(scenario)


def test_figures_of_the_pages_are_the_codes(repo_root: Path) -> None:
    """Limits that the pages name are those that are kept to."""
    text = page_of(repo_root)
    assert f"{QUEUE_MAX:,} events behind" in text
    assert f"at most {AHEAD_MAX}" in text
    assert f"handled in {AHEAD_SECONDS * 1000:g} ms" in text
    assert f"up to {BROADCAST_INACTIVE / 60:g} minutes" in text
    reference = (repo_root / "docs/reference/events.md").read_text(encoding="utf-8")
    assert f"at most {BUFFER_MAX} events out at once and an ack wait of {ACK_WAIT_MAX:g} s" in reference
    assert f"forgets {BROADCAST_INACTIVE / 60:g} minutes" in reference
