"""jetloom: event-driven modules and durable workflows on NATS alone.

The names below load when they are first used, so that `import jetloom` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bus import Event, Retry
    from .config import Secret
    from .errors import ErrorClass, JetloomError, TaskFailed
    from .runtime import (
        Module,
        Runtime,
        StepContext,
        Tick,
        Undo,
        background,
        endpoint,
        every,
        health,
        module,
        on,
        step,
    )
    from .types import Actor

__all__ = [
    "Actor",
    "ErrorClass",
    "Event",
    "JetloomError",
    "Module",
    "Retry",
    "Runtime",
    "Secret",
    "StepContext",
    "TaskFailed",
    "Tick",
    "Undo",
    "background",
    "endpoint",
    "every",
    "health",
    "module",
    "on",
    "step",
]

_HOMES = {
    "Actor": ".types",
    "ErrorClass": ".errors",
    "Event": ".bus",
    "JetloomError": ".errors",
    "Module": ".runtime",
    "Retry": ".bus",
    "Runtime": ".runtime",
    "Secret": ".config",
    "StepContext": ".runtime",
    "TaskFailed": ".errors",
    "Tick": ".runtime",
    "Undo": ".runtime",
    "background": ".runtime",
    "endpoint": ".runtime",
    "every": ".runtime",
    "health": ".runtime",
    "module": ".runtime",
    "on": ".runtime",
    "step": ".runtime",
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
