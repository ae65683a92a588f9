"""Who serves what, and which instance of it is asked."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest

from jetloom.errors import NameInvalid, NoResponders, PayloadTooLarge, RequestTimeout
from jetloom.rpc import Busy, CallRetry, Endpoint, MicroService
from tests.rpc.serving import Gate, caller, count, endpoint, serving
from tests.runtime.world import Runner, World, run_on_twin, until, until_true

ENDPOINT_STATS = {
    *("name", "subject", "queue_group", "num_requests", "num_errors", "last_error"),
    *("processing_time", "average_processing_time", "data"),
}
IDENTITY = {"type", "name", "id", "version", "metadata"}


async def echo(data: bytes) -> bytes:
    return data


def test_answers_have_the_fields_of_adr_32(run_on: Runner) -> None:
    """Each verb has exactly its fields, with the types that the decision record names."""

    async def scenario(world: World) -> None:
        async def fails(_data: bytes) -> bytes:
            raise ValueError("no luck")

        async with serving(
            world, endpoint(world, "echo", echo, metadata={"unit": "cents"}), endpoint(world, "fails", fails)
        ) as service:
            plain = await world.connect()
            for _ in range(3):
                await plain.request(world.names.rpc("shop", "echo"), b"1")
            await plain.request(world.names.rpc("shop", "fails"), b"1")

            async def ask(verb: str) -> dict[str, object]:
                reply = await plain.request(f"$SRV.{verb}.shop.{service.id}", b"")
                return msgspec.json.decode(reply.data, type=dict[str, object])

            ping = await ask("PING")
            assert set(ping) == IDENTITY
            info = await ask("INFO")
            assert set(info) == IDENTITY | {"description", "endpoints"}
            endpoints = msgspec.convert(info["endpoints"], list[dict[str, object]])
            assert set(endpoints[0]) == {"name", "subject", "queue_group", "metadata"}
            assert endpoints[0]["metadata"] == {"unit": "cents"}
            stats = await ask("STATS")
            assert set(stats) == IDENTITY | {"started", "endpoints"}
            assert stats["type"] == "io.nats.micro.v1.stats_response"
            good, bad = msgspec.convert(stats["endpoints"], list[dict[str, object]])
            assert set(good) == ENDPOINT_STATS
            assert (good["num_requests"], good["num_errors"], good["last_error"]) == (3, 0, "")
            total, average = good["processing_time"], good["average_processing_time"]
            assert isinstance(total, int)
            assert average == total // 3
            assert (bad["num_requests"], bad["num_errors"]) == (1, 1)
            assert bad["last_error"] == "exception.ValueError: no luck"

    run_on(scenario)


def test_a_client_asks_for_schemas(run_on: Runner) -> None:
    """`$SRV.SCHEMA` answers the JSON Schemas of requests and answers, and how an endpoint answers."""

    async def scenario(world: World) -> None:
        async with serving(
            world,
            endpoint(world, "echo", echo, request_schema={"type": "integer"}, idempotent=True),
            endpoint(world, "count", parts=count),
        ):
            plain = await world.connect()
            answer = msgspec.json.decode((await plain.request("$SRV.SCHEMA.shop", b"")).data)
            assert answer["type"] == "io.jetloom.micro.v1.schema_response"
            assert answer["name"] == "shop"
            subject = world.names.rpc("shop", "echo")
            assert answer["endpoints"][0] == {
                "name": "echo", "subject": subject, "parts": False, "idempotent": True,
                "request": {"type": "integer"}, "response": None,
            }  # fmt: skip
            assert answer["endpoints"][1]["parts"] is True
            [service] = await (await caller(world)).discover("shop")
            assert service.endpoints is not None
            assert [each.metadata for each in service.endpoints] == [
                {"jetloom.idempotent": "true"},
                {"jetloom.parts": "true"},
            ]

    run_on(scenario)


def test_one_instance_is_asked(run_on: Runner) -> None:
    """Without `instance` the requests are shared, with it they reach that one; one that is gone is named."""

    async def scenario(world: World) -> None:
        async def one(_data: bytes) -> bytes:
            return b'"one"'

        async def two(_data: bytes) -> bytes:
            return b'"two"'

        async with serving(world, endpoint(world, "who", one)) as first:
            async with serving(world, endpoint(world, "who", two)) as second:
                rpc = await caller(world)
                for instance, expected in ((first.id, "one"), (second.id, "two")):
                    for _ in range(5):
                        assert await rpc.call("shop", "who", instance=instance) == expected
                shared = Counter([await rpc.call("shop", "who", type=str) for _ in range(100)])
                assert set(shared) == {"one", "two"}
                assert shared.total() == 100
                found = await rpc.discover("shop")
                assert {each.id for each in found} == {first.id, second.id}
                figures = await rpc.statistics("shop")
                assert sum(point.num_requests for each in figures for point in each.endpoints or ()) == 110

            async def gone() -> bool:
                # The server may hear of the stop after the request, which then nobody answers.
                try:
                    await rpc.call("shop", "who", instance=second.id, timeout=0.2)
                except NoResponders:
                    return True
                except RequestTimeout:
                    return False
                raise AssertionError("an instance answered after its stop")

            await until_true(gone, "nobody listens for the second any more")
            assert await rpc.call("shop", "who", retry=CallRetry(), idempotent=True) == "one"

    run_on(scenario)


def test_queue_groups(run_on: Runner) -> None:
    """Another group gets every request as well, and an endpoint without one is asked on each instance."""

    async def scenario(world: World) -> None:
        seen: list[str] = []

        def noting(name: str) -> Endpoint:
            async def note(_data: bytes) -> bytes:
                seen.append(name)
                return b"1"

            return endpoint(world, "note", note, group=name.partition("-")[0])

        async with (
            serving(world, noting("q-1")),
            serving(world, noting("q-2")),
            serving(world, noting("audit-1")),
            serving(world, noting("-1")) as plain,
        ):
            assert plain.describe("INFO")["endpoints"] != []
            transport = await world.connect()
            await transport.publish(world.names.rpc("shop", "note"), b"1")
            await until(lambda: len(seen) == 3, "one of each group was asked")
            groups = sorted(name.partition("-")[0] for name in seen)
            assert groups == ["", "audit", "q"]
            rpc = await caller(world)
            found = {each.queue_group for info in await rpc.discover("shop") for each in info.endpoints or ()}
            assert found == {"q", "audit", ""}

    run_on(scenario)


def test_foreign_services_are_found(run_on: Runner) -> None:
    """Whatever answers `$SRV.INFO` is listed; what can't be read is passed over."""

    async def scenario(world: World) -> None:
        other = await world.connect("other")
        answers = (
            b'{"type":"x","name":"go","id":"g1","version":"1.0.0","endpoints":null,"metadata":null}',
            b"not json",
            b'{"type":"x","name":"go","id":"g2","version":"1.0.0","new":1,"endpoints":[{"name":"e"}]}',
        )
        asked: asyncio.Queue[str] = asyncio.Queue()
        await other.subscribe("$SRV.INFO", lambda request: asked.put_nowait(request.reply))

        async def answer() -> None:
            to = await asked.get()
            for each in answers:
                await other.publish(to, each)

        answering = asyncio.ensure_future(answer())
        async with serving(world, endpoint(world, "echo", echo)) as service:
            found = await (await caller(world)).discover()
            assert [(each.name, each.id) for each in found] == [
                ("go", "g1"),
                ("go", "g2"),
                ("shop", service.id),
            ]
            await answering

    run_on(scenario)


def test_nobody_is_found(run_on: Runner) -> None:
    """A question that nobody answers ends by itself, and a name that is none is refused."""

    async def scenario(world: World) -> None:
        rpc = await caller(world)
        assert await rpc.discover("nobody", wait=0.2) == []
        with pytest.raises(NameInvalid):
            await rpc.discover("a.b")

    run_on(scenario)


def test_busy_under_load(run_on: Runner) -> None:
    """Of many requests at once as many as fit are handled, the others are answered busy, none is lost or queued."""

    async def scenario(world: World) -> None:
        gate = Gate()
        async with serving(world, endpoint(world, "held", gate.wait, concurrency=10)) as service:
            rpc = await caller(world)

            async def ask(number: int) -> object:
                try:
                    return await rpc.call("shop", "held", number, timeout=30)
                except Busy:
                    return "busy"

            calls = [asyncio.ensure_future(ask(number)) for number in range(500)]
            await until(lambda: service.stats["held"].num_requests == 490, "490 were refused")
            await until(lambda: gate.running == 10, "ten are being handled")
            gate.opened.set()
            found = Counter("busy" if each == "busy" else "ok" for each in await asyncio.gather(*calls))
            assert found == {"ok": 10, "busy": 490}
            assert await ask(1) == 1
            stats = service.stats["held"]
            assert (stats.num_requests, stats.num_errors) == (501, 490)

    run_on(scenario)


def test_a_drained_service_takes_nothing_new() -> None:
    """What runs is finished and answered; the next request finds nobody, and discovery is silent."""

    async def scenario(world: World) -> None:
        gate = Gate()
        async with serving(world, endpoint(world, "held", gate.wait)) as service:
            rpc = await caller(world)
            call = asyncio.ensure_future(rpc.call("shop", "held", 1, timeout=60))
            await until(lambda: gate.running == 1, "it is being handled")
            draining = asyncio.ensure_future(service.drain(30))
            await asyncio.sleep(1)
            with pytest.raises(NoResponders):
                await rpc.call("shop", "held", 2)
            assert await rpc.discover("shop", wait=0.2) == []
            gate.opened.set()
            assert await draining == 0
            assert await call == 1

    run_on_twin(scenario)


def test_an_answer_that_no_message_holds(run_on: Runner) -> None:
    """It is a named error to the caller, and the service goes on."""

    async def scenario(world: World) -> None:
        async def large(data: bytes) -> bytes:
            return b'"%s"' % (b"x" * int(data))

        async with serving(world, endpoint(world, "large", large)):
            rpc = await caller(world)
            with pytest.raises(PayloadTooLarge):
                await rpc.call("shop", "large", 2_000_000)
            assert await rpc.call("shop", "large", 1) == "x"

    run_on(scenario)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a.b"}, "endpoint 'a.b'"),
        ({"group": "a b"}, "queue group 'a b'"),
        ({"function": None}, "a function or parts"),
        ({"concurrency": 0}, "expected 1 or more"),
    ],
)
def test_a_wrong_declaration_is_named(change: dict[str, object], message: str) -> None:
    """Before anything is subscribed."""

    async def scenario(world: World) -> None:
        transport = await world.connect()
        wrong = msgspec.structs.replace(endpoint(world, "echo", echo), **change)
        with pytest.raises(Exception, match=message):
            MicroService("shop", [wrong], transport, world.clock, world.metrics)

    run_on_twin(scenario)
