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

FIRST_PAUSE = 0.01
LAST_PAUSE = 1.0
HISTORY_PLAIN_BYTES = 8 * 1024
"""Up to here deflating costs more than the bytes that it saves, and `nats kv get` shows the whole run."""
HISTORY_LEVEL = 1
"""Of zlib: a finish is on the hot path, and journals repeat themselves enough for the fastest level."""
CHECKSUM = 4
"""Bytes of Adler-32, at the end of a zlib stream."""
LAST_BLOCK = b"\x03\x00"
"""Deflate's last block, empty."""
DEFLATED_END = b"\x00\x00\xff\xff" + LAST_BLOCK
"""How a flushed stream ends, but for its checksum: with a stored block of no bytes, and the last one."""
DEFLATED_START = b"\x78\x01\x00" + DEFLATED_END + zlib.adler32(b"").to_bytes(CHECKSUM)


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
    entry, records, data, rollup = await _entry(shell, run, draft)
    ttl = retention_of(run) if state.finished is not None else None
    nonce = shell.nonce()
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
    run.keep(line)
    run.last = line.sequence
    run.state = draft.state
    run.state_tick = before
    run.frontier = draft.known_frontier
    if line.entry.sent:
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
    for output in (*draft.wants, *wanted_by(state, draft.stamp.n, draft.records)):
        run.outputs.append((output, before))
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
            # What came between is there in all but rare cases: one question, not two.
            lines: Sequence[Line] = await shell.journals.read(run.id, after=expected)
            tail = lines[-1].sequence if lines else await shell.journals.tail(run.id)
            if not lines and tail > expected:
                continue
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


async def _entry(shell: Shell, run: Run, draft: Draft) -> tuple[Entry, tuple[Record, ...], bytes, bool]:
    """The entry's final form, all of its records, its bytes, and whether it replaces what came before: with a snapshot
    when one is due or the run ends, in a blob when it is large.
    """
    state, stamp = draft.state, draft.stamp
    given: tuple[Record, ...] = tuple(draft.records)
    rollup = state.finished is not None or _due(run)
    records = (_snapshot(run, state), *given) if rollup else given
    sent = tuple(sorted(run.sent)) if run.sent else ()
    entry = Entry(stamp.n, stamp.at, stamp.by, state.inc, records, sent)
    data = encode(entry)
    if len(data) <= shell.transport.server.max_payload // 2:
        return entry, records, data, rollup
    if rollup and not state.stored:
        # The snapshot must know that a blob exists, or nobody would ever purge it.
        state.stored = True
        records = (_snapshot(run, state), *given)
    state.stored = True
    blob = await _put(shell, run, state.inc, encode(records))
    entry = msgspec.structs.replace(entry, records=(), blob=blob)
    return entry, records, encode(entry), rollup


async def _put(shell: Shell, run: Run, inc: int, data: bytes) -> BlobRef:
    pause = FIRST_PAUSE
    while True:
        try:
            return await shell.blobs.put(run.id, inc, data)
        except OutcomeUnknown:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)


def _due(run: Run) -> bool:
    """Whether a snapshot pays: often enough to bound reading, rarely enough that the cost per step stays flat."""
    if not run.lines or (len(run.lines) < SNAPSHOT_ENTRIES and run.weight < SNAPSHOT_BYTES):
        return False
    first = run.lines[0]
    if first.snapshot is None:
        return True
    return run.weight - first.size >= first.size / 10


def _snapshot(run: Run, state: RunState) -> Snapshot:
    entries, history = pack_history(run.lines)
    return Snapshot(msgspec.Raw(encode(state)), history, entries)


def pack_history(lines: list[Line]) -> tuple[tuple[msgspec.Raw, ...], str]:
    """The entries so far: as they are while they are few, else one JSON line each, deflated and in base64."""
    if not lines:
        return (), ""
    first = lines[0].snapshot
    parts = [
        encode(strip_snapshot(line)) if line.snapshot or line.entry.blob else line.data for line in lines
    ]
    if first is not None and first.history:
        return (), base64.b64encode(_deflated(parts, base64.b64decode(first.history))).decode()
    if first is not None:
        parts = [*map(bytes, first.entries), *parts]
    if sum(map(len, parts)) < HISTORY_PLAIN_BYTES:
        return tuple(map(msgspec.Raw, parts)), ""
    return (), base64.b64encode(_deflated(parts)).decode()


def _deflated(parts: list[bytes], before: bytes = DEFLATED_START) -> bytes:
    """One zlib stream of all lines, which goes on where the one `before` ended: no line is deflated twice.

    Each piece ends flushed, at a byte, and the stream with an empty block and the checksum of all.
    """
    lines = b"".join(part + b"\n" for part in parts)
    if not before.endswith(DEFLATED_END, 0, -CHECKSUM):
        # Not of this writing: it has no seam.
        lines, before = zlib.decompress(before).rstrip(b"\n") + b"\n" + lines, DEFLATED_START
    packer = zlib.compressobj(HISTORY_LEVEL, wbits=-zlib.MAX_WBITS)
    checksum = zlib.adler32(lines, int.from_bytes(before[-CHECKSUM:]))
    piece = packer.compress(lines) + packer.flush(zlib.Z_FULL_FLUSH)
    seam = len(before) - CHECKSUM - len(LAST_BLOCK)
    return before[:seam] + piece + LAST_BLOCK + checksum.to_bytes(CHECKSUM)


def unpack_history(snapshot: Snapshot) -> list[bytes]:
    """The entries before a snapshot, oldest first."""
    if not snapshot.history:
        return [bytes(entry) for entry in snapshot.entries]
    return zlib.decompress(base64.b64decode(snapshot.history)).splitlines()


def retention_of(run: Run) -> float:
    """Seconds that the finished record stays."""
    declared = run.compiled.definition.retention if run.compiled is not None else None
    return max(RETENTION_MIN, declared if declared is not None else RETENTION)
