"""The benchmark: workloads that measure jetloom against limits taken in the same run.

Each workload starts its own server with a store of its own, and a process for each part whose CPU seconds are told
apart. A workload checks its outcome in the streams before it gives a figure: what can't be verified is an error, not
a number. Figures are medians of repetitions, and a ratio is always against something measured in the same run.

States of a workload: waiting → running → done or failed. A failure ends the workload, not the run; its servers and
processes are gone before the next one starts. Ctrl-C ends everything that was started and removes every file.

Not guaranteed: that figures of two machines, or of a machine that does other work meanwhile, say anything together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._command import bench
    from ._frame import BenchFailed, MachineTooSmall, Options, Result
    from ._run import run_bench

__all__ = ["BenchFailed", "MachineTooSmall", "Options", "Result", "bench", "run_bench"]

_HOMES = {
    "BenchFailed": "._frame",
    "MachineTooSmall": "._frame",
    "Options": "._frame",
    "Result": "._frame",
    "bench": "._command",
    "run_bench": "._run",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
