"""The workloads, in the order in which they run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ..errors import InvalidInput
from ._chain import chain, chain_remote, payload
from ._cold import cold
from ._engines import engines
from ._events import events, rpc
from ._fanout import fanout, message
from ._frame import Workload
from ._history import history
from ._limits import limits
from ._recovery import recovery
from ._sleep import sleep

WORKLOADS: tuple[Workload, ...] = (
    Workload("limits", "publishes, requests, pulls: nats-py as it is, and jetloom's transport", limits),
    Workload("chain", "W1: runs of three steps in one process, at 1, 64 and 256", chain),
    Workload("chain-remote", "W1r: the same, each step in another process, at 1 and 64", chain_remote),
    Workload("fanout", "W2: 100 and 10,000 parallel steps and a join", fanout),
    Workload("payload", "W3: three steps with outputs of 16 KiB", payload),
    Workload("recovery", "W4: an engine killed in the middle: restarted, and taken over", recovery),
    Workload(
        "sleep",
        "W5: runs that sleep: how late they wake, 100,000 of them",
        sleep,
        once=True,
        seconds_max=2_000.0,
        memory=3_000_000_000,
        disk=2_000_000_000,
    ),
    Workload("message", "W6: from a message to the end of the run that waits for it", message),
    Workload("events", "W7: publish to handler, durable group with acknowledgements, typed", events),
    Workload("rpc", "W8: requests to an endpoint at 1 and 64, beside plain nats-py", rpc),
    Workload("cold", "W9: from nothing to the first result; imports", cold),
    Workload(
        "history",
        "W10: a run of 10,000 steps; starts beside 1,000,000 finished runs",
        history,
        once=True,
        seconds_max=1_200.0,
        memory=4_000_000_000,
        disk=6_000_000_000,
    ),
    Workload("engines", "W11: one, two and four engines", engines),
)


def find_workloads(names: Sequence[str]) -> list[Workload]:
    """Those of these names, all without one. Raises `InvalidInput` for a name that there is not."""
    known = {workload.name: workload for workload in WORKLOADS}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise InvalidInput(f"no workload {name!r}: {hint}")
    return [workload for workload in WORKLOADS if not names or workload.name in names]
