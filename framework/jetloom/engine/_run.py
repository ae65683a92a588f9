"""A run as an engine has it while it works on it."""

from __future__ import annotations

import msgspec

from ..messages import Entry, Held, MailboxAddress
from ..stores import Line
from ..transport import Delivery
from ..types import JSON, RunStatus
from ..workflows import Compiled
from ._constants import SURE
from ._executor import Body
from ._wake import Wake
from .core import (
    Arrived,
    BodyEnded,
    Draft,
    Frontier,
    Hold,
    Output,
    RunState,
    TakeOver,
    Unsendable,
    changes,
    copy_state,
    elsewhere,
    fold_entry,
)

COPIED_FROM = 8
"""Lines from which on a copy of a state costs less than folding it once more."""


class Message:
    """A message that this engine holds: neither acknowledged, nor NAKed, nor given up."""

    __slots__ = (
        "ack_subject",
        "arrived",
        "basis",
        "beaten",
        "count",
        "delivery",
        "hold",
        "suspected",
        "verified",
    )

    def __init__(
        self, arrived: Arrived, delivery: Delivery | None, ack_subject: str, basis: float, tick: int
    ) -> None:
        self.arrived = arrived
        self.delivery = delivery
        self.ack_subject = ack_subject
        self.count = delivery.count if delivery is not None else 1
        self.basis = basis
        self.beaten = basis
        self.verified = False
        """A start that a leader read found still stored, or whose journal was found."""
        self.suspected = 0
        """The delivery count at which its suspicion was journaled."""
        self.hold = Hold(tick)

    @property
    def ref(self) -> str:
        return self.arrived.ref

    def sure(self, now: float) -> bool:
        """Whether nobody else can have been given this message; measured on this machine alone."""
        if now >= self.basis + SURE:
            self.hold.sure_since = -1
            return False
        return self.hold.sure_since >= 0

    def renew(self, basis: float, now: float, tick: int) -> None:
        """A pull or a confirmed beat, sent at `basis`, made it ours anew."""
        was_sure = self.sure(now)
        self.basis = max(self.basis, basis)
        if not was_sure:
            self.hold.sure_since = tick


class Run:
    """In the engine's table exactly while it has input, work here, an append or an output under way.

    `state_tick` is when the reading or appending that `state` stems from began, in the engine's count (-1: before
    anything now held was received). `lines` are the journal's from its last snapshot on.
    """

    def __init__(self, run: str) -> None:
        self.id = run
        self.state: RunState | None = None
        self.last = 0
        self.state_tick = -1
        self.lines: list[Line] = []
        self.weight = 0
        """Bytes of the lines, those in blobs too."""
        self._base: tuple[RunState, int] | None = None
        """What the first so many lines fold into."""
        self.compiled: Compiled | None = None
        self.frontier: Frontier | None = None
        self.messages: dict[str, Message] = {}
        self.ended: list[BodyEnded] = []
        self.taken: list[TakeOver] = []
        self.unsendable: list[Unsendable] = []
        self.asking: set[str] = set()
        self.bodies: dict[tuple[str, int], Body] = {}
        self.inputs: dict[tuple[str, int], JSON] = {}
        self.outputs: list[tuple[Output, int]] = []
        """What own entries made necessary, each with the tick before its append."""
        self.sent: set[int] = set()
        """Ordinals of entries whose events are known to be stored; the next entry says so."""
        self.derived = False
        self.owing = False
        """Work was taken over here: what its former holder may have left unsent is derived at once, not at the ack."""
        self.doubtful = False
        """Whether no message may be acknowledged before all was derived again."""
        self.draft: Draft | None = None
        """A head start's entry, not yet written."""
        self.draft_since = 0.0
        self.indexed: RunStatus | None = None
        self.index_known = False
        self.row_due = 0.0
        """When the row of a run whose steps are under way elsewhere is written at the latest; 0 while none is owed."""
        self.since = 0.0
        self.checked = 0.0
        self.refused_at = -1.0
        self.hinted = False
        """Somebody said that the journal went on: read its tail."""
        self.hints: set[str] = set()
        """Engines that should hear of this engine's last entry."""
        self.draining = False
        self.wake = Wake()

    @property
    def idle(self) -> bool:
        """Nothing left that this process must do for it."""
        return not (
            self.messages
            or self.bodies
            or self.ended
            or self.taken
            or self.asking
            or self.outputs
            or self.draft
        )

    @property
    def held_timers(self) -> int:
        """Timers that wait in this process' memory."""
        state = self.state
        return sum(1 for timer in state.timers.values() if timer.cover) if state is not None else 0

    def fold(self, line: Line, engine: str, *, first: bool = False) -> None:
        """Folds another entry. What an entry of another engine takes from this one is forgotten here.

        Not in a `first` reading: what was delivered before it may be what a dead holder left behind. Its holder is
        asked, instead of waiting until it is delivered once more.
        """
        state = self.state if self.state is not None else RunState(self.id)
        self.state = fold_entry(state, line.entry, line.records)
        self.last = line.sequence
        self.keep(line)
        self.frontier = None
        if line.entry.by == engine:
            return
        self.derived, self.index_known = False, False
        if line.snapshot is not None:
            self._doubt()
        for record in () if first else line.records:
            if isinstance(record, Held):
                for ref in (record.cover, *record.instead_of):
                    self.forget(ref)
        for message in self.messages.values():
            if not self._live(message.ref):
                # If it is spent now, this entry made it so, and what that caused is for its writer to send.
                message.hold.mine = False

    def keep(self, line: Line) -> None:
        """Adds a line to those since the last snapshot."""
        if line.snapshot is not None:
            self.lines.clear()
            self.weight, self._base = 0, None
        self.lines.append(line)
        self.weight += line.size

    def _doubt(self) -> None:
        """A snapshot of another engine may hide entries: own ones, whose outputs nobody sent, and takeovers."""
        self.doubtful = True
        for message in self.messages.values():
            message.hold.mine = message.hold.quiet = False

    def forget(self, ref: str) -> None:
        """Gives a message up, silently: the server brings it back to whoever must have it."""
        message = self.messages.get(ref)
        if message is not None and (message.hold.mine or self._live(ref)):
            del self.messages[ref]

    def _live(self, ref: str) -> bool:
        return self.state is not None and self.state.live(ref)

    def reset(self) -> None:
        """The state as the known lines say: after a refused decision, which had folded what it wanted.

        A run whose entries are refused has other engines at it, and will be here again: the next time only what came
        since is folded.
        """
        (state, folded), self._base = self._base or (RunState(self.id), 0), None
        for line in self.lines[folded:]:
            state = fold_entry(state, line.entry, line.records)
        self.state = state
        if len(self.lines) >= COPIED_FROM or (self.lines and self.lines[0].snapshot is not None):
            self._base = copy_state(state), len(self.lines)
        self.frontier = None
        self.draft = None
        self.inputs.clear()

    def begin(self) -> RunState:
        """The state of a run without a journal."""
        self.state = state = RunState(self.id)
        self.last, self.lines, self.weight, self._base = 0, [], 0, None
        return state

    def lose(self) -> None:
        """Nothing is known of the journal any more."""
        self.state, self.last, self.state_tick, self.lines, self.weight = None, 0, -1, [], 0
        self._base = None
        self.frontier, self.draft, self.compiled = None, None, None
        # What was known of that journal is no knowledge of the next one, which may be another incarnation's: whatever
        # was still to be sent is derived again before anything is acknowledged.
        self.derived, self.index_known, self.indexed = False, False, None
        self.inputs.clear()
        self.outputs.clear()
        self.sent.clear()
        for message in self.messages.values():
            message.hold.mine = message.hold.quiet = False

    def mark_quiet(self) -> None:
        """After an own entry: what it made spent, and only this engine ever held, needs no derivation before its
        ack.
        """
        state = self.state
        if state is None or self.doubtful:
            return
        for ref, message in self.messages.items():
            if ref in state.suspects or message.arrived.address.kind == "poke":
                # Whoever wrote that it is suspicious may have died before the outputs of that very entry; and a
                # poke is there because something may be missing.
                continue
            if message.hold.mine and not message.hold.quiet and not state.live(ref):
                arrived = message.arrived
                message.hold.quiet = elsewhere(state, arrived) or not changes(state, arrived)

    @property
    def inc(self) -> int:
        return self.state.inc if self.state is not None else 0

    @property
    def workflow(self) -> str:
        started = self.state.started if self.state is not None else None
        return started.workflow if started is not None else ""


def strip_snapshot(line: Line) -> Entry:
    """The entry as it would stand in a history: without the snapshot that it opened with."""
    if line.snapshot is None:
        return (
            line.entry
            if line.entry.blob is None
            else msgspec.structs.replace(line.entry, records=line.records, blob=None)
        )
    return msgspec.structs.replace(line.entry, records=line.records[1:], blob=None)


def ref_of(kind: str, sequence: int) -> str:
    """How a cover names a message: `t` for wakes, `m` for the mailbox."""
    return f"{'t' if kind == 'wake' else 'm'}{sequence}"


def address_of_holding(run: str) -> MailboxAddress:
    """For a cover whose message this engine only knows by its name."""
    return MailboxAddress("cover", run)
