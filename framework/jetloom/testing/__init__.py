"""What a user needs to test with jetloom: whole modules in virtual time, stand-ins, crashes, faults by a seed.

`World` runs modules, workflows and engines on the memory twin of NATS: in pytest as the fixture `world`, without it by
`run_world(main)`. `Delay`, an outcome of its fakes, takes virtual time. `Deadlock` and `Leaked` are how a world says
that nothing is left to happen, or that something outlives the test.

Below it: `run_virtual(main, seed)` runs a coroutine function in virtual time; `VirtualClock` is its clock. Code under
`PROCESS.set("name")` belongs to a simulated process, which `VirtualLoop` freezes, thaws and kills. `SeededFaults` is a
plan of what goes wrong on the way to a `MemoryServer`; set it as a world's `server.faults`.

The pytest plugin is `jetloom.testing.plugin`, which pytest finds by itself. What needs the rest of jetloom loads when
it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetloom.testing._clock import (
        EPOCH,
        PROCESS,
        Deadlock,
        Livelock,
        VirtualClock,
        VirtualLoop,
        run_virtual,
    )
    from jetloom.testing._fakes import Delay, Fake, FakeCall, FakeContext
    from jetloom.testing._faults import FaultRates, SeededFaults
    from jetloom.testing._records import Handled
    from jetloom.testing._run import Leaked, run_world
    from jetloom.testing._server import NatsServer
    from jetloom.testing._world import World

__all__ = [
    "EPOCH",
    "PROCESS",
    "Deadlock",
    "Delay",
    "Fake",
    "FakeCall",
    "FakeContext",
    "FaultRates",
    "Handled",
    "Leaked",
    "Livelock",
    "NatsServer",
    "SeededFaults",
    "VirtualClock",
    "VirtualLoop",
    "World",
    "run_virtual",
    "run_world",
]

_HOMES = {
    **dict.fromkeys(
        ("EPOCH", "PROCESS", "Deadlock", "Livelock", "VirtualClock", "VirtualLoop", "run_virtual"), "._clock"
    ),
    **dict.fromkeys(("Delay", "Fake", "FakeCall", "FakeContext"), "._fakes"),
    **dict.fromkeys(("FaultRates", "SeededFaults"), "._faults"),
    **dict.fromkeys(("Leaked", "run_world"), "._run"),
    "Handled": "._records",
    "NatsServer": "._server",
    "World": "._world",
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
