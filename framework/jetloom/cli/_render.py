"""What people see: rich renderables made from plain data. No connection, no clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ._records import record_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from ..runtime import JournalLine, RunSummary, RunView, StepView
    from ..types import JSON
    from ._checks import Check
    from ._events import EventLine, Letter
    from ._workflows import WorkflowRow

VALUE_CHARACTERS_MAX = 300
"""Of a JSON value shown to people; `--json` has all of it."""

_WHERE = {"here": "engine", "task": "worker"}
"""Who runs a step's body, in words that are true at the reader's terminal."""

_STYLES = {
    "completed": "green",
    "ok": "green",
    "failed": "bold red",
    "fail": "bold red",
    "cancelled": "red",
    "running": "cyan",
    "compensating": "magenta",
    "compensated": "magenta",
    "retrying": "yellow",
    "waiting": "yellow",
    "warn": "yellow",
    "waiting_human": "bold yellow",
    "unknown": "bold yellow",
    "pending": "dim",
    "skipped": "dim",
    "info": "dim",
}


def moment(seconds: float | None) -> str:
    """UTC to the millisecond; `-` for none."""
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def duration(seconds: float | None) -> str:
    """`12 ms`, `3.4 s`, `5 min 10 s`, `2 h 5 min`, `3 d 4 h`; `-` for none."""
    if seconds is None:
        return "-"
    seconds = max(seconds, 0.0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, unit, below, smaller in ((60, "min", 1, "s"), (3600, "h", 60, "min"), (86400, "d", 3600, "h")):
        if whole < size * (60 if size == 60 else 24) or size == 86400:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def value_text(value: object) -> str:
    """A JSON value on one line, cut when it is long."""
    text = msgspec.json.encode(value).decode()
    if len(text) <= VALUE_CHARACTERS_MAX:
        return text
    return f"{text[:VALUE_CHARACTERS_MAX]}… ({len(text)} characters; --json prints all)"


def status_text(status: str) -> Text:
    return Text(status, style=_STYLES.get(status, ""))


def fields(rows: Sequence[tuple[str, RenderableType]]) -> Table:
    """Names on the left, values on the right."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value) if isinstance(value, str) else value)
    return table


def grid(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


# -- runs
def run_table(runs: Sequence[RunSummary], *, now: float) -> RenderableType:
    if not runs:
        return Text("no runs")
    table = grid("RUN", "WORKFLOW", "STATUS", "SINCE (UTC)", "AGO")
    for run in runs:
        table.add_row(
            Text(run.run),
            Text(run.workflow),
            status_text(run.status),
            moment(run.since)[:19],
            duration(now - run.since),
        )
    return table


def run_view(view: RunView, *, now: float) -> RenderableType:
    """A run: what it is, how it stands, what it waits for, its steps, its end."""
    version = f"{view.workflow} @ {view.version}" if view.version else view.workflow
    rows: list[tuple[str, RenderableType]] = [
        ("run", f"{view.run}  (incarnation {view.inc}, journal entry {view.n})"),
        ("workflow", f"{version}  {view.fingerprint[:12]}".rstrip()),
        ("status", status_text(view.status)),
        ("started", moment(view.started_at)),
    ]
    if view.ended_at is not None:
        rows.append(("ended", moment(view.ended_at)))
    if view.started_at is not None:
        end = view.ended_at if view.ended_at is not None else now
        rows.append(("took" if view.ended_at is not None else "running for", duration(end - view.started_at)))
    if view.actor is not None:
        rows.append(("actor", str(view.actor)))
    if view.labels:
        rows.append(("labels", "  ".join(f"{name}={value}" for name, value in sorted(view.labels.items()))))
    rows.append(("input", value_text(view.input)))
    if view.output is not None:
        rows.append(("output", value_text(view.output)))
    if view.error is not None:
        rows.append(("error", Text(f"{view.error.code}: {view.error.message}", style="red")))
    rows.extend(
        ("waits for" if index == 0 else "", Text(waits, style="yellow"))
        for index, waits in enumerate(view.waits_for)
    )
    parts: list[RenderableType] = [fields(rows)]
    if view.steps:
        parts += [Text(), step_table(view.steps, now=now, said=view.waits_for)]
    return Group(*parts)


def step_table(steps: Sequence[StepView], *, now: float, said: Sequence[str] = ()) -> RenderableType:
    """A row for each step; below, in the whole width, what is to be said of some and was not `said` above."""
    table = grid("STEP", "STATUS", "ATTEMPT", "TOOK", "WHERE", "HANDLER")
    notes: list[tuple[str, RenderableType]] = []
    for step in steps:
        took = None
        if step.started_at is not None:
            took = (step.ended_at if step.ended_at is not None else now) - step.started_at
        note = "" if f"{step.id}: {step.waits_for}" in said else step.waits_for
        if step.error is not None:
            note = "; ".join(part for part in (f"{step.error.code}: {step.error.message}", note) if part)
        table.add_row(
            Text(step.id),
            status_text(step.status),
            str(step.attempt or "-"),
            duration(took),
            _WHERE.get(step.where, step.where) or "-",
            Text(step.uses or "-"),
        )
        if note:
            notes.append((step.id, note))
    return Group(table, Text(), fields(notes)) if notes else table


def journal(lines: Sequence[JournalLine]) -> RenderableType:
    return Group(*(journal_line(line) for line in lines)) if lines else Text("no entries")


def journal_line(line: JournalLine) -> RenderableType:
    """One entry: ordinal, time, engine; its records, one a line, each within its column."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for width in (5, 13, 20):
        table.add_column(
            style="dim", no_wrap=True, min_width=width, justify="right" if width == 5 else "left"
        )
    table.add_column(overflow="fold")
    head = (str(line.n), moment(line.at)[11:], line.by[:20])
    for index, record in enumerate(line.records or [{"t": "nothing"}]):
        text = Text(record_text(cast("Mapping[str, JSON]", record)))
        table.add_row(*(("", "", "") if index else head), text)
    return table


# -- workflows
def workflow_table(rows: Sequence[WorkflowRow]) -> RenderableType:
    if not rows:
        return Text("no workflows registered; `jetloom run FOLDER --engine` registers the files of a folder")
    table = grid("WORKFLOW", "VERSION", "STEPS", "FINGERPRINT", "REGISTERED (UTC)", "DESCRIPTION")
    for row in rows:
        table.add_row(
            Text(row.name),
            Text(row.version),
            str(len(row.steps)),
            row.fingerprint[:12],
            moment(row.registered_at)[:19],
            Text(row.description),
        )
    return table


def workflow_view(row: WorkflowRow) -> RenderableType:
    table = grid("STEP", "HANDLER", "AFTER", "UNDO", "ON ERROR")
    for step in row.steps:
        table.add_row(
            Text(step.id),
            Text(step.uses or "-"),
            Text(", ".join(step.depends_on) or "-"),
            Text(step.undo or "-"),
            step.on_error,
        )
    head: list[tuple[str, RenderableType]] = [
        ("workflow", row.name),
        ("version", row.version),
        ("fingerprint", row.fingerprint),
        ("registered", moment(row.registered_at)),
    ]
    if row.description:
        head.append(("description", row.description))
    if row.input_schema is not None:
        head.append(("input schema", value_text(row.input_schema)))
    return Group(fields(head), Text(), table)


# -- events and dead letters
def event_line(event: EventLine) -> Text:
    text = Text()
    text.append(f"{moment(event.time)[11:]}  ", style="dim")
    text.append(f"{event.type}  ", style="cyan")
    text.append(f"{event.id}  ", style="dim")
    text.append(value_text(event.payload))
    return text


def dead_letter_table(letters: Sequence[Letter], *, now: float) -> RenderableType:
    if not letters:
        return Text("no dead letters")
    table = grid("NUMBER", "AGO", "MODULE", "HANDLER", "REASON")
    for letter in letters:
        table.add_row(
            str(letter.number),
            duration(now - letter.at),
            Text(letter.module),
            Text(letter.handler),
            Text(
                f"{letter.code}: {letter.reason}"
                + (f" (replayed {letter.replays}x)" if letter.replays else "")
            ),
        )
    return table


def dead_letter_view(letter: Letter) -> RenderableType:
    rows: list[tuple[str, RenderableType]] = [
        ("number", str(letter.number)),
        ("at", moment(letter.at)),
        ("module", letter.module),
        ("handler", letter.handler),
        ("reason", Text(f"{letter.code}: {letter.reason}", style="red")),
        ("class", letter.error_class),
        (
            "event",
            f"{letter.subject} (sequence {letter.source_sequence}, delivered {letter.deliveries} times)",
        ),
    ]
    if letter.replays:
        rows.append(("replays", f"{letter.replays}, each in vain"))
        rows.append(("first", Text(f"{letter.first_code}: {letter.first_reason}, {moment(letter.first_at)}")))
    rows.extend((name, value) for name, value in sorted(letter.headers.items()))
    payload = "left out: there was no room; read it from the event's stream" if letter.truncated else ""
    rows.append(("payload", payload or value_text(letter.payload)))
    parts: list[RenderableType] = [fields(rows)]
    if letter.stack:
        parts += [Text(), Text(letter.stack.rstrip(), style="dim")]
    return Group(*parts)


# -- doctor, validate
def check_table(checks: Sequence[Check]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        text = Text(check.text)
        if check.hint:
            text.append(f"\n→ {check.hint}", style="dim")
        table.add_row(status_text(check.status), check.name, text)
    return table
