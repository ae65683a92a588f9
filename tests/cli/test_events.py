"""Events and dead letters, on the memory twin."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import msgspec
import pytest

from jetloom.bus import DeadLetters, ReplayOutcome
from jetloom.cli._events import EventLine, Letter
from jetloom.clock import SYSTEM_CLOCK
from jetloom.errors import ErrorInfo
from jetloom.messages import Names
from jetloom.stores import dlq_asset, events_asset, markers_asset
from jetloom.transport import Delivery, Transport
from tests.cli.conftest import ErrorDocument, Run, World
from tests.cli.memory import open_memory


class Page(msgspec.Struct):
    dead_letters: list[Letter]
    next: int


class Replayed(msgspec.Struct):
    replayed: list[ReplayOutcome]


async def store_events(transport: Transport, names: Names) -> None:
    """Three events, one of them plain text, and a dead letter."""
    for asset in (markers_asset(names), events_asset(names), dlq_asset(names)):
        await transport.ensure(asset)
    await transport.append(names.event("shop.order.placed"), b'{"id": 17}', headers={"ce-id": "e-1"})
    await transport.append(names.event("shop.order.paid"), b"no json")
    await transport.append(names.event("crm.lead"), b"")
    delivery = Delivery(
        names.event("shop.order.paid"),
        b"no json",
        {"ce-id": "e-2"},
        names.events_stream,
        "c",
        2,
        4,
        "ack",
        0.0,
        0.0,
    )
    info = ErrorInfo("decode.failed", "no JSON")
    await DeadLetters(transport, names).add(
        "orders", "paid", delivery, info, ValueError("x"), SYSTEM_CLOCK.now()
    )


@pytest.fixture(autouse=True)
def _events(world: World) -> None:  # pyright: ignore[reportUnusedFunction]
    world.open_transport = lambda: open_memory(world.names, store_events)


def read_lines(text: str) -> list[EventLine]:
    return [msgspec.json.decode(line, type=EventLine) for line in text.splitlines()]


def test_tail_prints_one_event_a_line(run: Run) -> None:
    """From the beginning with --history; what is no JSON comes as text."""
    events = read_lines(run("events", "tail", "--history", "--limit", "3", "--json").out)
    assert [(event.type, event.payload) for event in events] == [
        ("shop.order.placed", {"id": 17}),
        ("shop.order.paid", "no json"),
        ("crm.lead", None),
    ]
    assert events[0].id == "e-1"
    assert events[1].source == "unknown"


def test_tail_takes_a_pattern(run: Run) -> None:
    """Only matching types are printed."""
    ended = run("events", "tail", "shop.order.*", "--history", "--limit", "2")
    assert [line.split()[1] for line in ended.out.splitlines()] == ["shop.order.placed", "shop.order.paid"]


def test_tail_ends_when_nothing_comes(run: Run) -> None:
    """--timeout ends a quiet tail, with exit 0."""
    ended = run("events", "tail", "--timeout", "10ms", "--json")
    assert (ended.code, ended.out) == (0, "")


@pytest.mark.parametrize("pattern", ["shop..x", "shop.>.x", "a b", ""])
def test_a_bad_pattern_is_bad_input(pattern: str, run: Run) -> None:
    """It is refused by name before anything is subscribed."""
    assert run("events", "tail", pattern).code == 2


def test_publish_stores_the_event(run: Run) -> None:
    """The answer has the event's id and sequence."""
    ended = run("publish", "shop.order.placed", '{"id": 18}', "--id", "mine", "--json")
    assert ended.json() == {"id": "mine", "type": "shop.order.placed", "sequence": 4}
    assert run("publish", "shop", "{}").code == 2
    assert run("publish", "shop.x", "{").code == 2


def test_dead_letters_are_listed_and_shown(run: Run) -> None:
    """The reason stands in the list; one letter has everything."""
    page = run("dlq", "list", "--json").read(Page)
    assert [(letter.module, letter.handler, letter.reason) for letter in page.dead_letters] == [
        ("orders", "paid", "no JSON")
    ]
    assert "no JSON" in run("dlq", "list", "--module", "orders").out
    assert run("dlq", "list", "--module", "mail").out == "no dead letters\n"
    letter = run("dlq", "show", "1", "--json").read(Letter)
    assert (letter.deliveries, letter.payload, letter.headers) == (4, "no json", {"ce-id": "e-2"})
    assert "ValueError: x" in letter.stack
    assert run("dlq", "show", "9", "--json").read(ErrorDocument).exit_code == 3


def test_an_empty_namespace_is_named(run: Run, world: World) -> None:
    """Where jetloom never ran there is nothing to watch; the message has the namespace and what to do."""

    @contextlib.asynccontextmanager
    async def empty() -> AsyncGenerator[Transport]:
        async with open_memory(world.names) as transport:
            yield transport

    world.open_transport = empty
    for words in (("events", "tail"), ("publish", "a.b", "1"), ("dlq", "list")):
        ended = run(*words)
        assert ended.code == 3
        assert "namespace 'jetloom' has no streams" in ended.err
        assert "jetloom dev" in ended.err


def test_letters_are_dropped_by_number_or_filter(run: Run) -> None:
    """One by its number at once, several only with --yes; nothing chosen, or both ways, is bad input."""
    assert run("dlq", "drop", "1", "--json").json() == {"dropped": 1}
    assert run("dlq", "drop", "9").code == 3
    told = run("dlq", "drop", "--module", "orders")
    assert (told.code, "1 dead letter(s) match" in told.err) == (2, True)
    assert run("dlq", "drop", "--code", "decode.failed", "--yes", "--json").json() == {"dropped": 1}
    assert run("dlq", "drop", "--since", "1h", "--code", "other", "--yes", "--json").json() == {"dropped": 0}
    for words in (
        ("dlq", "drop"),
        ("dlq", "drop", "1", "--all"),
        ("dlq", "replay"),
        ("dlq", "drop", "--limit", "-1"),
    ):
        assert run(*words).code == 2


def test_a_replay_without_a_replica_says_so(run: Run) -> None:
    """Nobody answers: exit 1, and the module is named."""
    ended = run("dlq", "replay", "1")
    assert ended.code == 1
    assert "no replica of module 'orders' runs: start one" in ended.out
    outcome = run("dlq", "replay", "--all", "--json").read(Replayed).replayed[0]
    assert (outcome.sequence, outcome.module, outcome.outcome) == (1, "orders", "unserved")
    assert run("dlq", "replay", "--module", "nobody").out == "no dead letters match\n"


def test_a_conditional_publish(run: Run) -> None:
    """Another last event of the type is a conflict."""
    assert run("publish", "shop.order.placed", "1", "--expected-last", "1", "--ttl", "1h").code == 0
    assert run("publish", "shop.order.placed", "1", "--expected-last", "0").code == 4
    assert run("publish", "shop.order.placed", "1", "--ttl", "100ms").code == 2
