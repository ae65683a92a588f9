"""Modules and the host that runs them.

A host takes modules, checks everything that can be known beforehand (ids, dependencies, configuration, signatures)
and says all problems at once. Then it makes what they need and calls `init`: of each module as soon as those that it
depends on are up, of others at the same time. Only when every module is up it lets requests and events in, and calls
`ready`. A failing `init` or `ready` shuts down those that are up, in reverse order. Stopping is the way back: `drain`,
no new work, running work ends within a deadline or is given back, background tasks end, then `shutdown`.

Health has two questions. *Live*: does it help to start the process again? A background task that was given up, or a
`live` check that fails, says no. *Ready*: does it take work? Not while it starts or stops, is cut off from NATS, or a
`ready` check fails. Checks run in the background; who asks gets the last results at once.

What declares a module loads at once; what runs one when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ._module import Module, Undo, background, endpoint, every, health, on, step
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
from ._registry import (
    find_modules,
    get_registered,
    installed_targets,
    load_module,
    load_modules,
    module,
    register,
    registered,
    try_modules,
)

if TYPE_CHECKING:
    from ..schedules import Tick
    from ._declare import describe
    from ._every import ScheduleHandler, TickSubscription
    from ._every_store import Schedules, ScheduleState, ScheduleView
    from ._health import CheckResult, Health
    from ._host import DrainReport, Host
    from ._live import read_live_config
    from ._plan import Plan, make_plan
    from ._runtime import Runtime

__all__ = [
    "CheckResult",
    "DrainReport",
    "EndedStatus",
    "Health",
    "Host",
    "JournalLine",
    "Module",
    "Plan",
    "RunSummary",
    "RunView",
    "Runtime",
    "ScheduleHandler",
    "ScheduleState",
    "ScheduleView",
    "Schedules",
    "Started",
    "StepContext",
    "StepFunction",
    "StepHandler",
    "StepView",
    "Tick",
    "TickSubscription",
    "Undo",
    "Workflows",
    "background",
    "describe",
    "endpoint",
    "every",
    "find_modules",
    "get_registered",
    "health",
    "installed_targets",
    "load_module",
    "load_modules",
    "make_plan",
    "module",
    "on",
    "read_live_config",
    "register",
    "registered",
    "step",
    "try_modules",
]

_HOMES = {
    "Tick": "..schedules",
    "CheckResult": "._health",
    "DrainReport": "._host",
    "Health": "._health",
    "Host": "._host",
    "Plan": "._plan",
    "Runtime": "._runtime",
    "ScheduleHandler": "._every",
    "ScheduleState": "._every_store",
    "ScheduleView": "._every_store",
    "Schedules": "._every_store",
    "TickSubscription": "._every",
    "describe": "._declare",
    "make_plan": "._plan",
    "read_live_config": "._live",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
