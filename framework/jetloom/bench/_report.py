"""The figures for people: a table for each workload, with a bar for each ratio."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ._frame import Result
    from ._run import Report

CPU = "cpu "
PEAK = "peak memory "
"""A process's peak stands in the row of its CPU time."""
BAR = 20
"""Characters of the longest bar."""
SIDE_BY_SIDE = ("limits", "events", "rpc")
"""Workloads that compare several clients in each case."""
BLOCKS = " ▏▎▍▌▋▊▉█"


def render(report: Report) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Text()
    for name, value in report.header.items():
        if name != "failed":
            head.append(f"{name:>13}  ", style="dim").append(f"{value}\n")
    parts: list[RenderableType] = [head]
    for workload, results in groupby(report.results, key=lambda result: result.workload):
        table = Table(title=workload, title_justify="left", title_style="bold", expand=False, pad_edge=False)
        for column in ("case", "figure"):
            table.add_column(column)
        for column in ("value", "±", "ratio"):
            table.add_column(column, justify="right")
        table.add_column("of")
        table.add_column("target")
        table.add_column("", min_width=BAR)
        rows = list(_rows(results))
        peaks = {
            (row.case, row.metric.removeprefix(PEAK)): row.value
            for row, _ in rows
            if row.metric.startswith(PEAK)
        }
        for result, spread in rows:
            if result.metric.startswith(PEAK):
                continue
            peak = peaks.get((result.case, result.metric.removeprefix(CPU)))
            table.add_row(
                result.case,
                result.metric,
                f"{number(result.value)} {result.unit}{f', {number(peak)} MB' if peak is not None else ''}",
                spread,
                f"{result.ratio:.2f}" if result.ratio is not None else "",
                result.of or "",
                _verdict(result),
                bar(_share(result, rows)),
            )
        parts.append(table)
    for workload, reason in report.failed.items():
        parts.append(Text(f"{workload}: no figures: {reason}", style="red"))
    return Group(*parts)


def _rows(results: Iterable[Result]) -> Iterator[tuple[Result, str]]:
    """Each figure with its spread, which follows it as a result of its own."""
    waiting: Result | None = None
    for result in results:
        if waiting is not None and result.metric == f"{waiting.metric} spread":
            yield waiting, f"{result.value:.0f} %"
            waiting = None
            continue
        if waiting is not None:
            yield waiting, ""
        waiting = result
    if waiting is not None:
        yield waiting, ""


def _verdict(result: Result) -> str:
    if result.target is None:
        return ""
    return f"[green]{result.target} ✓[/]" if result.met else f"[red]{result.target} ✗[/]"


BESIDE = (CPU, "peak ")
"""Figures that are read beside others of their case: what each process used."""


def _share(result: Result, rows: list[tuple[Result, str]]) -> float:
    """How long the bar is: the figure's part of the largest one that it is read beside."""
    beside = [row for row, _ in rows if row.unit == result.unit and _group(row) == _group(result)]
    largest = max(row.value for row in beside)
    return result.value / largest if largest > 0 and len(beside) > 1 else 0.0


def _group(result: Result) -> str:
    by_case = result.metric.startswith(BESIDE) or result.workload in SIDE_BY_SIDE
    return f"case {result.case}" if by_case else f"metric {result.metric}"


def bar(share: float) -> str:
    """`share` of a whole bar, in eighths of a character."""
    eighths = round(max(0.0, min(1.0, share)) * BAR * 8)
    return BLOCKS[8] * (eighths // 8) + (BLOCKS[eighths % 8] if eighths % 8 else "")


def number(value: float) -> str:
    """Three digits that say something, thousands apart."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
