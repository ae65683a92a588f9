"""`jetloom locks`, on the memory twin."""

from __future__ import annotations

import msgspec
import pytest

from jetloom.cli._locks import LockLine
from jetloom.clock import SYSTEM_CLOCK
from jetloom.messages import Names, encode
from jetloom.stores import Locks, locks_asset
from jetloom.stores._lease import LockStore
from jetloom.transport import Transport
from tests.cli.conftest import ErrorDocument, Run, World
from tests.cli.memory import open_memory


class Page(msgspec.Struct):
    locks: list[LockLine]
    held: int


async def take_locks(transport: Transport, names: Names) -> None:
    """Two locks that are held, one that was freed, one of another program."""
    await transport.ensure(locks_asset(names))
    store = LockStore(transport, names, SYSTEM_CLOCK, "orders on n1")
    for name in ("invoice 17", "stock"):
        await store.take(names.lock(name), 30, 0, SYSTEM_CLOCK.token())
    locks = Locks(transport, names, SYSTEM_CLOCK)
    async with locks.hold("freed"):
        pass
    await locks.stop()
    await transport.append(names.lock("theirs"), encode("what is this"))


@pytest.fixture(autouse=True)
def _locks(world: World) -> None:  # pyright: ignore[reportUnusedFunction]
    world.open_transport = lambda: open_memory(world.names, take_locks)


def test_held_locks_are_listed(run: Run) -> None:
    """By name, with owner and fence; a freed one is not there, and --prefix and --limit choose."""
    page = msgspec.json.decode(run("locks", "list", "--json").out, type=Page)
    assert [(line.name, line.owner, line.fence) for line in page.locks] == [
        ("invoice 17", "orders on n1", 1),
        ("stock", "orders on n1", 2),
        ("theirs", "another program", 5),
    ]
    assert page.held == 3
    ended = run("locks", "list", "--prefix", "st")
    assert "orders on n1" in ended.out
    assert "invoice" not in ended.out
    ended = run("locks", "list", "--limit", "1")
    assert "2 more" in ended.err
    assert run("locks", "list", "--prefix", "nothing").out == "no lock is held\n"
    assert run("locks", "list", "--limit", "0").code == 2


def test_one_lock_is_shown(run: Run) -> None:
    """Owner, fence and times; a free one is not found."""
    line = msgspec.json.decode(run("locks", "show", "invoice 17", "--json").out, type=LockLine)
    assert (line.owner, line.fence, line.ttl) == ("orders on n1", 1, 30.0)
    assert line.until == pytest.approx(line.since + 30)
    ended = run("locks", "show", "invoice 17")
    assert "unless it is renewed" in ended.out
    assert "another program" in run("locks", "show", "theirs").out
    ended = run("locks", "show", "freed", "--json")
    assert ended.code == 3
    assert msgspec.json.decode(ended.out, type=ErrorDocument).error.code == "lock.not_held"
