"""`jetloom locks …`: who holds what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from cyclopts import App

from ..errors import InvalidInput, NotFound
from . import _session
from ._common import Common
from ._emit import say, show
from ._process import run_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from ..stores import LockInfo

app = App(name="locks", help="Look at locks: who holds them, and until when.", help_format="plaintext")

_DEFAULT = Common()


class LockNotHeld(NotFound):
    """The command line was asked for a lock that nobody holds."""

    code = "lock.not_held"

    def __init__(self, name: str) -> None:
        super().__init__(f"lock {name!r} is free: nobody holds it now", name=name)


class LockLine(msgspec.Struct, frozen=True):
    """A lock that is held, as it is printed. Times are seconds since the epoch; `until` is before the next renewal."""

    name: str
    owner: str
    fence: int
    since: float
    until: float
    ttl: float


@app.command(name="list")
def list_locks(*, prefix: str = "", limit: int = 100, common: Common = _DEFAULT) -> None:
    """List the locks that are held now, by name.

    For example:

        jetloom locks list
        jetloom locks list --prefix invoice --json

    Parameters
    ----------
    prefix
        Only names that begin so.
    limit
        How many, 1 to 1000.
    """
    if not 1 <= limit <= 1000:
        raise InvalidInput(f"--limit {limit}: 1 to 1000 fit a page; --prefix narrows it down")

    async def main() -> None:
        from ..stores import list_locks as read_all

        async with _session.open_session(common) as session:
            await session.require_stream(session.names.locks_stream)
            found = await read_all(session.transport, session.names)
            lines = [to_line(each) for each in found if each.name.startswith(prefix)]
            now = session.clock.now()
            shown = lines[:limit]
            show(
                common.json,
                {"locks": shown, "held": len(lines)},
                lambda: lock_table(shown, now),
            )
            if len(lines) > limit and not common.json:
                say(f"{len(lines) - limit} more: raise --limit, or narrow down with --prefix")

    run_command(main)


@app.command(name="show")
def show_lock(name: str, /, *, common: Common = _DEFAULT) -> None:
    """Show who holds one lock; exit 3 when nobody does.

    For example:

        jetloom locks show invoice-17
        jetloom locks show invoice-17 --json | jq -r .owner

    Parameters
    ----------
    name
        The lock's name, as `hold` was given it.
    """

    async def main() -> None:
        from ..stores import find_lock

        async with _session.open_session(common) as session:
            await session.require_stream(session.names.locks_stream)
            found = await find_lock(session.transport, session.names, name)
            if found is None:
                raise LockNotHeld(name)
            line, now = to_line(found), session.clock.now()
            show(common.json, line, lambda: lock_view(line, now))

    run_command(main)


def to_line(info: LockInfo) -> LockLine:
    return LockLine(info.name, info.owner, info.fence, info.since, info.until, info.ttl)


def lock_table(lines: Sequence[LockLine], now: float) -> RenderableType:
    from rich.text import Text

    from ._render import duration, grid

    if not lines:
        return Text("no lock is held")
    table = grid("NAME", "OWNER", "FENCE", "HELD FOR", "LEFT")
    for line in lines:
        table.add_row(
            Text(line.name),
            Text(line.owner),
            str(line.fence),
            duration(now - line.since),
            _left(line, now),
        )
    return table


def lock_view(line: LockLine, now: float) -> RenderableType:
    from rich.text import Text

    from ._render import duration, grid, moment

    table = grid("", "")
    for name, value in (
        ("name", line.name),
        ("owner", line.owner),
        ("fence", str(line.fence)),
        ("since", f"{moment(line.since)} ({duration(now - line.since)})"),
        ("until", f"{moment(line.until)} ({_left(line, now)} left, unless it is renewed)"),
        ("ttl", duration(line.ttl) if line.ttl else "-"),
    ):
        table.add_row(name, Text(value))
    return table


def _left(line: LockLine, now: float) -> str:
    from ._render import duration

    return duration(line.until - now) if line.until else "-"
