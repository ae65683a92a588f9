"""`jetloom bench`: what `python -m jetloom.bench` runs too."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

FAILED = 1


def bench(
    workloads: tuple[str, ...] = (),
    /,
    *,
    size: Literal["full", "quick"] = "full",
    repeat: int = 0,
    sync_always: Annotated[bool, Parameter(negative=())] = False,
    peers: Annotated[bool, Parameter(negative=())] = False,
    hotpath: Literal["on", "off"] | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Measure jetloom on this machine, against limits measured in the same run.

    Each workload starts servers and processes of its own, on the loopback and in
    temporary folders, checks its outcome in the streams, and removes everything.
    Exit 1 when a workload gives no figures; a target that is not met is no error.

    For example:

        jetloom bench list
        jetloom bench --size quick
        jetloom bench limits chain --repeat 5 --json

    Parameters
    ----------
    workloads
        Which ones; all without any. `list` prints them.
    size
        Quick ones run shorter and smaller; what is smaller than a target's size is marked `reduced`.
    repeat
        Repetitions of each workload; 0: three, or one of quick ones.
    sync_always
        Each workload once more on a server that syncs its files before it acknowledges.
    peers
        The same work on other libraries too, where they are installed.
    hotpath
        Forces the transport's hot path on or off.
    json
        Print one JSON document on stdout.
    """
    import msgspec

    if workloads == ("list",):
        return _list(json=json)
    from ..errors import InvalidInput
    from ._frame import Options
    from ._run import run_bench

    if repeat < 0:
        raise InvalidInput(f"--repeat {repeat}: expected 0 or more")
    options = Options(
        workloads=workloads,
        size=size,
        repeat=repeat,
        sync_always=sync_always,
        peers=peers,
        hotpath=None if hotpath is None else hotpath == "on",
    )
    report = run_bench(options, _say)
    if json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    else:
        from rich.console import Console

        from ._report import render

        Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(render(report))
    sys.stdout.flush()
    return FAILED if report.failed else 0


def _list(*, json: bool) -> int:
    import msgspec

    from ._workloads import WORKLOADS

    if json:
        rows = [{"workload": each.name, "about": each.about} for each in WORKLOADS]
        sys.stdout.write(msgspec.json.encode({"workloads": rows}).decode() + "\n")
    else:
        sys.stdout.write("".join(f"{each.name:14}{each.about}\n" for each in WORKLOADS))
    return 0


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
