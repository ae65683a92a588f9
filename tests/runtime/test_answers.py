"""An answer that does not fit its endpoint's declared type never leaves the service as one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest

from jetloom import Module, endpoint
from jetloom.errors import DecodeFailed, JetloomError
from jetloom.rpc import Rpc
from jetloom.runtime import describe
from jetloom.telemetry import Metrics
from tests.runtime.world import Runner, World


class Parcel(msgspec.Struct):
    id: str
    pieces: int = 1


class Liar(Module):
    id = "liar"

    @endpoint()
    async def number(self) -> int:
        return cast("Any", "no int")

    @endpoint()
    async def nested(self) -> Parcel:
        return Parcel("p-1", cast("Any", "many"))

    @endpoint()
    async def parts(self) -> AsyncIterator[Parcel]:
        yield Parcel("p-1")
        yield cast("Any", {"id": 7})

    @endpoint()
    async def honest(self, parcel: Parcel) -> Mapping[str, Decimal]:
        return {parcel.id: Decimal("1.50")}

    @endpoint()
    async def nothing(self) -> None: ...


def test_the_service_says_it(run_on: Runner) -> None:
    """A wrong answer is the service's error, with what was declared and found, for a caller without types as well."""

    async def scenario(world: World) -> None:
        async with world.running(Liar) as (_, transport):
            rpc = Rpc(transport, world.names, world.clock, Metrics(process=False), describe=describe)
            for name, declared in (("number", "int"), ("nested", "Parcel")):
                with pytest.raises(JetloomError) as failed:
                    await rpc.call("liar", name)
                assert failed.value.to_info().code == "answer.invalid"
                assert f"Liar.{name} gave what does not fit {declared}: Expected `int`, got `str`" in str(
                    failed.value
                )
            seen: list[object] = []

            async def read() -> None:
                async for part in rpc.stream("liar", "parts", type=Parcel):
                    seen.append(part)

            with pytest.raises(JetloomError, match=r"Liar\.parts gave what does not fit Parcel"):
                await read()
            assert seen == [Parcel("p-1")]
            figures = {
                each.name: each.num_errors
                for service in await rpc.statistics("liar")
                for each in service.endpoints or ()
            }
            assert (figures["number"], figures["nested"], figures["parts"]) == (1, 1, 1)

    run_on(scenario)


def test_what_fits_passes(run_on: Runner) -> None:
    """Types that JSON writes in another form, and no answer at all, fit; a bad request names its endpoint."""

    async def scenario(world: World) -> None:
        async with world.running(Liar) as (_, transport):
            rpc = Rpc(transport, world.names, world.clock, Metrics(process=False), describe=describe)
            assert await rpc.client(Liar).honest(Parcel("p-1")) == {"p-1": Decimal("1.50")}
            assert await rpc.call("liar", "nothing") is None
            with pytest.raises(DecodeFailed, match=r"the request of Liar\.honest"):
                await rpc.call("liar", "honest", {"id": 7})

    run_on(scenario)
