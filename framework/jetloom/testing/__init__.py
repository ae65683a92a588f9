"""What a user needs to test with jetloom: virtual time, simulated processes, faults by a seed.

`run_virtual(main, seed)` runs a coroutine function in virtual time; `VirtualClock` is its clock. Code under
`PROCESS.set("name")` belongs to a simulated process, which `VirtualLoop` freezes, thaws and kills.
`SeededFaults` is a plan of what goes wrong on the way to a `MemoryServer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetloom.testing._clock import EPOCH, PROCESS, Deadlock, Livelock, VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from jetloom.testing._faults import FaultRates, SeededFaults

__all__ = [
    "EPOCH",
    "PROCESS",
    "Deadlock",
    "FaultRates",
    "Livelock",
    "SeededFaults",
    "VirtualClock",
    "VirtualLoop",
    "run_virtual",
]


def __getattr__(name: str) -> object:
    if name in ("FaultRates", "SeededFaults"):
        # The transport is loaded only by who asks for faults.
        from jetloom.testing import _faults

        return getattr(_faults, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
