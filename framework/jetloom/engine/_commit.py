"""One transition, one conditional append; and what to do when its outcome is not known."""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import Sequence
from enum import Enum

import msgspec

from ..errors import ConditionFailed, Disconnected, OutcomeUnknown, Refused, RequestTimeout
from ..messages import BlobRef, Entry, Record, Snapshot, encode
from ..stores import Line
from ._constants import RETENTION, RETENTION_MIN, SNAPSHOT_BYTES, SNAPSHOT_ENTRIES
from ._run import Run, strip_snapshot
from ._shell import Shell
from .core import Draft, RunState, close, wanted_by

_records = msgspec.json.Encoder()

FIRST_PAUSE = 0.01
LAST_PAUSE = 1.0
HISTORY_LEVEL = 1
"""Of zlib: a finish is on the hot path, and journals repeat themselves enough for the fastest level."""


class Outcome(Enum):
    ACCEPTED = "accepted"
    REFUSED = "refused"


async def commit(shell: Shell, run: Run, draft: Draft) -> Outcome:
    """Appends the draft. Accepted: `run` is the state that it led to. Refused: `run` has folded what came between.

    Returns only with a verdict: the same bytes are sent again until there is one.
    """
    state = draft.state
    expected, before = run.last, shell.tick()
    run.draft = None
    close(state, draft.stamp, tuple(run.sent))
    entry, records, rollup, ttl = await _entry(shell, run, draft)
    nonce, data = shell.clock.token(), encode(entry)
    pause = FIRST_PAUSE
    while True:
        began = shell.clock.monotonic()
        try:
            sequence = await shell.journals.append(
                run.id, data, expected=expected, nonce=nonce, rollup=rollup, ttl=ttl
            )
        except (ConditionFailed, OutcomeUnknown, Refused) as error:
            if not isinstance(error, ConditionFailed):
                shell.count("jetloom_appends_total", outcome="unknown")
            verdict = await _look(shell, run, expected, nonce, error)
            if verdict is Outcome.ACCEPTED:
                # Its answer was lost, its outputs are as much ours as those of any other entry.
                _own(run, draft, before)
            if verdict is not None:
                shell.count("jetloom_appends_total", outcome=verdict.value)
                return verdict
        else:
            shell.count("jetloom_appends_total", outcome="accepted")
            shell.observe("jetloom_append_duration_seconds", shell.clock.monotonic() - began)
            _accepted(run, Line(sequence, nonce, entry, records, data), draft, before)
            return Outcome.ACCEPTED
        await asyncio.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE)


def _accepted(run: Run, line: Line, draft: Draft, before: int) -> None:
    if line.snapshot is not None:
        run.lines.clear()
    run.lines.append(line)
    run.last = line.sequence
    run.state = draft.state
    run.state_tick = before
    run.frontier = draft.known_frontier
    _sent(run, line.entry)
    _own(run, draft, before)


def _own(run: Run, draft: Draft, before: int) -> None:
    """What an accepted own entry means for the messages and outputs at hand."""
    for ref in draft.applied:
        message = run.messages.get(ref)
        if message is None:
            continue
        message.hold.mine = True
        if message.arrived.address.kind == "poke":
            # Something may have been lost after it was derived: an earlier derivation says nothing.
            run.derived, run.owing = False, True
    run.inputs.update(draft.inputs)
    state = run.state if run.state is not None else draft.state
    wanted = wanted_by(state, draft.stamp.n, draft.records)
    run.outputs.extend((output, before) for output in (*draft.wants, *wanted))
    run.mark_quiet()


def _sent(run: Run, entry: Entry) -> None:
    run.sent.difference_update(entry.sent)


async def _look(shell: Shell, run: Run, expected: int, nonce: str, error: Exception) -> Outcome | None:
    """What the leader's journal says of an append that was not plainly accepted.

    None: it is not there, send it again.
    """
    pause = FIRST_PAUSE
    while True:
        tick = shell.tick()
        try:
            tail = await shell.journals.tail(run.id)
            lines: Sequence[Line] = (
                await shell.journals.read(run.id, after=expected) if tail > expected else ()
            )
        except (RequestTimeout, Disconnected):
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)
            continue
        break
    if tail == expected:
        # Nothing came between. A verdict against an append that nothing contradicts is an older one of ours,
        # or spurious.
        return None
    if not lines or (expected == 0 and tail == 0):
        run.lose()
        return Outcome.REFUSED
    own = next((line for line in lines if line.nonce == nonce), None)
    if own is None and lines[0].snapshot is not None:
        # A rollup may hide our entry: refused is the safe reading, and derivation makes good what it may have meant.
        run.derived = False
    run.reset()
    for line in lines:
        run.fold(line, shell.id)
    run.state_tick = tick
    if own is None:
        run.refused_at = shell.clock.monotonic()
        return Outcome.REFUSED
    run.derived = False
    _sent(run, own.entry)
    return Outcome.ACCEPTED


async def _entry(
    shell: Shell, run: Run, draft: Draft
) -> tuple[Entry, tuple[Record, ...], bool, float | None]:
    """The entry's final form and all of its records: with a snapshot when one is due or the run ends, in a blob when
    they are large.
    """
    state, stamp = draft.state, draft.stamp
    records: tuple[Record, ...] = tuple(draft.records)
    final = state.finished is not None
    weight = sum(len(line.data) for line in run.lines)
    rollup = final or (_due(run, weight) and bool(run.lines))
    entry = Entry(stamp.n, stamp.at, stamp.by, state.inc, records, tuple(sorted(run.sent)))
    if rollup:
        entry = msgspec.structs.replace(entry, records=(_snapshot(run, state), *records))
    size = len(_records.encode(entry.records))
    limit = shell.transport.server.max_payload // 2
    if size > limit:
        state.stored = True
        if rollup:
            # The snapshot must know that a blob exists, or nobody would ever purge it.
            entry = msgspec.structs.replace(entry, records=(_snapshot(run, state), *records))
        full = entry.records
        blob = await _put(shell, run, state.inc, _records.encode(full))
        entry = msgspec.structs.replace(entry, records=(), blob=blob)
        return entry, full, rollup, retention_of(run) if final else None
    return entry, entry.records, rollup, retention_of(run) if final else None


async def _put(shell: Shell, run: Run, inc: int, data: bytes) -> BlobRef:
    pause = FIRST_PAUSE
    while True:
        try:
            return await shell.blobs.put(run.id, inc, data)
        except OutcomeUnknown:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)


def _due(run: Run, weight: int) -> bool:
    """Whether a snapshot pays: often enough to bound reading, rarely enough that the cost per step stays flat."""
    if len(run.lines) < SNAPSHOT_ENTRIES and weight < SNAPSHOT_BYTES:
        return False
    snapshot = len(run.lines[0].data) if run.lines and run.lines[0].snapshot is not None else 0
    return weight - snapshot >= snapshot / 10


def _snapshot(run: Run, state: RunState) -> Snapshot:
    return Snapshot(msgspec.Raw(encode(state)), pack_history(run.lines))


def pack_history(lines: list[Line]) -> str:
    """The entries so far, one JSON line each, deflated and in base64."""
    if not lines:
        return ""
    first = lines[0].snapshot
    parts = [unpack_history(first.history)] if first is not None and first.history else []
    parts.extend(
        encode(strip_snapshot(line)) if line.snapshot or line.entry.blob else line.data for line in lines
    )
    return base64.b64encode(zlib.compress(b"\n".join(parts), HISTORY_LEVEL)).decode()


def unpack_history(text: str) -> bytes:
    """JSON lines, oldest entry first."""
    return zlib.decompress(base64.b64decode(text)) if text else b""


def retention_of(run: Run) -> float:
    """Seconds that the finished record stays."""
    declared = run.compiled.definition.retention if run.compiled is not None else None
    return max(RETENTION_MIN, declared if declared is not None else RETENTION)
