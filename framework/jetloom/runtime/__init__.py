"""Modules and the host that runs them.

A host takes modules, checks everything that can be known beforehand (ids, dependencies, configuration, signatures)
and says all problems at once. Then it makes what they need, calls `init` in the order of dependencies, and only when
every module is up lets requests and events in. A failing `init` shuts down those that are up, in reverse order.
Stopping is the way back: no new work, running work ends within a deadline or is given back, then `shutdown`.
"""

from ._host import DrainReport, Health, Host
from ._module import Module, Undo, endpoint, on, step
from ._ports import (
    EndedStatus,
    JournalLine,
    RunSummary,
    RunView,
    Started,
    StepContext,
    StepFunction,
    StepHandler,
    StepView,
    Workflows,
)
from ._registry import load_module, load_modules
from ._runtime import Runtime

__all__ = [
    "DrainReport",
    "EndedStatus",
    "Health",
    "Host",
    "JournalLine",
    "Module",
    "RunSummary",
    "RunView",
    "Runtime",
    "Started",
    "StepContext",
    "StepFunction",
    "StepHandler",
    "StepView",
    "Undo",
    "Workflows",
    "endpoint",
    "load_module",
    "load_modules",
    "on",
    "step",
]
