"""Appends of many runs in one atomic batch, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from jetloom.errors import ConditionFailed, JetloomError, OutcomeUnknown
from jetloom.stores._group import CROWD, KEEP, GroupCommit
from jetloom.testing import VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import Appended, MemoryServer, StreamAsset, Transport, Write

RUNS = 100


class Slow:
    """A server that takes so long for a plain append, and for a batch; one after the other."""

    def __init__(self, single: float, group: float) -> None:
        self.single = single
        self.group = group
        self.singles = 0
        self.groups: list[int] = []
        self._turn = asyncio.Lock()
        self._last = 0

    async def append(self, subject: str, data: bytes, **_: object) -> Appended:
        async with self._turn:
            await asyncio.sleep(self.single)
        self.singles += 1
        self._last += 1
        return Appended("S", self._last)

    async def append_group(self, writes: Sequence[Write]) -> int:
        async with self._turn:
            await asyncio.sleep(self.group)
        self.groups.append(len(writes))
        self._last += len(writes)
        return self._last - len(writes) + 1


async def load(group: GroupCommit, seconds: float) -> None:
    """`RUNS` callers, each with one append under way."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def run(number: int) -> None:
        while loop.time() < end:
            await group.append(Write(f"s.{number}", b"-"))

    await asyncio.gather(*(run(number) for number in range(RUNS)))


def test_the_faster_way_is_kept() -> None:
    """Where each plain append waits for a sync, batches are tried, found faster, and kept."""

    async def scene() -> None:
        server = Slow(single=0.001, group=0.005)
        group = GroupCommit(cast("Transport", server))
        await load(group, KEEP)
        singles, batches = server.singles, len(server.groups)
        assert singles < 0.1 * sum(server.groups)
        await load(group, 1.0)
        assert server.singles < singles + 2 * CROWD
        assert len(server.groups) > batches

    run_virtual(scene, seed=1)


def test_the_slower_way_is_given_up() -> None:
    """Where a batch costs more than its appends alone, it is tried for a moment, and again much later."""

    async def scene() -> None:
        server = Slow(single=0.0001, group=0.05)
        await load(GroupCommit(cast("Transport", server)), KEEP)
        assert 0 < sum(server.groups) < 0.1 * server.singles

    run_virtual(scene, seed=1)


def test_a_trial_that_was_interrupted_begins_anew() -> None:
    """Plain appends of a slow moment are no measure for the batches of a fast one."""

    async def scene() -> None:
        server = Slow(single=0.005, group=0.05)
        group = GroupCommit(cast("Transport", server))
        # Just long enough for a measurement of plain appends, and the begin of a trial.
        while not server.groups:
            await load(group, 0.1)
        await asyncio.sleep(60.0)
        server.single = 0.0001
        server.groups.clear()
        await load(group, KEEP)
        assert sum(server.groups) < 0.1 * server.singles
        assert not group.pays

    run_virtual(scene, seed=1)


def test_few_appends_go_alone() -> None:
    """Without a crowd nothing is tried: a batch of few is slower everywhere."""

    async def scene() -> None:
        server = Slow(single=0.005, group=0.001)
        group = GroupCommit(cast("Transport", server))
        for _ in range(200):
            await asyncio.gather(*(group.append(Write(f"s.{n}", b"-")) for n in range(4)))
        assert not server.groups

    run_virtual(scene, seed=1)


def test_whoever_is_refused_stands_alone() -> None:
    """A stale append in a batch is refused with its own sequence; all others of the batch are stored."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        transport = MemoryServer(VirtualClock(loop, 1)).connect("e")
        await transport.ensure(StreamAsset(name="S", subjects=("s.>",), atomic=True))
        stale = await transport.append("s.13", b"-")
        group = GroupCommit(transport, "always")
        found = await asyncio.gather(
            *(group.append(Write(f"s.{n}", b"-", expected=0)) for n in range(40)), return_exceptions=True
        )
        refused = [n for n, one in enumerate(found) if isinstance(one, BaseException)]
        assert refused == [13]
        error = found[13]
        assert isinstance(error, ConditionFailed)
        assert error.actual_sequence == stale.sequence
        assert sorted(one for one in found if isinstance(one, int)) == list(range(2, 41))
        for n, sequence in enumerate(found):
            stored = await transport.last("S", f"s.{n}")
            assert stored is not None
            assert n == 13 or stored.sequence == sequence

    run_virtual(scene, seed=1)


def test_an_unknown_outcome_is_everybodys() -> None:
    """When nobody knows what became of a batch, each of its appends says so, about its own subject."""

    async def scene() -> None:
        class Gone(Slow):
            async def append_group(self, writes: Sequence[Write]) -> int:
                raise OutcomeUnknown(writes[-1].subject, "disconnected")

        group = GroupCommit(cast("Transport", Gone(0.0, 0.0)), "always")

        async def one(number: int) -> str:
            with pytest.raises(OutcomeUnknown) as unknown:
                await group.append(Write(f"s.{number}", b"-"))
            assert isinstance(unknown.value, JetloomError)
            return unknown.value.message

        said = await asyncio.gather(*(one(number) for number in range(3)))
        assert [text.partition(":")[0] for text in said] == ["s.0", "s.1", "s.2"]

    run_virtual(scene, seed=1)


def test_one_subject_is_in_a_batch_once() -> None:
    """Two appends to one subject are in two batches: the second's condition is about what the first leads to."""

    async def scene() -> None:
        server = Slow(0.0, 0.0)
        group = GroupCommit(cast("Transport", server), "always")
        await asyncio.gather(*(group.append(Write(f"s.{n % 5}", b"-")) for n in range(10)))
        assert server.groups == [5, 5]

    run_virtual(scene, seed=1)
