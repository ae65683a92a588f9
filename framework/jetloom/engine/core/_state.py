"""What a journal folds into: the only thing that decides anything about a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from ...errors import ErrorInfo
from ...messages import Cancelled, Deferred, Emitted, Finished, Kept, Parked, RunStarted, Settling, TimerSet
from ...types import JSON, RunStatus, StepStatus

type Phase = Literal["new", "open", "settling", "undoing", "finished"]
"""`new`: known, but not driven. `open`: steps start. `settling`: nothing new starts, started attempts end.
`undoing`: the plan is worked off. `finished`: for ever."""

UNDO = "undo="
"""Prefix of an undo's unit: `undo=reserve` is the undo of step `reserve`. Step ids can't hold a `=`."""

RECENT_ENTRIES = 16
"""How many of the last entries' writers a state remembers, for pacing."""


_ENDED = {status.value: status for status in RunStatus}


class Unit(msgspec.Struct, omit_defaults=True):
    """One step, or the undo of one. An attempt is *pending* while `status` is RUNNING.

    An undo is COMPLETED, FAILED (recorded and passed), or WAITING (for a person). `order` counts ended steps in
    journal order. Times are seconds since the epoch.
    """

    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    where: str = ""
    handler: str = ""
    cover: str = ""
    deadline: float | None = None
    failures: int = 0
    order: int = 0
    output: JSON = None
    error: ErrorInfo | None = None
    started_at: float | None = None
    ended_at: float | None = None


class Cover(msgspec.Struct, omit_defaults=True):
    """A message under which work runs. `epoch`: the ordinal of the entry that made `holder` its holder.

    `work` counts what is pending under it; `resumes` how often it was taken over since work under it last ended.
    """

    holder: str
    epoch: int
    work: int = 0
    resumes: int = 0
    released: bool = False


class RunState(msgspec.Struct, omit_defaults=True):
    """The fold of one journal. `n` = 0: there is none."""

    run: str
    inc: int = 0
    n: int = 0
    at: float = 0.0
    phase: Phase = "new"
    driven: bool = False
    started: RunStarted | None = None
    started_at: float = 0.0
    steps: dict[str, Unit] = {}
    running: dict[str, int] = {}
    """Units with a pending attempt, and which: an index of `steps`, so that a turn costs what is running."""
    covers: dict[str, Cover] = {}
    timers: dict[str, TimerSet] = {}
    kept: list[Kept] = []
    seen: set[str] = set()
    deferred: list[Deferred] = []
    unsent: dict[int, list[Emitted]] = {}
    suspects: dict[str, int] = {}
    settling: Settling | None = None
    plan: tuple[str, ...] = ()
    parked: Parked | None = None
    paused: bool = False
    cancelled: Cancelled | None = None
    poked: int = 0
    finished: Finished | None = None
    finished_at: float = 0.0
    ended: int = 0
    marked: bool = False
    """Whether markers or notes of this run exist, which a purge has to remove."""
    stored: bool = False
    """Whether blobs of this run exist."""
    recent: list[str] = []

    def unit(self, name: str) -> Unit:
        """The unit of that name; a fresh one, not kept, when nothing is known of it."""
        return self.steps.get(name) or Unit()

    def pending(self, name: str, attempt: int) -> bool:
        """Whether exactly this attempt is pending."""
        return self.running.get(name) == attempt

    def iter_attempts(self, where: str = "") -> Iterator[tuple[str, Unit]]:
        """Units with a pending attempt, in a copy that may be changed meanwhile."""
        for name in tuple(self.running):
            unit = self.steps[name]
            if not where or unit.where == where:
                yield name, unit

    def live(self, cover: str) -> bool:
        """Whether work is pending under this message."""
        return cover in self.covers

    def holds(self, cover: str, engine: str) -> bool:
        found = self.covers.get(cover)
        return found is not None and found.holder == engine and not found.released

    @property
    def status(self) -> RunStatus:
        if self.finished is not None:
            return _ENDED[self.finished.status]
        if self.parked is not None:
            return RunStatus.WAITING if self.parked.reason == "definition" else RunStatus.WAITING_HUMAN
        if self.phase == "new":
            return RunStatus.PENDING
        if self.phase == "undoing" or (self.settling is not None and self.settling.compensate):
            return RunStatus.COMPENSATING
        if self.paused:
            return RunStatus.WAITING
        if any(timer.kind == "start" for timer in self.timers.values()):
            return RunStatus.PENDING
        if self.running or self.phase == "settling":
            return RunStatus.RUNNING
        return RunStatus.WAITING


class Outputs(Mapping[str, JSON]):
    """The outputs of completed steps, by id: a view, so that a step of a wide graph costs what it reads."""

    def __init__(self, state: RunState) -> None:
        self._steps = state.steps

    def __getitem__(self, step: str) -> JSON:
        unit = self._steps.get(step)
        if unit is None or unit.status is not StepStatus.COMPLETED or step.startswith(UNDO):
            raise KeyError(step)
        return unit.output

    def __contains__(self, step: object) -> bool:
        unit = self._steps.get(step) if isinstance(step, str) else None
        return unit is not None and unit.status is StepStatus.COMPLETED

    def __iter__(self) -> Iterator[str]:
        for name, unit in self._steps.items():
            if unit.status is StepStatus.COMPLETED and not name.startswith(UNDO):
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)
