"""The history inside a snapshot: packed piece by piece, read by anything that reads zlib."""

from __future__ import annotations

import base64
import zlib

import msgspec
import pytest

from jetloom.engine._commit import HISTORY_PLAIN_BYTES, pack_history, unpack_history
from jetloom.messages import Entry, Record, Snapshot, StepCompleted, encode
from jetloom.stores import Line

PAGE = 10


def line(n: int, *records: Record) -> Line:
    entry = Entry(n, float(n), "e1", 1, records)
    return Line(n, "", entry, records, encode(entry))


def step(n: int) -> StepCompleted:
    return StepCompleted(f"s{n}", {"text": "x" * 200, "n": n})


def snapshot(lines: list[Line]) -> Snapshot:
    entries, history = pack_history(lines)
    return Snapshot(msgspec.Raw(b"{}"), history, entries)


def test_every_snapshot_holds_every_entry() -> None:
    """However often a history is packed anew, it has all entries in order, first plain and then deflated."""
    lines, written, plain = [line(1, step(1))], [line(1, step(1)).data], 0
    for n in range(2, 12 * PAGE):
        if n % PAGE == 0:
            taken = snapshot(lines)
            plain += bool(taken.entries)
            assert unpack_history(taken) == written
            lines = [line(n, taken, step(n))]
        else:
            lines.append(line(n, step(n)))
        written.append(line(n, step(n)).data)
    assert unpack_history(snapshot(lines)) == written
    assert 0 < plain < 11


def test_few_entries_stay_as_they_are() -> None:
    """Below the limit a snapshot shows its entries, also when it follows another one."""
    lines = [line(1, step(1)), line(2, step(2))]
    taken = snapshot(lines)
    again = snapshot([line(3, taken, step(3)), line(4, step(4))])
    assert taken.history == again.history == ""
    assert unpack_history(again) == [line(n, step(n)).data for n in range(1, 5)]
    assert sum(map(len, unpack_history(again))) < HISTORY_PLAIN_BYTES


@pytest.mark.parametrize("written", [b"", b"\n"], ids=["joined", "ended"])
def test_a_stream_of_another_writer_goes_on(written: bytes) -> None:
    """A history that something else has deflated is taken over whole."""
    old = [line(n, step(n)).data for n in range(1, 100)]
    text = base64.b64encode(zlib.compress(b"\n".join(old) + written)).decode()
    taken = snapshot([line(100, Snapshot(msgspec.Raw(b"{}"), text), step(100)), line(101, step(101))])
    assert unpack_history(taken) == [*old, line(100, step(100)).data, line(101, step(101)).data]
