"""The journal's records: facts, folded without a definition and without a decision.

One journal message is one `Entry`. Its records stand in the order in which they are to be folded.
A *cover* names an un-acknowledged message: `m<sequence>` of the run's mailbox stream, `t<sequence>` of its
timers stream.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import ErrorInfo
from ..types import JSON, SYSTEM, Actor
from ._mailbox import ActionVerb, ParentRef

type TimerKind = Literal["retry", "sleep", "timeout", "run", "start", "grace", "undo"]
"""What a timer is for: a retry's delay, a wait's end, a remote attempt's or message wait's limit, the run's limit, a
delayed start, the patience of a cancel with started attempts, an undo's retry delay."""


class _Record(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t"):
    pass


# -- run
class RunStarted(_Record, frozen=True, tag="run_started"):
    workflow: str
    fingerprint: str
    hash: str
    nonce: str
    input: JSON = None
    actor: Actor = SYSTEM
    labels: dict[str, str] = {}
    not_before: float | None = None
    timeout: float | None = None
    parent: ParentRef | None = None
    notify: str = ""
    trace: str = ""
    trace_state: str = ""


class Driven(_Record, frozen=True, tag="driven"):
    """The run is being driven: its start changes nothing any more."""


class Settling(_Record, frozen=True, tag="settling"):
    """Nothing new starts. `status` is how the run will end; `compensate`: whether undos follow."""

    status: Literal["failed", "cancelled"]
    error: ErrorInfo
    compensate: bool = True


class Undoing(_Record, frozen=True, tag="undoing"):
    """Written before the first undo starts: the steps to undo, latest first."""

    plan: tuple[str, ...]


class Paused(_Record, frozen=True, tag="paused"):
    pass


class Continued(_Record, frozen=True, tag="continued"):
    """Ends a pause or a parking."""


class Parked(_Record, frozen=True, tag="parked"):
    """The run waits for a person, a definition, or a resumed workflow. `step` is what it is about, if it is a step."""

    reason: str
    step: str = ""


class Finished(_Record, frozen=True, tag="finished"):
    status: Literal["completed", "failed", "cancelled"]
    output: JSON = None
    error: ErrorInfo | None = None


# -- steps. `step` of a unit of work is a step id; an undo has records of its own
class StepStarted(_Record, frozen=True, tag="started"):
    """`where`: `here` (in the engine's process, under `cover`), `task`, or `wait` (a message or a timer)."""

    step: str
    attempt: int
    where: Literal["here", "task", "wait"]
    handler: str = ""
    cover: str = ""
    deadline: float | None = None


class StepCompleted(_Record, frozen=True, tag="completed"):
    step: str
    output: JSON = None
    noted: bool = False
    """Whether the step left notes, which a purge has to remove."""


class StepFailed(_Record, frozen=True, tag="failed"):
    """An attempt failed. `next`: what policy says; `fail` ends the step."""

    step: str
    attempt: int
    error: ErrorInfo
    next: Literal["retry", "fail", "skip", "settle"]
    noted: bool = False


class StepSkipped(_Record, frozen=True, tag="skipped"):
    step: str
    reason: Literal["when", "on_error", "timeout", "action"]


class StepUnknown(_Record, frozen=True, tag="unknown"):
    """A started attempt whose outcome nobody will wait for any more."""

    step: str
    attempt: int


class UndoStarted(_Record, frozen=True, tag="undo_started"):
    step: str
    attempt: int
    where: Literal["here", "task"]
    handler: str = ""
    cover: str = ""
    deadline: float | None = None


class UndoCompleted(_Record, frozen=True, tag="undo_completed"):
    step: str


class UndoFailed(_Record, frozen=True, tag="undo_failed"):
    step: str
    attempt: int
    error: ErrorInfo
    next: Literal["retry", "pass", "park"]


# -- covers
class Held(_Record, frozen=True, tag="held"):
    """The entry's engine holds this cover; a poke's names the covers that it replaces."""

    cover: str
    instead_of: tuple[str, ...] = ()


class Released(_Record, frozen=True, tag="released"):
    cover: str


class Suspect(_Record, frozen=True, tag="suspect"):
    """A message that was delivered suspiciously often without ever being applied."""

    message: str


# -- the rest
class TimerSet(_Record, frozen=True, tag="timer"):
    """With a cover it is held in memory; without one it is scheduled on the server. A name is never used twice."""

    name: str
    due: float
    kind: TimerKind
    step: str = ""
    attempt: int = 0
    cover: str = ""


class TimerFired(_Record, frozen=True, tag="fired"):
    name: str


class TimerDropped(_Record, frozen=True, tag="dropped"):
    name: str


class Kept(_Record, frozen=True, tag="kept"):
    """A message that arrived; it is kept until a wait takes it."""

    id: str
    name: str
    payload: JSON = None
    actor: Actor = SYSTEM


class Taken(_Record, frozen=True, tag="taken"):
    id: str
    step: str


class Cancelled(_Record, frozen=True, tag="cancelled"):
    id: str
    reason: str = ""
    actor: Actor = SYSTEM
    compensate: bool | None = None


class Poked(_Record, frozen=True, tag="poked"):
    sequence: int


class Deferred(_Record, frozen=True, tag="deferred"):
    """A message that this engine can't decide about (unknown definition): kept whole, decided later."""

    message: str
    subject: str
    body: JSON = None


class ActionTaken(_Record, frozen=True, tag="action"):
    """`verdict`: `done`, or why it was refused."""

    id: str
    verb: ActionVerb
    step: str = ""
    actor: Actor = SYSTEM
    verdict: str = "done"
    reason: str = ""


class Emitted(_Record, frozen=True, tag="emitted"):
    """An event to publish once; its id is `<run>.<inc>.<key>`."""

    key: str
    type: str
    payload: JSON = None


class Snapshot(_Record, frozen=True, tag="snapshot"):
    """The folded state after this entry, and the entries before it: in `entries` while they are few, else in `history`
    (base64 of deflated JSON lines)."""

    state: msgspec.Raw
    history: str = ""
    entries: tuple[msgspec.Raw, ...] = ()


type Record = (
    RunStarted
    | Driven
    | Settling
    | Undoing
    | Paused
    | Continued
    | Parked
    | Finished
    | StepStarted
    | StepCompleted
    | StepFailed
    | StepSkipped
    | StepUnknown
    | UndoStarted
    | UndoCompleted
    | UndoFailed
    | Held
    | Released
    | Suspect
    | TimerSet
    | TimerFired
    | TimerDropped
    | Kept
    | Taken
    | Cancelled
    | Poked
    | Deferred
    | ActionTaken
    | Emitted
    | Snapshot
)


class BlobRef(msgspec.Struct, frozen=True):
    """Content-addressed bytes in the blob stream. `digest`: SHA-256 in hexadecimal; `root`, `inc`: the owning run."""

    digest: str
    size: int
    chunks: int
    root: str
    inc: int


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One journal message. Records above the size limit stand in `blob`, as a JSON array, and not here.

    `n` counts from 1 without gaps; `at` seconds since the epoch on the writer's clock; `sent` names the entries whose
    events are known to be stored.
    """

    n: int
    at: float
    by: str
    inc: int
    records: tuple[Record, ...] = ()
    sent: tuple[int, ...] = ()
    blob: BlobRef | None = None


_entries = msgspec.json.Decoder(Entry)
_records = msgspec.json.Decoder(tuple[Record, ...])


def decode_entry(data: bytes) -> Entry:
    """Raises `msgspec.DecodeError` or `msgspec.ValidationError`."""
    return _entries.decode(data)


def decode_records(data: bytes) -> tuple[Record, ...]:
    return _records.decode(data)
