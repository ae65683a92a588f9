"""Modules and their endpoints from the command line, on the memory twin."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import msgspec
import pytest

from jetloom.cli._modules import ModuleRow, ModuleView
from jetloom.clock import SYSTEM_CLOCK
from jetloom.errors import NotFound
from jetloom.messages import Names, encode
from jetloom.rpc import Endpoint, MicroService
from jetloom.telemetry import Metrics
from jetloom.transport import Transport
from jetloom.transport._memory import MemoryServer
from tests.cli.conftest import ErrorDocument, Run, World

WAIT = ("--wait", "200ms")


async def quote(data: bytes) -> bytes:
    request = msgspec.json.decode(data)
    if request is None:
        raise NotFound("no such item", item="none")
    return encode({"cents": 250 * request["pieces"]})


async def history(data: bytes) -> AsyncGenerator[bytes]:
    for number in range(3):
        yield encode({"day": number, "item": msgspec.json.decode(data)})


async def slow(_data: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


def endpoints_of(names: Names) -> list[Endpoint]:
    types = {"request": "QuoteRequest", "response": "Quote"}
    return [
        Endpoint(
            name="quote",
            subject=names.rpc("prices", "quote"),
            function=quote,
            idempotent=True,
            metadata={**types, "unit": "cents"},
        ),
        Endpoint(name="history", subject=names.rpc("prices", "history"), parts=history),
        Endpoint(name="slow", subject=names.rpc("prices", "slow"), function=slow),
    ]


def service(
    transport: Transport,
    name: str,
    namespace: str,
    version: str,
    endpoints: list[Endpoint],
    **lists: object,
) -> MicroService:
    metadata = {"namespace": namespace} if namespace else {}
    metadata |= {f"jetloom.{key}": encode(value).decode() for key, value in lists.items()}
    return MicroService(
        name,
        endpoints,
        transport,
        SYSTEM_CLOCK,
        Metrics(process=False),
        version=version,
        description=f"The {name}.",
        metadata=metadata,
    )


@pytest.fixture(autouse=True)
def _services(world: World) -> None:  # pyright: ignore[reportUnusedFunction]
    """Two instances of a module, a module of another namespace, and a service of another program."""

    @contextlib.asynccontextmanager
    async def open_services() -> AsyncGenerator[Transport]:
        server = MemoryServer()
        transport = server.connect("modules")
        names = world.names
        events = [{"name": "on_paid", "pattern": "shop.order.paid", "mode": "group"}]
        lists = {"events": events, "steps": [{"name": "prices.reserve", "undo": "prices.release"}]}
        started = [
            service(transport, "prices", "jetloom", "1.2.0", endpoints_of(names), **lists),
            service(
                transport, "prices", "jetloom", "1.3.0", endpoints_of(names), depends_on=["stock"], **lists
            ),
            service(transport, "stock", "elsewhere", "1.0.0", []),
            service(
                transport,
                "weather",
                "",
                "2.0.0",
                [Endpoint(name="now", subject="weather.now", function=slow)],
            ),
        ]
        for each in started:
            await each.start()
        caller = server.connect("cli")
        await caller.request(names.rpc("prices", "quote"), b'{"pieces":1}')
        await caller.request(names.rpc("prices", "quote"), b"null")
        try:
            yield caller
        finally:
            for each in started:
                await each.stop()

    world.open_transport = open_services


def test_modules_are_listed(run: Run) -> None:
    """Modules of the namespace over their instances, services of other programs, no other namespace."""
    rows = run("modules", "list", *WAIT, "--json").read(list[ModuleRow])
    assert [(row.module, row.kind, row.instances, row.versions) for row in rows] == [
        ("weather", "service", 1, ["2.0.0"]),
        ("prices", "module", 2, ["1.2.0", "1.3.0"]),
    ]
    prices = rows[1]
    assert prices.endpoints == ["history", "quote", "slow"]
    assert prices.events == [{"name": "on_paid", "pattern": "shop.order.paid", "mode": "group"}]
    assert prices.depends_on == ["stock"]
    shown = run("modules", "list", *WAIT).out
    assert "prices" in shown
    assert "shop.order.paid" in shown
    assert "prices.reserve" in shown
    assert "stock" not in shown
    everything = run("modules", "list", "--all", *WAIT, "--json").read(list[ModuleRow])
    assert {row.module for row in everything} == {"weather", "prices", "stock"}


def test_a_module_is_shown(run: Run) -> None:
    """Instances with their uptime, endpoints with types and figures, what it handles."""
    view = run("modules", "show", "prices", *WAIT, "--json").read(ModuleView)
    assert sorted(each.version for each in view.instances) == ["1.2.0", "1.3.0"]
    assert all(each.uptime is not None and each.uptime >= 0 for each in view.instances)
    assert sum(each.requests for each in view.instances) == 2
    quote_row = next(each for each in view.endpoints if each.name == "quote")
    assert (quote_row.request, quote_row.response, quote_row.idempotent) == ("QuoteRequest", "Quote", True)
    assert (quote_row.requests, quote_row.errors) == (2, 1)
    assert quote_row.average_seconds > 0
    assert quote_row.last_error == "not_found: no such item"
    assert quote_row.metadata == {"unit": "cents"}
    assert next(each for each in view.endpoints if each.name == "history").parts
    shown = run("modules", "show", "prices", *WAIT).out
    for text in ("QuoteRequest", "in parts", "on_paid", "undo=prices.release", "not_found: no such item"):
        assert text in shown
    assert "weather.now" in run("modules", "show", "weather", *WAIT).out


def test_a_module_that_does_not_answer_is_named(run: Run) -> None:
    """With what does answer."""
    ended = run("modules", "show", "lost", *WAIT)
    assert ended.code == 3
    assert "'lost' answers in namespace 'jetloom'; these do: prices, weather" in ended.err


def test_an_endpoint_is_called(run: Run) -> None:
    """The answer is one JSON document."""
    assert run("call", "prices.quote", '{"pieces": 3}').out == '{"cents":750}\n'
    ended = run("call", "prices.quote", "--json")
    assert ended.code == 3
    assert ended.read(ErrorDocument).error.code == "not_found"


def test_parts_are_lines(run: Run) -> None:
    """With --stream each part is a line; without it the error says so."""
    ended = run("call", "prices.history", '"pen"', "--stream")
    assert ended.out.splitlines() == [f'{{"day":{day},"item":"pen"}}' for day in range(3)]
    assert run("call", "prices.quote", '{"pieces": 1}', "--stream").out == '{"cents":250}\n'
    ended = run("call", "prices.history", '"pen"')
    assert ended.code == 2
    assert "--stream" in ended.err


def test_one_instance_is_called(run: Run) -> None:
    """One that is not there is named, with those that are."""
    ended = run("call", "prices.quote", '{"pieces": 1}', "--instance", "abc")
    assert ended.code == 3
    assert "prices has no instance 'abc'; these answer: " in ended.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("prices",), 2, "expected module.endpoint"),
        (("prices.*",), 2, "expected module.endpoint"),
        (("prices.quote", "{"), 2, "not JSON"),
        (("prices.quote", "1", "--instance", "a.b"), 2, "expected an id"),
        (("prices.lost",), 3, "prices has no endpoint 'lost'; it has: history, quote, slow"),
        (("lost.quote",), 3, "no module or service 'lost' answers"),
        (("prices.slow", "--timeout", "50ms"), 124, "no answer from jetloom.rpc.prices.slow"),
    ],
)
def test_what_went_wrong_is_said(words: tuple[str, ...], code: int, message: str, run: Run) -> None:
    """Each mistake has its exit code and words."""
    ended = run("call", *words)
    assert ended.code == code, ended
    assert message in ended.err
