"""`jetloom schedules …`: what modules do at which times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from cyclopts import App

from ..errors import InvalidInput
from . import _session
from ._common import Common, current_actor
from ._emit import say, show
from ._process import run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from rich.console import RenderableType

    from ..runtime import Schedules, ScheduleView
    from ._session import Session

app = App(
    name="schedules",
    help="Look at the schedules of modules, ask for a call, pause and resume.",
    help_format="plaintext",
)

COUNT_MAX = 1_000

_DEFAULT = Common()


class ScheduleLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """A schedule, as it is printed. Times are in its zone, with the offset; none for never."""

    name: str
    spec: str
    tz: str
    missed: str
    missed_max: int
    paused: bool
    running: bool
    next: str | None
    next_in_seconds: float | None
    last: str | None
    waiting: int
    calls: int
    failures: int
    passed_over: int
    problems: list[str] = []


class Coming(msgspec.Struct, frozen=True):
    """One of the next instants, as it is printed."""

    at: str
    utc: str
    in_seconds: float


@app.command(name="list")
def list_schedules(*, common: Common = _DEFAULT) -> None:
    """List every schedule: rule, zone, next and last instant, and what is wrong with it.

    For example:

        jetloom schedules list
        jetloom schedules list --json | jq '.[] | select(.problems != null)'
    """

    async def main(session: Session, schedules: Schedules) -> None:
        now = session.clock.now()
        lines = [to_line(view, now) for view in await schedules.list()]
        show(common.json, lines, lambda: _table(lines))

    _run(common, main)


@app.command(name="show")
def show_schedule(name: str, /, *, common: Common = _DEFAULT) -> None:
    """Show one schedule, whole.

    For example:

        jetloom schedules show billing.close

    Parameters
    ----------
    name
        <module>.<name>, as `jetloom schedules list` prints it.
    """

    async def main(session: Session, schedules: Schedules) -> None:
        line = to_line(await schedules.show(name), session.clock.now())
        show(common.json, line, lambda: _view(line))

    _run(common, main)


@app.command(name="next")
def show_next(name: str, /, *, count: int = 5, common: Common = _DEFAULT) -> None:
    """Print the next instants of a schedule, in its zone.

    For example:

        jetloom schedules next billing.close --count 10

    Parameters
    ----------
    name
        <module>.<name>, as `jetloom schedules list` prints it.
    count
        How many, 1 to 1000.
    """
    if not 1 <= count <= COUNT_MAX:
        raise InvalidInput(f"--count {count}: expected 1 to {COUNT_MAX}")

    async def main(session: Session, schedules: Schedules) -> None:
        from ..schedules import Schedule

        schedule, instants = await schedules.upcoming(name, count)
        now, utc = session.clock.now(), Schedule.parse("@daily")
        coming = [
            Coming(
                schedule.local(each).isoformat(),
                utc.local(each).isoformat().replace("+00:00", "Z"),
                each - now,
            )
            for each in instants
        ]
        show(common.json, coming, lambda: _coming(coming))
        if (await schedules.show(name)).paused:
            say(f"{name} is paused: none of these fires before `jetloom schedules resume {name}`")

    _run(common, main)


@app.command(name="trigger")
def trigger_schedule(name: str, /, *, scheduled: str | None = None, common: Common = _DEFAULT) -> None:
    """Ask for one call now, behind the one that may be running. It works for a paused schedule too.

    For example:

        jetloom schedules trigger billing.close
        jetloom schedules trigger billing.close --scheduled 2026-10-25T02:30:00+01:00

    Parameters
    ----------
    name
        <module>.<name>, as `jetloom schedules list` prints it.
    scheduled
        The instant that the call stands for (ISO 8601 with its offset), such as one in the dead letters; otherwise now.
    """
    instant = None if scheduled is None else _read_instant(scheduled)

    async def main(session: Session, schedules: Schedules) -> None:
        view = await schedules.show(name)
        sequence = await schedules.trigger(name, scheduled=instant, actor=current_actor())
        unserved = any(problem.startswith("nobody serves") for problem in view.problems)
        where = (
            "nobody serves it now: the call comes when a replica starts"
            if unserved
            else "the call is on its way"
        )
        answer = {"name": name, "sequence": sequence, "served": not unserved}
        show(common.json, answer, lambda: f"{name}: {where}")

    _run(common, main)


@app.command(name="pause")
def pause_schedule(name: str, /, *, common: Common = _DEFAULT) -> None:
    """Pause a schedule: a call that runs goes on, later instants are not called for, now or afterwards.

    For example:

        jetloom schedules pause billing.close

    Parameters
    ----------
    name
        <module>.<name>, as `jetloom schedules list` prints it.
    """

    async def main(_: Session, schedules: Schedules) -> None:
        changed = await schedules.pause(name)
        text = "paused" if changed else "was paused already"
        show(common.json, {"name": name, "paused": True, "changed": changed}, lambda: f"{name}: {text}")

    _run(common, main)


@app.command(name="resume")
def resume_schedule(name: str, /, *, common: Common = _DEFAULT) -> None:
    """Resume a paused schedule, from its next instant on.

    For example:

        jetloom schedules resume billing.close

    Parameters
    ----------
    name
        <module>.<name>, as `jetloom schedules list` prints it.
    """

    async def main(session: Session, schedules: Schedules) -> None:
        from ._render import duration

        changed = await schedules.resume(name)
        line = to_line(await schedules.show(name), session.clock.now())
        text = "resumed" if changed else "was not paused"
        coming = f"; next {line.next}, in {duration(line.next_in_seconds)}"
        answer = {"name": name, "paused": False, "changed": changed, "next": line.next}
        show(common.json, answer, lambda: f"{name}: {text}{coming}")

    _run(common, main)


def to_line(view: ScheduleView, now: float) -> ScheduleLine:
    from ..schedules import Schedule

    schedule = Schedule.parse(view.spec, view.tz)
    return ScheduleLine(
        name=view.name,
        spec=view.spec,
        tz=view.tz,
        missed=view.missed,
        missed_max=view.missed_max,
        paused=view.paused,
        running=view.running,
        next=schedule.local(view.next).isoformat() if view.next else None,
        next_in_seconds=view.next - now if view.next else None,
        last=schedule.local(view.last).isoformat() if view.last else None,
        waiting=view.waiting,
        calls=view.calls,
        failures=view.failures,
        passed_over=view.passed_over,
        problems=view.problems,
    )


def _run(common: Common, body: Callable[[Session, Schedules], Coroutine[object, object, None]]) -> None:
    async def main() -> None:
        from ..runtime import Schedules

        async with _session.open_session(common) as session:
            schedules = Schedules(session.transport, session.names, session.clock, replicas=session.replicas)
            await body(session, schedules)

    run_command(main)


def _read_instant(text: str) -> float:
    from datetime import datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidInput(
            f"--scheduled {text!r}: expected ISO 8601 with its offset, such as 2026-10-25T02:30:00+01:00"
        )
    return moment.timestamp()


def _coming_text(line: ScheduleLine) -> str:
    from ._render import duration

    if line.paused:
        return "paused"
    if line.next is None or line.next_in_seconds is None:
        return "-"
    if line.next_in_seconds <= 0:
        return f"{line.next} (due)"
    return f"{line.next} (in {duration(line.next_in_seconds)})"


def _table(lines: Sequence[ScheduleLine]) -> RenderableType:
    from rich.table import Table

    if not lines:
        return "no schedules: none was declared in this namespace (@every in a module)"
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("SCHEDULE", "RULE", "ZONE", "NEXT", "LAST", "MISSED", "PROBLEMS"):
        table.add_column(title, overflow="fold")
    for line in lines:
        missed = f"all, {line.missed_max}" if line.missed == "all" else line.missed
        table.add_row(
            line.name,
            line.spec,
            line.tz,
            _coming_text(line),
            line.last or "-",
            missed,
            "; ".join(line.problems) or "-",
        )
    return table


def _view(line: ScheduleLine) -> RenderableType:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    policy = f"{line.missed}, at most {line.missed_max}" if line.missed == "all" else line.missed
    for name, value in (
        ("schedule", line.name),
        ("rule", line.spec),
        ("zone", line.tz),
        ("next", _coming_text(line)),
        ("last", line.last or "-"),
        ("missed ones", policy),
        ("running", "yes" if line.running else "no"),
        ("waiting ticks", str(line.waiting)),
        ("calls", f"{line.calls}, {line.failures} of them in the dead letters"),
        ("passed over", str(line.passed_over)),
        ("problems", "\n".join(line.problems) or "none"),
    ):
        table.add_row(name, value)
    return table


def _coming(coming: Sequence[Coming]) -> RenderableType:
    from rich.table import Table

    from ._render import duration

    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in ("LOCAL", "UTC", "IN"):
        table.add_column(title)
    for each in coming:
        table.add_row(each.at, each.utc, duration(each.in_seconds))
    return table
