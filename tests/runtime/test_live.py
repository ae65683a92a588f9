"""The live bucket counts at the start; what changes later is said, and counts at the next one."""

from __future__ import annotations

import logging

import msgspec
import pytest

from jetloom.config import LiveConfig
from jetloom.runtime import Module, read_live_config
from jetloom.runtime._live import config_asset
from jetloom.stores import KeyValue
from jetloom.types import JSON
from tests.runtime.world import Runner, World, until


class Limits(msgspec.Struct, frozen=True):
    limit: int = 1


class Live(Module):
    id = "live"
    config = Limits


def test_the_bucket_is_read_at_the_start(run_on: Runner, caplog: pytest.LogCaptureFixture) -> None:
    """Its value reaches the module, a bad one is a problem with its place, and a later change is only logged."""

    async def scenario(world: World) -> None:
        transport = await world.bare()
        assert await read_live_config(transport, world.names) == LiveConfig(world.names.config_bucket)
        asset = config_asset(world.names)
        bucket: KeyValue[JSON] = KeyValue(transport, world.names.config_bucket, asset=asset)
        await bucket.put("live", {"limit": 20})
        await bucket.put("gone", {"limit": 1})
        await bucket.delete("gone")
        live = await read_live_config(transport, world.names)
        assert live.values == {"live": {"limit": 20}}
        host = world.host([Live], await world.connect(), live=live)
        with caplog.at_level(logging.WARNING, "jetloom.runtime"):
            await host.start()
            assert host._plan.configs["live"] == Limits(20)
            assert not caplog.records
            await bucket.put("other", {"limit": 30})
            await bucket.put("live", {"limit": 30})
            await until(lambda: caplog.records, "the change was logged")
            await host.stop()
        [record] = caplog.records
        assert "takes effect at the next start" in record.message
        assert vars(record)["of_module"] == "live"
        await bucket.put("live", {"limit": "many"})
        refused = world.host([Live], transport, live=await read_live_config(transport, world.names))
        place = f"bucket {world.names.config_bucket}, key live: limit"
        assert refused.problems == [f"{place}: Expected `int`, got `str`"]

    run_on(scenario)
