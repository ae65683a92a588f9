"""Stock is taken once and given back once, whatever is repeated, late or at the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jetloom import TaskFailed
from services.inventory import Inventory
from tests.services.world import Services, call, on_twin, undo

PIECES = 50


def wants(order: str, **items: int) -> dict[str, Any]:
    return {"order": order, "items": [{"product": name, "quantity": count} for name, count in items.items()]}


async def stocked(services: Services, **pieces: int) -> None:
    transport = await services.world.connect("publisher")
    for product, quantity in pieces.items():
        subject = services.world.names.event("shop.stock.delivered")
        body = f'{{"id": "{product}-1", "product": "{product}", "quantity": {quantity}}}'.encode()
        # The same delivery told twice is one.
        for _ in range(2):
            await transport.append(subject, body)
    async with asyncio.timeout(30):
        while any([await available(services, product) != count for product, count in pieces.items()]):
            await asyncio.sleep(0.01)


async def available(services: Services, product: str) -> int:
    from jetloom.errors import NotFound

    try:
        return (await services.value("stock", product))["available"]
    except NotFound:
        return -1


async def state(services: Services, product: str) -> tuple[int, int, dict[str, int]]:
    shelf = await services.value("stock", product)
    return shelf["available"], shelf["sold"], shelf["held"]


def test_repeated_bodies_take_once() -> None:
    """A body that runs three times takes the pieces once; an undo that runs three times gives them back once."""

    async def scenario(services: Services) -> None:
        host = await services.run(Inventory)
        await stocked(services, mug=10)
        order = wants("A1", mug=3)
        for _ in range(3):
            assert await call(host, "inventory.reserve", order) == {"order": "A1", "pieces": 3}
        assert await state(services, "mug") == (7, 0, {"A1": 3})
        for _ in range(3):
            await undo(host, "inventory.release", order)
        assert await state(services, "mug") == (10, 0, {})

    on_twin(scenario)


def test_undo_of_what_arrives_later() -> None:
    """After an undo of an unknown outcome a late reserve takes nothing, and says so."""

    async def scenario(services: Services) -> None:
        host = await services.run(Inventory)
        await stocked(services, mug=10)
        order = wants("A1", mug=3)
        await undo(host, "inventory.release", order, "unknown")
        with pytest.raises(TaskFailed):
            await call(host, "inventory.reserve", order)
        assert await state(services, "mug") == (10, 0, {})

    on_twin(scenario)


def test_all_or_nothing() -> None:
    """When one product is out, what was taken of the others is given back."""

    async def scenario(services: Services) -> None:
        host = await services.run(Inventory)
        await stocked(services, mug=10, tee=1)
        with pytest.raises(TaskFailed) as caught:
            await call(host, "inventory.reserve", wants("A1", mug=3, tee=2))
        assert caught.value.info.code == "stock.out"
        assert await state(services, "mug") == (10, 0, {})
        assert await state(services, "tee") == (1, 0, {})

    on_twin(scenario)


def test_one_product_named_twice() -> None:
    """An order that names a product twice holds the sum."""

    async def scenario(services: Services) -> None:
        host = await services.run(Inventory)
        await stocked(services, mug=10)
        twice = {
            "order": "A1",
            "items": [{"product": "mug", "quantity": 2}, {"product": "mug", "quantity": 3}],
        }
        await call(host, "inventory.reserve", twice)
        assert await state(services, "mug") == (5, 0, {"A1": 5})

    on_twin(scenario)


def test_fulfilled_is_sold() -> None:
    """The event of a fulfilled order turns held pieces into sold ones, once, also when it is told twice."""

    async def scenario(services: Services) -> None:
        host = await services.run(Inventory)
        await stocked(services, mug=10)
        await call(host, "inventory.reserve", wants("A1", mug=3))
        transport = await services.world.connect("publisher")
        event = b'{"order": "A1", "customer": "c", "items": [{"product": "mug", "quantity": 3}]}'
        for _ in range(2):
            await transport.append(services.world.names.event("shop.order.fulfilled"), event)
        async with asyncio.timeout(30):
            while await state(services, "mug") != (7, 3, {}):
                await asyncio.sleep(0.01)
        await undo(host, "inventory.release", wants("A1", mug=3))
        assert await state(services, "mug") == (7, 3, {})

    on_twin(scenario)


@pytest.mark.parametrize("seed", range(5))
def test_contention(seed: int) -> None:
    """Three processes, sixty orders for fifty pieces, bodies and undos repeated: none is lost or sold twice."""

    async def scenario(services: Services) -> None:
        hosts = [await services.run(Inventory) for _ in range(3)]
        await stocked(services, mug=PIECES)
        refused: list[str] = []

        async def one(number: int) -> None:
            order = wants(f"A{number}", mug=1)
            bodies = (call(hosts[(number + n) % 3], "inventory.reserve", order) for n in range(2))
            results = await asyncio.gather(*bodies, return_exceptions=True)
            if any(isinstance(result, TaskFailed) for result in results):
                refused.append(f"A{number}")
            elif number % 4 == 0:
                await asyncio.gather(*(undo(hosts[n], "inventory.release", order) for n in range(2)))

        await asyncio.gather(*(one(number) for number in range(60)))
        left, sold, held = await state(services, "mug")
        assert left + sum(held.values()) == PIECES
        assert sold == 0
        assert not set(held) & set(refused)
        assert set(held.values()) <= {1}
        assert all(int(order[1:]) % 4 for order in held)

    on_twin(scenario, seed)
