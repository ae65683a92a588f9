"""What the demo prints: progress, outcomes, one run's timeline, the books."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ._shop import Shop
from ._watch import Watch
from .books import OUTCOMES, Books, totals, verdict

REFRESH_SECONDS = 0.2
PLAIN_SECONDS = 2.0
"""Between two lines of progress where no terminal can redraw one."""
TIMELINE_ROWS_MAX = 40
BAR_COLUMNS = 12


@dataclass(frozen=True)
class Report:
    """What the demo has to say at its end."""

    books: Books
    wrong: list[str]
    kills: list[str]
    seconds: float
    seed: int
    timeline_of: str
    timeline: list[tuple[float, str, str]]


async def show_progress(watch: Watch, orders: int, console: Console) -> None:
    """Until it is cancelled."""
    if console.quiet:
        return
    if not console.is_terminal:
        while True:
            await asyncio.sleep(PLAIN_SECONDS)
            console.print(f"{watch.ended} of {orders} ended  {_counts(watch)}")
    # Short enough for 80 columns with all counts.
    bar = BarColumn(bar_width=BAR_COLUMNS)
    columns = (TextColumn("{task.description}"), bar, MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[counts]}"), console=console) as progress:
        task = progress.add_task("orders", total=orders, counts="")
        while True:
            progress.update(task, completed=watch.ended, counts=_counts(watch))
            await asyncio.sleep(REFRESH_SECONDS)


def _counts(watch: Watch) -> str:
    return "  ".join(f"{status} {count}" for status, count in sorted(watch.counts().items()))


def show_report(report: Report, console: Console) -> None:
    console.print(_outcomes(report.books))
    console.print(_timeline(report))
    console.print(_books(report.books))
    style = "bold red" if report.wrong else "bold green"
    console.print("\n".join(verdict(report.wrong)), style=style, highlight=False)
    console.print(f"{report.seconds:.1f} s in all, seed {report.seed}")


def _outcomes(books: Books) -> Table:
    table = Table("expected", "orders", "run ends", "error", "as expected", title="Outcomes")
    runs = {run.order: run for run in books.runs}
    for outcome, expected in OUTCOMES.items():
        orders = [order.id for order in books.orders if order.outcome == outcome]
        right = sum(
            (runs[order].status, runs[order].error, runs[order].ends) == (expected.status, expected.error, 1)
            for order in orders
            if order in runs
        )
        table.add_row(outcome, str(len(orders)), expected.status, expected.error or "–", str(right))
    return table


def _timeline(report: Report) -> Table:
    table = Table(title=f"Timeline of {report.timeline_of}")
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    table.add_column("journal entry")
    for since, engine, text in report.timeline[:TIMELINE_ROWS_MAX]:
        table.add_row(f"{since:.0f}", engine, text)
    return table


def _books(books: Books) -> Table:
    table = Table("from the streams and the ledger", "counted", title="Books")
    for name, value in totals(books):
        table.add_row(name, value)
    return table


def to_json(report: Report) -> str:
    ends = Counter(f"{run.status} {run.error}".strip() for run in report.books.runs)
    document = {
        "orders": len(report.books.orders),
        "ends": dict(sorted(ends.items())),
        "totals": dict(totals(report.books)),
        "kills": report.kills,
        "wrong": report.wrong,
        "seed": report.seed,
        "seconds": round(report.seconds, 3),
        "timeline": {
            "run": report.timeline_of,
            "entries": [
                {"ms": round(since, 3), "engine": engine, "text": text}
                for since, engine, text in report.timeline
            ],
        },
    }
    return json.dumps(document, indent=2)


def where_to_look(shop: Shop, console: Console) -> None:
    """For `--dev`."""
    order = '{"id":"B1","customer":"c-01","card":"card_ok","country":"DE","address":"1 Loom Street",'
    order += '"amount_cents":1200,"items":[{"product":"mug","quantity":1}]}'
    lines = ["", "everything is running; Ctrl-C stops it", ""]
    lines += [f"  {'nats':<15} {shop.nats_url}"]
    for child in shop.children.values():
        url = child.ready_url.replace("/readyz", "/metrics") if child.ready_url.startswith("http") else ""
        lines.append(f"  {child.name:<15} pid {child.pid:<8} {url}")
    lines += [
        f"  {'ledger':<15} {shop.ledger}",
        f"  {'logs':<15} {shop.folder}/logs",
        "",
        "try in another terminal:",
        f"  export NATS_URL={shop.nats_url}",
        f"  .venv/bin/jetloom publish shop.order.placed '{order}'",
        "  .venv/bin/jetloom runs show order-B1",
        "  .venv/bin/jetloom runs list",
        "  .venv/bin/jetloom events tail 'shop.order.*'",
        "  .venv/bin/jetloom doctor",
        f"  kill -9 {shop.children['engine-1'].pid}    # it is started again",
        "",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)
