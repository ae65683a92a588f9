"""A run in an engine's memory: what it knows of its journal after a refusal."""

from __future__ import annotations

import msgspec

from jetloom.engine._commit import _due
from jetloom.engine._constants import SNAPSHOT_BYTES, SNAPSHOT_ENTRIES
from jetloom.engine._run import COPIED_FROM, Run
from jetloom.engine.core import RunState, Stamp, apply, fold_entry
from jetloom.messages import BlobRef, Driven, Entry, Record, Snapshot, StepCompleted, StepStarted, encode
from jetloom.stores import Line


def line(n: int, *records: Record) -> Line:
    entry = Entry(n, float(n), "e1", 1, records)
    return Line(n, "", entry, records, encode(entry))


def journal(count: int) -> list[Line]:
    """A first entry that starts as many steps as there are others, which end one each."""
    begun = (Driven(), *(StepStarted(f"s{n}", 1, "task", "do") for n in range(2, count + 1)))
    return [line(1, *begun), *(line(n, StepCompleted(f"s{n}", {"n": n})) for n in range(2, count + 1))]


def folded(lines: list[Line]) -> RunState:
    state = RunState("r")
    for item in lines:
        state = fold_entry(state, item.entry, item.records)
    return state


def refused_decision(run: Run) -> None:
    """What a draft does to a state before its append is refused."""
    assert run.state is not None
    for name in list(run.state.running):
        apply(run.state, StepCompleted(name, "wrong"), Stamp(run.state.n + 1, 99.0, "e1"))


def test_every_reset_is_what_the_lines_say() -> None:
    """However often decisions are refused, and whatever came between, the state is the fold of the lines."""
    lines, run = journal(4 * COPIED_FROM), Run("r")
    for count, item in enumerate(lines, start=1):
        run.fold(item, "e1")
        for _ in range(count % 3):
            refused_decision(run)
            run.reset()
            assert run.state == folded(lines[:count])
        assert run.state == folded(lines[:count])


def test_a_snapshot_replaces_what_was_folded() -> None:
    """After a snapshot a reset begins at it."""
    lines, run = journal(2 * COPIED_FROM), Run("r")
    for item in lines:
        run.fold(item, "e1")
    run.reset()
    state = folded(lines)
    state.n += 1
    n = state.n
    run.fold(line(n, Snapshot(msgspec.Raw(encode(state)))), "e1")
    refused_decision(run)
    run.reset()
    assert run.state == state
    run.lose()
    run.reset()
    assert run.state == RunState("r")


def blobbed(n: int, size: int, *records: Record) -> Line:
    """An entry whose records stand in a blob."""
    whole = line(n, *records)
    entry = msgspec.structs.replace(whole.entry, records=(), blob=BlobRef("00", size, 1, "r", 1))
    return Line(n, "", entry, records, encode(entry))


def entries_until_due(run: Run, size: int) -> int:
    """How many entries of so many bytes a run keeps before its next snapshot."""
    for count in range(1, 10_000):
        run.keep(blobbed(count + 1, size, Driven()))
        if _due(run):
            return count
    raise AssertionError("no snapshot would ever be due")


def test_a_snapshot_is_due_by_what_is_stored() -> None:
    """After a large snapshot in a blob, when the entries since weigh a tenth of it: in blobs as in themselves."""
    large, small = Run("large"), Run("small")
    large.keep(blobbed(1, 100 * SNAPSHOT_BYTES, Snapshot(msgspec.Raw(b"{}"))))
    small.keep(line(1, Snapshot(msgspec.Raw(b"{}"))))
    assert entries_until_due(large, SNAPSHOT_BYTES // 2) == 20
    assert entries_until_due(small, SNAPSHOT_BYTES // 2) == 2
    light = Run("light")
    light.keep(line(1, Snapshot(msgspec.Raw(b"{}"))))
    assert entries_until_due(light, 100) == SNAPSHOT_ENTRIES - 1
