"""What a module says of itself to whoever asks `$SRV.INFO`."""

from __future__ import annotations

import msgspec

from ._declare import Declared
from ._module import Module

EVENTS = "jetloom.events"
STEPS = "jetloom.steps"
SCHEDULES = "jetloom.schedules"
DEPENDS_ON = "jetloom.depends_on"
INTERNAL = "jetloom.internal"
"""Of an endpoint that the host serves for every module: nobody's to call by hand."""


def metadata_of(module: Module, declared: Declared, namespace: str) -> dict[str, str]:
    """The service's metadata: texts, in which lists and tables are JSON. What a module has none of is left out."""
    events = [
        {
            "name": each.name,
            "pattern": each.pattern,
            "mode": each.mode,
            **{name: value for name in ("where", "key", "batch") if (value := getattr(each, name))},
        }
        for each in declared.events
    ]
    steps = [
        {"name": each.name, **({"undo": declared.undos[each.name]} if each.name in declared.undos else {})}
        for each in declared.steps
    ]
    schedules = [
        {
            "name": each.name,
            "spec": each.schedule.spec,
            "tz": each.schedule.tz,
            "missed": each.missed,
        }
        for each in declared.every
    ]
    lists: dict[str, object] = {
        EVENTS: events,
        STEPS: steps,
        SCHEDULES: schedules,
        DEPENDS_ON: list(module.depends_on),
    }
    texts = {name: msgspec.json.encode(value).decode() for name, value in lists.items() if value}
    return {"namespace": namespace, **texts}
