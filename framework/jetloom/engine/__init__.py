"""Durable execution.

A run is an actor with a durable mailbox and a journal. An *engine* takes a mailbox message, folds the run's
journal into a state, lets a pure function decide, appends the decision with one conditional write, and performs
it.

States of a run: new (known, not driven) → open (steps start) → settling (nothing new starts) → undoing → finished.

Invariants: one transition is one conditional append; a message is acknowledged only when the journal shows it
spent, and spent never becomes unspent; every piece of work that runs in a process is journaled with a *cover*,
an un-acknowledged message that its engine holds; whatever follows from the journal is sent again until it is
known to exist.

When a process dies, the server delivers its covers again, and whoever gets one resumes the work under it. Not
guaranteed: that a body runs once. It may run again when a process dies between its end and the append of its
result, or freezes between its last check and its start; it never starts again once its result is journaled.
"""

from ._client import Client
from ._constants import RETENTION, RETENTION_MIN
from ._definitions import Definitions
from ._engine import Engine
from ._tasks import Worker

__all__ = ["RETENTION", "RETENTION_MIN", "Client", "Definitions", "Engine", "Worker"]
