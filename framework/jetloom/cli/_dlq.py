"""`jetloom dlq replay` and `jetloom dlq drop`: what becomes of dead letters."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from ..errors import InvalidInput
from . import _session
from ._common import Common, parse_duration
from ._emit import say, show
from ._exit import FAILED, OK
from ._process import run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from ..bus import DeadLetter, ReplayOutcome

_DEFAULT = Common()

WORDS = {
    "handled": "handled",
    "failed": "failed again",
    "gone": "is not there any more",
    "unserved": "was not replayed",
    "unanswered": "nobody knows; look at `jetloom dlq show`, it is gone if it was handled",
}


class Choice(msgspec.Struct, frozen=True):
    """Which letters: one by its number, or all that match."""

    number: int | None
    module: str
    handler: str
    code: str
    since: float
    limit: int


def replay(
    number: int | None = None,
    /,
    *,
    module: str = "",
    handler: str = "",
    code: str = "",
    since: str = "",
    limit: int = 0,
    all: Annotated[bool, Parameter(negative=())] = False,
    timeout: str = "60s",
    common: Common = _DEFAULT,
) -> int:
    """Give dead letters to the handler that failed, and to no other. What is handled is gone; what fails again is
    stored anew, with both reasons.

    For example:

        jetloom dlq replay 12
        jetloom dlq replay --module orders --code card.declined
        jetloom dlq replay --module orders --since 2h --limit 100 --json

    Parameters
    ----------
    number
        The number that `jetloom dlq list` prints.
    module
        All of this module.
    handler
        All of this handler.
    code
        All with this error code.
    since
        All that came within this long: 30m, 2h, 7d.
    limit
        At most so many, the oldest first; 0: no limit.
    all
        All there are.
    timeout
        How long one letter's handler may take: 30s, 5m.
    """
    choice = _choice(number, module, handler, code, since, limit, all=all)
    patience = parse_duration(timeout, "--timeout")

    async def main() -> int:
        from ..bus import replay_dead_letters

        async with _session.open_session(common) as session:
            await session.require_stream(session.names.dlq_stream)
            letters = await _find(session, choice)
            with _progress(len(letters), json=common.json) as advance:
                outcomes = await replay_dead_letters(
                    session.transport,
                    session.names,
                    letters,
                    timeout=patience,
                    tell=lambda _outcome: advance(),
                )
        show(common.json, {"replayed": outcomes}, lambda: _replay_text(outcomes))
        return OK if all_handled(outcomes) else FAILED

    return run_command(main)


def drop(
    number: int | None = None,
    /,
    *,
    module: str = "",
    handler: str = "",
    code: str = "",
    since: str = "",
    limit: int = 0,
    all: Annotated[bool, Parameter(negative=())] = False,
    yes: Annotated[bool, Parameter(negative=())] = False,
    common: Common = _DEFAULT,
) -> None:
    """Delete dead letters. What their events should have done stays undone.

    For example:

        jetloom dlq drop 12
        jetloom dlq drop --module orders --code decode.failed --yes

    Parameters
    ----------
    number
        The number that `jetloom dlq list` prints.
    module
        All of this module.
    handler
        All of this handler.
    code
        All with this error code.
    since
        All that came within this long: 30m, 2h, 7d.
    limit
        At most so many, the oldest first; 0: no limit.
    all
        All there are.
    yes
        Delete what was found; without it only their number is told.
    """
    choice = _choice(number, module, handler, code, since, limit, all=all)

    async def main() -> None:
        from ..bus import drop_dead_letters

        async with _session.open_session(common) as session:
            await session.require_stream(session.names.dlq_stream)
            letters = await _find(session, choice)
            if number is None and not yes:
                raise InvalidInput(f"{len(letters)} dead letter(s) match: add --yes to delete them")
            with _progress(len(letters), json=common.json) as advance:
                count = await drop_dead_letters(
                    session.transport, session.names, letters, tell=lambda _letter: advance()
                )
        show(common.json, {"dropped": count}, lambda: f"{count} dead letter(s) deleted")

    run_command(main)


def all_handled(outcomes: Sequence[ReplayOutcome]) -> bool:
    return all(outcome.outcome == "handled" for outcome in outcomes)


def _choice(
    number: int | None,
    module: str,
    handler: str,
    code: str,
    since: str,
    limit: int,
    *,
    all: bool,
) -> Choice:
    filtered = bool(module or handler or code or since or limit)
    if (number is not None) + (filtered or all) != 1:
        raise InvalidInput(
            "which ones? Give one number, or filters (--module, --handler, --code, --since, --limit), or --all"
        )
    if limit < 0:
        raise InvalidInput(f"--limit {limit}: 0 (no limit) or more")
    age = parse_duration(since, "--since") if since else 0.0
    return Choice(number, module, handler, code, age, limit)


async def _find(session: _session.Session, choice: Choice) -> Sequence[DeadLetter]:
    """Raises `NotFound` for a number that is not there."""
    from ..bus import find_dead_letters, get_dead_letter

    if choice.number is not None:
        return [await get_dead_letter(session.transport, session.names, choice.number)]
    return await find_dead_letters(
        session.transport,
        session.names,
        module=choice.module,
        handler=choice.handler,
        code=choice.code,
        since=session.clock.now() - choice.since if choice.since else 0.0,
        limit=choice.limit,
    )


@contextmanager
def _progress(total: int, *, json: bool) -> Generator[Callable[[], None]]:
    """A bar on stderr while somebody watches and there is more than one; what advances it."""
    if json or total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import Progress

    from ._emit import open_console

    with Progress(console=open_console(stderr=True), transient=True) as progress:
        task = progress.add_task("dead letters", total=total)
        yield lambda: progress.advance(task)


def _replay_text(outcomes: Sequence[ReplayOutcome]) -> str:
    if not outcomes:
        return "no dead letters match"
    lines: list[str] = []
    for outcome in outcomes:
        line = f"{outcome.sequence}  {outcome.module}.{outcome.handler}  {WORDS[outcome.outcome]}"
        if outcome.reason:
            line += f": {outcome.code}: {outcome.reason}" if outcome.code else f": {outcome.reason}"
        if outcome.letter:
            line += f" (now number {outcome.letter})"
        lines.append(line)
    handled = sum(outcome.outcome == "handled" for outcome in outcomes)
    if len(outcomes) > 1:
        lines.append(f"{handled} of {len(outcomes)} handled")
    if handled < len(outcomes):
        say(f"{len(outcomes) - handled} of {len(outcomes)} dead letter(s) were not handled")
    return "\n".join(lines)
