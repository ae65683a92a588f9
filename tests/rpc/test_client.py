"""A module's class is its client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

from jetloom.errors import DecodeFailed, ErrorClass, InvalidInput, JetloomError, RemoteError
from jetloom.messages import encode
from jetloom.rpc import EndpointSpec, Rpc
from tests.rpc.serving import Gate, Numbers, caller, endpoint, serving
from tests.runtime.world import Runner, World, run_on_twin, until


class QuoteRequest(msgspec.Struct, frozen=True):
    item: str


class Quote(msgspec.Struct, frozen=True):
    cents: int


class Shop:
    """Stands for a module's class: the methods are never called here."""

    async def quote(self, request: QuoteRequest) -> Quote:
        raise NotImplementedError(request)

    async def ping(self) -> str:
        raise NotImplementedError

    async def numbers(self) -> AsyncGenerator[int]:
        raise NotImplementedError
        yield 0

    async def flaky(self) -> int:
        raise NotImplementedError

    async def helper(self) -> None:
        raise NotImplementedError


def describe(module: type) -> dict[str, EndpointSpec]:
    if module is not Shop:
        return {}
    return {
        "quote": EndpointSpec(service="shop", endpoint="get-quote", request=QuoteRequest, response=Quote),
        "ping": EndpointSpec(service="shop", endpoint="ping", response=str),
        "numbers": EndpointSpec(service="shop", endpoint="numbers", response=int, parts=True),
        "flaky": EndpointSpec(service="shop", endpoint="flaky", response=int, idempotent=True, timeout=3),
    }


class OutOfStock(JetloomError):
    """A user's own error, known on both sides."""

    code = "test_shop.out_of_stock"
    error_class = ErrorClass.RETRYABLE

    def __init__(self, item: str, left: int) -> None:
        super().__init__(f"{item} is out of stock", item=item, left=left)


async def client_rpc(world: World) -> Rpc:
    transport = await world.connect("caller")
    return Rpc(transport, world.names, world.clock, world.metrics, describe=describe)


async def quote(data: bytes) -> bytes:
    request = msgspec.json.decode(data, type=QuoteRequest)
    if request.item == "none":
        raise OutOfStock("pen", 0)
    if request.item == "odd":
        return b'{"cents": "many"}'
    return encode(Quote(len(request.item)))


async def ping(_data: bytes) -> bytes:
    return b'"pong"'


def test_endpoints_are_methods(run_on: Runner) -> None:
    """Arguments and answers have the types of the class, by position or by name."""

    async def scenario(world: World) -> None:
        numbers = Numbers(3)
        async with serving(
            world,
            endpoint(world, "get-quote", quote),
            endpoint(world, "ping", ping),
            endpoint(world, "numbers", parts=numbers.series),
        ):
            client = (await client_rpc(world)).client(Shop)
            assert await client.quote(QuoteRequest("pen")) == Quote(3)
            assert await client.quote(request=QuoteRequest("paper")) == Quote(5)
            assert await client.ping() == "pong"
            assert [part async for part in client.numbers()] == [0, 1, 2]
            assert repr(client) == "<client of Shop>"

    run_on(scenario)


def test_only_endpoints_are_there() -> None:
    """Anything else is an error that names the endpoints."""

    async def scenario(world: World) -> None:
        rpc = await client_rpc(world)
        client = rpc.client(Shop)
        with pytest.raises(
            AttributeError, match=r"'helper' is no endpoint of Shop: .* flaky, numbers, ping, quote"
        ):
            await client.helper()
        with pytest.raises(AttributeError, match="can't be set"):
            client.name = 1  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(TypeError, match=r"ping\(\) takes 0 argument"):
            await client.ping(1)  # pyright: ignore[reportCallIssue]
        with pytest.raises(InvalidInput, match="declares no @endpoint"):
            rpc.client(int)
        with pytest.raises(InvalidInput, match="without `describe`"):
            (await caller(world)).client(Shop)

    run_on_twin(scenario)


def test_a_client_repeats_what_is_idempotent() -> None:
    """A silent answer of an idempotent endpoint is asked for again within the endpoint's timeout."""

    async def scenario(world: World) -> None:
        calls = 0

        async def flaky(_data: bytes) -> bytes:
            nonlocal calls
            calls += 1
            if calls == 1:
                await asyncio.Event().wait()
            return b"%d" % calls

        async with serving(world, endpoint(world, "flaky", flaky)):
            began = world.clock.now()
            assert await (await client_rpc(world)).client(Shop).flaky() == 2
            assert world.clock.now() - began < 3

    run_on_twin(scenario)


def test_a_client_of_one_instance(run_on: Runner) -> None:
    """`instance` binds every method to one replica."""

    async def scenario(world: World) -> None:
        async def other(_data: bytes) -> bytes:
            return b'"other"'

        async with (
            serving(world, endpoint(world, "ping", ping)),
            serving(world, endpoint(world, "ping", other)) as second,
        ):
            client = (await client_rpc(world)).client(Shop, instance=second.id)
            assert {await client.ping() for _ in range(10)} == {"other"}

    run_on(scenario)


def test_errors_of_users_come_back(run_on: Runner) -> None:
    """A class that both sides know comes back as itself, with its fields; one that only the service knows as remote."""

    async def scenario(world: World) -> None:
        async def unknown(_data: bytes) -> bytes:
            error = OutOfStock("pen", 2)
            error.code = "test_shop.only_there"  # pyright: ignore[reportAttributeAccessIssue]
            raise error

        async with serving(world, endpoint(world, "get-quote", quote), endpoint(world, "unknown", unknown)):
            rpc = await client_rpc(world)
            with pytest.raises(OutOfStock, match="pen is out of stock") as known:
                await rpc.client(Shop).quote(QuoteRequest("none"))
            assert known.value.fields == {"item": "pen", "left": 0}
            assert known.value.to_info().error_class is ErrorClass.RETRYABLE
            with pytest.raises(RemoteError) as remote:
                await rpc.call("shop", "unknown")
            info = remote.value.to_info()
            assert (info.code, info.details) == ("test_shop.only_there", {"item": "pen", "left": 2})

    run_on(scenario)


def test_an_answer_that_does_not_fit(run_on: Runner) -> None:
    """The error names the endpoint, what was expected and what came."""

    async def scenario(world: World) -> None:
        async with serving(world, endpoint(world, "get-quote", quote), endpoint(world, "ping", ping)):
            rpc = await client_rpc(world)
            with pytest.raises(DecodeFailed) as failed:
                await rpc.client(Shop).quote(QuoteRequest("odd"))
            message = str(failed.value)
            assert world.names.rpc("shop", "get-quote") in message
            assert 'expected Quote, found {"cents": "many"}' in message
            assert "Expected `int`, got `str` - at `$.cents`" in message
            with pytest.raises(DecodeFailed, match="expected list"):
                await rpc.call("shop", "ping", type=list[int])

    run_on(scenario)


def test_many_calls_at_once(run_on: Runner) -> None:
    """Requests of one connection are handled at the same time, each with its own answer."""

    async def scenario(world: World) -> None:
        gate = Gate()
        async with serving(world, endpoint(world, "held", gate.wait)):
            rpc = await caller(world)
            calls = [asyncio.ensure_future(rpc.call("shop", "held", each, timeout=30)) for each in range(50)]
            await until(lambda: gate.running == 50, "all are being handled")
            gate.opened.set()
            assert await asyncio.gather(*calls) == list(range(50))

    run_on(scenario)
