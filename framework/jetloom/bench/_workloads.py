"""The workloads, in the order in which they run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ..errors import InvalidInput
from ._chain import chain, chain_remote, payload
from ._events import events, rpc
from ._frame import Workload
from ._limits import limits

WORKLOADS: tuple[Workload, ...] = (
    Workload("limits", "publishes, requests, pulls: nats-py as it is, and jetloom's transport", limits),
    Workload("chain", "W1: runs of three steps in one process, at 1, 64 and 256", chain),
    Workload("chain-remote", "W1r: the same, each step in another process, at 1 and 64", chain_remote),
    Workload("payload", "W3: three steps with outputs of 16 KiB", payload),
    Workload("events", "W7: publish to handler, durable group with acknowledgements, typed", events),
    Workload("rpc", "W8: requests to an endpoint at 1 and 64, beside plain nats-py", rpc),
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
