"""Endpoints are NATS micro services: any client finds and calls them, and errors come back as the same class."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from jetloom.errors import (
    ConditionFailed,
    ErrorClass,
    InvalidInput,
    NoResponders,
    NotFound,
    RemoteError,
    RequestTimeout,
    TaskFailed,
    Unavailable,
)
from jetloom.rpc import Busy, Rpc
from jetloom.runtime import Module, endpoint
from jetloom.telemetry import Context, current, use
from jetloom.transport import Transport
from jetloom.types import Actor, ActorKind
from tests.runtime.world import Runner, World, run_on_twin, until


class QuoteRequest(msgspec.Struct, frozen=True):
    item: str
    pieces: int = 1


class Quote(msgspec.Struct, frozen=True):
    cents: int


class Prices(Module):
    """Quotes prices."""

    id = "prices"
    version = "1.2.3"

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.running = 0
        self.contexts: list[Context] = []

    @endpoint("quote")
    async def quote(self, request: QuoteRequest) -> Quote:
        self.contexts.append(current())
        if request.item == "unknown":
            raise NotFound("no such item", item=request.item)
        if request.item == "stale":
            raise ConditionFailed("stock", 3, 4)
        if request.item == "bug":
            raise ZeroDivisionError("by nought")
        if request.item == "card":
            raise TaskFailed("card.declined", "the bank said no")
        return Quote(250 * request.pieces)

    @endpoint("slow", concurrency=3)
    async def slow(self) -> str:
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return "done"

    @endpoint("sync")
    def sync(self, request: dict[str, int]) -> dict[str, int]:
        return {name: value + 1 for name, value in request.items()}


def rpc_of(world: World, transport: Transport) -> Rpc:
    return Rpc(transport, world.names, world.clock, world.metrics)


def test_a_call_is_typed(run_on: Runner) -> None:
    """A call gives the answer as the asked type, and actor and trace reach the endpoint."""

    async def scenario(world: World) -> None:
        prices = Prices()
        async with world.running(prices):
            rpc = rpc_of(world, await world.connect())
            with use(Context(actor=Actor(ActorKind.HUMAN, "ann"), trace="00-a-b-01")):
                assert await rpc.call("prices", "quote", QuoteRequest("pen", 2), type=Quote) == Quote(500)
            assert await rpc.call("prices", "sync", {"a": 1}) == {"a": 2}
            context = prices.contexts[0]
            assert (str(context.actor), context.trace, context.module) == ("human:ann", "00-a-b-01", "prices")
            assert context.deadline is not None
            assert context.deadline <= world.clock.now() + 5

    run_on(scenario)


def test_a_plain_request_works(run_on: Runner) -> None:
    """A request of JSON without headers, as `nats req` sends it, is answered with JSON."""

    async def scenario(world: World) -> None:
        async with world.running(Prices):
            plain = await world.connect()
            subject = world.names.rpc("prices", "quote")
            assert (await plain.request(subject, b'{"item":"pen"}')).data == b'{"cents":250}'
            reply = await plain.request(subject, b"{")
            assert reply.headers["Nats-Service-Error-Code"] == "400"
            assert reply.headers["Nats-Service-Error"].startswith(
                "decode.failed: the request of Prices.quote can't be decoded"
            )

    run_on(scenario)


def test_services_are_discovered(run_on: Runner) -> None:
    """`$SRV.PING`, `INFO` and `STATS` answer to all, by name and by id, as ADR-32 says."""

    async def scenario(world: World) -> None:
        async with world.running(Prices):
            plain = await world.connect()
            await rpc_of(world, plain).call("prices", "quote", QuoteRequest("pen"))
            info = msgspec.json.decode((await plain.request("$SRV.INFO.prices", b"")).data)
            assert info["type"] == "io.nats.micro.v1.info_response"
            assert (info["name"], info["version"], info["description"]) == (
                "prices",
                "1.2.3",
                "Quotes prices.",
            )
            found = {each["name"]: each["queue_group"] for each in info["endpoints"]}
            assert {name: found[name] for name in ("quote", "slow", "sync")} == dict.fromkeys(
                ("quote", "slow", "sync"), "q"
            )
            assert info["endpoints"][0]["subject"] == world.names.rpc("prices", "quote")
            assert info["endpoints"][0]["metadata"] == {"request": "QuoteRequest", "response": "Quote"}
            ping = msgspec.json.decode((await plain.request("$SRV.PING", b"")).data)
            assert ping["type"] == "io.nats.micro.v1.ping_response"
            stats = msgspec.json.decode((await plain.request(f"$SRV.STATS.prices.{info['id']}", b"")).data)
            assert stats["type"] == "io.nats.micro.v1.stats_response"
            assert stats["endpoints"][0]["num_requests"] == 1
            assert stats["endpoints"][0]["num_errors"] == 0
            assert stats["started"].endswith("Z")

    run_on(scenario)


def test_errors_come_back_as_the_same_class(run_on: Runner) -> None:
    """What an endpoint raises is raised by the caller, with its fields; unknown ones are retryable remote errors."""

    async def scenario(world: World) -> None:
        async with world.running(Prices):
            rpc = rpc_of(world, await world.connect())
            with pytest.raises(NotFound, match="no such item") as missing:
                await rpc.call("prices", "quote", QuoteRequest("unknown"))
            assert missing.value.fields == {"item": "unknown"}
            with pytest.raises(ConditionFailed):
                await rpc.call("prices", "quote", QuoteRequest("stale"))
            with pytest.raises(InvalidInput, match="missing required field `item`"):
                await rpc.call("prices", "quote", {})
            with pytest.raises(RemoteError, match="by nought") as bug:
                await rpc.call("prices", "quote", QuoteRequest("bug"))
            assert bug.value.info.error_class is ErrorClass.RETRYABLE
            with pytest.raises(RemoteError, match=r"card\.declined") as declined:
                await rpc.call("prices", "quote", QuoteRequest("card"))
            assert declined.value.info.error_class is ErrorClass.TERMINAL
            with pytest.raises(NoResponders):
                await rpc.call("nowhere", "quote")

    run_on(scenario)


def test_several_at_once_with_a_limit(run_on: Runner) -> None:
    """Requests are handled at the same time up to the limit, and the next one is answered busy."""

    async def scenario(world: World) -> None:
        prices = Prices()
        async with world.running(prices):
            rpc = rpc_of(world, await world.connect())
            calls = [asyncio.ensure_future(rpc.call("prices", "slow", timeout=30)) for _ in range(3)]
            await until(lambda: prices.running == 3, "three are being handled")
            with pytest.raises(Busy) as busy:
                await rpc.call("prices", "slow")
            assert busy.value.fields["limit"] == 3
            assert busy.value.to_info().retry_after_ms is not None
            prices.gate.set()
            assert await asyncio.gather(*calls) == ["done"] * 3

    run_on(scenario)


def test_a_deadline_travels() -> None:
    """The caller's deadline ends the endpoint's work too, and an expired one sends nothing."""

    async def scenario(world: World) -> None:
        prices = Prices()
        async with world.running(prices):
            rpc = rpc_of(world, await world.connect())
            with use(Context(deadline=world.clock.now() + 2)), pytest.raises(RequestTimeout):
                await rpc.call("prices", "slow", timeout=60)
            await until(lambda: prices.running == 0, "the endpoint has stopped working")
            with use(Context(deadline=world.clock.now() - 1)), pytest.raises(RequestTimeout):
                await rpc.call("prices", "quote", QuoteRequest("pen"))
            assert not prices.contexts

    run_on_twin(scenario)


def test_a_stop_answers_who_waits() -> None:
    """A drain lets running requests end; what is cut off is answered with an error, not with silence."""

    async def scenario(world: World) -> None:
        prices = Prices()
        async with world.running(prices) as (host, _):
            rpc = rpc_of(world, await world.connect())
            call = asyncio.ensure_future(rpc.call("prices", "slow", timeout=60))
            await until(lambda: prices.running == 1, "it is being handled")
            report = await host.drain(3)
            assert report.handed_back == {"endpoints of prices": 1}
            with pytest.raises(Unavailable, match="prices stopped"):
                await call
            with pytest.raises(NoResponders):
                await rpc.call("prices", "quote", QuoteRequest("pen"))

    run_on_twin(scenario)
