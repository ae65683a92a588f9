"""Assets on a real server: made, verified, and drift named by field."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from jetloom.errors import AssetDrifted
from jetloom.messages import Names
from jetloom.stores import namespace_assets, task_consumer
from jetloom.transport import NatsTransport, StreamAsset, connect


async def test_a_namespace_is_made_twice(transport: NatsTransport, nats_url: str) -> None:
    """Everything that a namespace needs is made, by several processes at once, and verified again without drift."""
    names = Names("assets", 2)
    declared = [*namespace_assets(names), task_consumer(names, "orders.reserve")]
    other = await connect(nats_url, name="other")
    for asset in declared:
        await asyncio.gather(transport.ensure(asset), other.ensure(asset))
    for asset in declared:
        await transport.ensure(asset)
    await other.close()


async def test_emits_become_events(transport: NatsTransport) -> None:
    """A marker of an emitted event is copied to the events, under its type, once."""
    names = Names("emits")
    for asset in namespace_assets(names):
        await transport.ensure(asset)
    await transport.append(names.emit("r", 7, "k", "shop.order.placed"), b"{}", expected=0)
    await transport.append(names.note("r", 7, "step", "k"), b"no event", expected=0)
    async with asyncio.timeout(20):
        while not (found := await transport.read(names.events_stream, names.event(">"))):
            await asyncio.sleep(0.01)
    assert [one.subject for one in found] == [names.event("shop.order.placed")]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("rollup", True, "rollup"),
        ("discard", "new", "discard"),
        ("messages_per_subject_max", 3, "max_msgs_per_subject"),
        ("age_max", 60.0, "max_age"),
        ("duplicate_window", 7.0, "duplicate_window"),
    ],
)
async def test_drift_is_named(transport: NatsTransport, field: str, value: object, said: str) -> None:
    """A declared field that the server has otherwise is named, with both values; nothing is changed."""
    made = StreamAsset(name="DRIFT", subjects=("drift.>",), storage="memory")
    await transport.ensure(made)
    with pytest.raises(AssetDrifted, match="DRIFT") as drifted:
        await transport.ensure(msgspec.structs.replace(made, **{field: value}))
    assert said in str(drifted.value)
    await transport.ensure(made)
    await transport.remove("DRIFT")
