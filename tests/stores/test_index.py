"""The index: rows by status and workflow, in pages, whatever else stands in its bucket."""

from __future__ import annotations

import asyncio

from jetloom.messages import Names
from jetloom.stores import IndexStore, IndexValue, namespace_assets
from jetloom.testing import VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import MemoryServer
from jetloom.types import RunStatus

NAMES = Names()


def test_pages_hold_rows_and_nothing_else() -> None:
    """All rows, or those of a status or a workflow, page by page; keys of another shape are passed over."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        transport = MemoryServer(VirtualClock(loop, 1)).connect("index")
        for asset in namespace_assets(NAMES):
            await transport.ensure(asset)
        index = IndexStore(transport, NAMES)

        async def row(run: str, workflow: str, status: RunStatus) -> None:
            await index.write(status, workflow, run, IndexValue(1, 1, 0.0), previous=None, known=True)

        for number in range(6):
            status = RunStatus.WAITING if number % 2 else RunStatus.COMPLETED
            await row(f"r{number}", f"w{number % 3}", status)
            await transport.append(f"$KV.{NAMES.index_bucket}.label.stray.{number}.x", b"no row")
        found: list[str] = []
        position = 0
        while page := await index.page(after=position, limit=4):
            found += [one.run for one in page]
            position = page[-1].position
            assert len(page) == 4 or len(found) == 6
        assert found == [f"r{number}" for number in range(6)]
        assert [one.run for one in await index.page(status=RunStatus.WAITING)] == ["r1", "r3", "r5"]
        assert [one.run for one in await index.page(workflow="w1")] == ["r1", "r4"]

    run_virtual(main)
