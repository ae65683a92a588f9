"""Schedules from the command line, on the memory twin."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from datetime import datetime

import msgspec
import pytest

from jetloom.cli._schedules import Coming, ScheduleLine
from jetloom.messages import Names
from jetloom.runtime import Schedules
from jetloom.runtime._every_store import TickBody
from jetloom.schedules import Schedule
from jetloom.transport import Transport
from jetloom.transport._memory import MemoryServer
from tests.cli.conftest import ErrorDocument, Run, World
from tests.cli.fakes import FakeClock

NAME = "billing.close"


@pytest.fixture(autouse=True)
def server(world: World) -> list[tuple[str, bytes]]:
    """A paused schedule and one that runs, neither served; and what the command left in the stream of ticks."""
    left: list[tuple[str, bytes]] = []

    @contextlib.asynccontextmanager
    async def open_memory() -> AsyncGenerator[Transport]:
        transport = MemoryServer().connect("cli")
        schedules, names = Schedules(transport, world.names, FakeClock()), world.names
        for name, spec, zone in (("close", "30 2 * * *", "Europe/Berlin"), ("tidy", "1h30m", "UTC")):
            await schedules.ensure("billing", name)
            await schedules.declare("billing", name, Schedule.parse(spec, zone), "once", 100)
        await schedules.pause("billing.tidy")
        try:
            yield transport
        finally:
            for kind in ("tick", "cron"):
                stored = await transport.read(names.timers_stream(0), f"{names.namespace}.{kind}.>")
                left.extend((each.subject, each.data) for each in stored)
            await transport.close()

    world.open_transport = open_memory
    return left


def test_list(run: Run) -> None:
    """Rule, zone, next instant and what is wrong; a paused one has no next instant."""
    lines = run("schedules", "list", "--json").read(list[ScheduleLine])
    assert [(each.name, each.spec, each.tz, each.paused) for each in lines] == [
        (NAME, "30 2 * * *", "Europe/Berlin", False),
        ("billing.tidy", "1h30m", "UTC", True),
    ]
    now, coming = FakeClock().now(), lines[0].next
    assert coming is not None
    assert datetime.fromisoformat(coming).timestamp() - now == lines[0].next_in_seconds
    assert "02:30:00" in coming
    assert (lines[1].next, lines[1].next_in_seconds) == (None, None)
    assert "nobody serves it" in lines[0].problems[0]
    shown = run("schedules", "list").out
    assert NAME in shown
    assert "paused" in shown


def test_an_empty_namespace(run: Run, world: World) -> None:
    """Where no module has a schedule the list is empty and says so."""

    @contextlib.asynccontextmanager
    async def open_empty() -> AsyncGenerator[Transport]:
        yield MemoryServer().connect("cli")

    world.open_transport = open_empty
    assert run("schedules", "list", "--json").json() == []
    assert "no schedules" in run("schedules", "list").out
    ended = run("schedules", "show", NAME, "--json")
    assert ended.code == 3


def test_show_and_next(run: Run) -> None:
    """One schedule whole; its next instants in its zone and in UTC."""
    line = run("schedules", "show", NAME, "--json").read(ScheduleLine)
    assert (line.missed, line.calls, line.last) == ("once", 0, None)
    assert "Europe/Berlin" in run("schedules", "show", NAME).out
    coming = run("schedules", "next", NAME, "--count", "3", "--json").read(list[Coming])
    assert len(coming) == 3
    assert all(datetime.fromisoformat(each.at) == datetime.fromisoformat(each.utc) for each in coming)
    assert coming[0].at == line.next
    assert len(run("schedules", "next", NAME).out.splitlines()) == 6


def test_trigger(run: Run, server: list[tuple[str, bytes]]) -> None:
    """A tick is stored for whoever serves; without anybody the command says that it waits."""
    answer = run("schedules", "trigger", NAME, "--scheduled", "2026-10-25T02:30:00+01:00", "--json").json()
    assert isinstance(answer, dict)
    assert answer["served"] is False
    [(subject, data)] = [each for each in server if ".tick." in each[0]]
    assert subject == Names().schedule_tick("billing", "close")
    body = msgspec.json.decode(data, type=TickBody)
    assert (body.at, body.manual) == (datetime.fromisoformat("2026-10-25T01:30Z").timestamp(), True)
    assert "nobody serves it" in run("schedules", "trigger", NAME).out


def test_pause_and_resume(run: Run, server: list[tuple[str, bytes]]) -> None:
    """Both say whether anything changed; resuming arms the next timer."""
    assert run("schedules", "pause", NAME).out == f"{NAME}: paused\n"
    assert run("schedules", "pause", "billing.tidy").out == "billing.tidy: was paused already\n"
    assert server == []
    ended = run("schedules", "next", "billing.tidy", "--json")
    assert len(ended.read(list[Coming])) == 5
    assert "billing.tidy is paused: none of these fires before" in ended.err
    ended = run("schedules", "resume", "billing.tidy")
    assert ended.out.startswith("billing.tidy: resumed; next ")
    assert [each[0].split(".")[1:4] for each in server] == [["cron", "billing", "tidy"]]
    assert run("schedules", "resume", NAME).out.startswith(f"{NAME}: was not paused")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("show", "billing.opens"), 3, "no schedule 'billing.opens'"),
        (("pause", "billing.opens"), 3, "no schedule 'billing.opens'"),
        (("trigger", "close"), 2, "<module>.<name>"),
        (("next", NAME, "--count", "0"), 2, "1 to 1000"),
        (("trigger", NAME, "--scheduled", "tomorrow"), 2, "ISO 8601 with its offset"),
        (("trigger", NAME, "--scheduled", "2026-10-25T02:30:00"), 2, "ISO 8601 with its offset"),
    ],
)
def test_bad_input(words: tuple[str, ...], code: int, text: str, run: Run) -> None:
    """An unknown name is exit 3, what can't be read exit 2, each with what was expected."""
    ended = run("schedules", *words, "--json")
    assert ended.code == code
    assert text in ended.read(ErrorDocument).error.message
