"""Waiting for a run's end, with its latest record on stderr while a person watches."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from ..errors import JetloomError
from ._emit import open_console, say

if TYPE_CHECKING:
    from datetime import timedelta

    from ..runtime import Workflows
    from ..types import JSON


async def wait_for_end(workflows: Workflows, run: str, patience: timedelta | None, *, quiet: bool) -> JSON:
    """The run's output, with its latest record on stderr while a person watches. Raises as `Workflows.result`."""
    try:
        if quiet or not sys.stderr.isatty():
            return await workflows.result(run, timeout=patience)
        return await _watched(workflows, run, patience)
    except asyncio.CancelledError:
        say(f"\nnobody waits any longer, the run goes on: jetloom runs result {run}")
        raise


async def _watched(workflows: Workflows, run: str, patience: timedelta | None) -> JSON:
    from rich.text import Text

    with open_console(stderr=True).status(Text(f"{run}: waiting")) as status:

        async def follow() -> None:
            from ._records import record_text

            try:
                async for line in workflows.tail(run):
                    if line.records:
                        status.update(Text(f"{run}: {record_text(line.records[-1])}"))
            except JetloomError as error:
                status.update(Text(f"{run}: waiting (no live view: {error.message})"))

        try:
            async with asyncio.TaskGroup() as group:
                follower = group.create_task(follow(), name="follow")
                try:
                    return await workflows.result(run, timeout=patience)
                finally:
                    follower.cancel()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
