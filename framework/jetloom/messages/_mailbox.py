"""What travels to and from a run: mailbox bodies, tasks, and the questions that engines and workers ask each other."""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import ErrorInfo
from ..types import JSON, SYSTEM, Actor


class ParentRef(msgspec.Struct, frozen=True, omit_defaults=True):
    run: str
    inc: int
    step: str
    attempt: int


class Start(msgspec.Struct, frozen=True, omit_defaults=True):
    """`hash` = `input_hash(workflow, input)`; `not_before` and `timeout` in seconds (epoch, duration). `notify` is an
    inbox (`_INBOX.…`) that is told the end, once and without a guarantee. `trace` and `trace_state` are W3C's."""

    workflow: str
    hash: str
    nonce: str
    input: JSON = None
    fingerprint: str = ""
    actor: Actor = SYSTEM
    labels: dict[str, str] = {}
    not_before: float | None = None
    timeout: float | None = None
    parent: ParentRef | None = None
    notify: str = ""
    trace: str = ""
    trace_state: str = ""


class EmitRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event that a step asks for. Without a key it gets the step and the call's index."""

    type: str
    payload: JSON = None
    key: str = ""


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker publishes on the task's reply subject."""

    outcome: Literal["ok", "error"]
    output: JSON = None
    emits: tuple[EmitRequest, ...] = ()
    error: ErrorInfo | None = None
    noted: bool = False
    """Whether this step wrote notes (heartbeats), in this or an earlier attempt."""


class RunMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something addressed to one run; its name and id stand in the subject."""

    payload: JSON = None
    actor: Actor = SYSTEM


class Cancel(msgspec.Struct, frozen=True, omit_defaults=True):
    reason: str = ""
    actor: Actor = SYSTEM
    compensate: bool | None = None
    """None: as the definition says."""


type ActionVerb = Literal["retry", "skip", "approve", "reject", "pause", "resume", "update"]


class Action(msgspec.Struct, frozen=True, omit_defaults=True):
    verb: ActionVerb
    step: str = ""
    role: str = ""
    reason: str = ""
    expected_n: int | None = None
    actor: Actor = SYSTEM


class Task(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a task: the step's input; an undo's is an `UndoInput`."""

    input: JSON = None


class UndoInput(msgspec.Struct, frozen=True):
    """What an undo gets: what the step got and gave, and whether it is known to have completed."""

    input: JSON = None
    output: JSON = None
    outcome: Literal["completed", "unknown"] = "completed"


class HoldingQuery(msgspec.Struct, frozen=True):
    """Asked of the holder of a live cover. `ack_subject` is the newest delivery's: the holder may take it over."""

    run: str
    inc: int
    stream: str
    sequence: int
    ack_subject: str


class HoldingAnswer(msgspec.Struct, frozen=True):
    holding: bool


class SettledQuery(msgspec.Struct, frozen=True):
    run: str
    inc: int
    step: str
    attempt: int
    handler: str = ""


class SettledAnswer(msgspec.Struct, frozen=True):
    settled: bool


class StopNotice(msgspec.Struct, frozen=True):
    """Tells workers that an attempt is over; a courtesy."""

    run: str
    inc: int
    step: str
    attempt: int
