"""Stock is taken once and given back once, whatever is repeated, late or at the same time."""

from __future__ import annotations

import asyncio

import pytest

from jetloom import TaskFailed, Undo
from jetloom.testing import World, run_world
from services.contracts import Delivery, Item, OrderEvent
from services.inventory import Inventory, Reservation, Reserve, Shelf

PIECES = 50


def wants(order: str, **items: int) -> Reserve:
    return Reserve(order, [Item(name, count) for name, count in items.items()])


async def stocked(world: World, *, replicas: int = 1, **pieces: int) -> None:
    """Inventories with these pieces on their shelves."""
    await world.start(Inventory, replicas=replicas)
    for product, quantity in pieces.items():
        # The same delivery told twice is one.
        for _ in range(2):
            await world.publish("shop.stock.delivered", Delivery(f"{product}-1", product, quantity))
    await world.settled()


async def reserve(world: World, request: Reserve, replica: int = 0) -> object:
    return await world.step("inventory.reserve", request, replica=replica)


async def release(world: World, request: Reserve, *, known: bool = True, replica: int = 0) -> None:
    undo = Undo[Reserve, Reservation](request, None, "completed" if known else "unknown")
    await world.step("inventory.release", undo, replica=replica)


async def state(world: World, product: str) -> tuple[int, int, dict[str, int]]:
    shelf = (await world.kv("stock", Shelf).get(product)).value
    return shelf.available, shelf.sold, shelf.held


async def test_repeated_bodies_take_once(world: World) -> None:
    """A body that runs three times takes the pieces once; an undo that runs three times gives them back once."""
    await stocked(world, mug=10)
    order = wants("A1", mug=3)
    for _ in range(3):
        assert await reserve(world, order) == {"order": "A1", "pieces": 3}
    assert await state(world, "mug") == (7, 0, {"A1": 3})
    for _ in range(3):
        await release(world, order)
    assert await state(world, "mug") == (10, 0, {})


async def test_undo_of_what_arrives_later(world: World) -> None:
    """After an undo of an unknown outcome a late reserve takes nothing, and says so."""
    await stocked(world, mug=10)
    order = wants("A1", mug=3)
    await release(world, order, known=False)
    with pytest.raises(TaskFailed):
        await reserve(world, order)
    assert await state(world, "mug") == (10, 0, {})


async def test_all_or_nothing(world: World) -> None:
    """When one product is out, what was taken of the others is given back."""
    await stocked(world, mug=10, tee=1)
    with pytest.raises(TaskFailed) as caught:
        await reserve(world, wants("A1", mug=3, tee=2))
    assert caught.value.info.code == "stock.out"
    assert await state(world, "mug") == (10, 0, {})
    assert await state(world, "tee") == (1, 0, {})


async def test_one_product_named_twice(world: World) -> None:
    """An order that names a product twice holds the sum."""
    await stocked(world, mug=10)
    await reserve(world, Reserve("A1", [Item("mug", 2), Item("mug", 3)]))
    assert await state(world, "mug") == (5, 0, {"A1": 5})


async def test_fulfilled_is_sold(world: World) -> None:
    """The event of a fulfilled order turns held pieces into sold ones, once, also when it is told twice."""
    await stocked(world, mug=10)
    await reserve(world, wants("A1", mug=3))
    for _ in range(2):
        await world.publish("shop.order.fulfilled", OrderEvent("A1", "c", [Item("mug", 3)]))
    await world.settled()
    assert await state(world, "mug") == (7, 3, {})
    await release(world, wants("A1", mug=3))
    assert await state(world, "mug") == (7, 3, {})


@pytest.mark.parametrize("seed", range(5))
def test_contention(seed: int) -> None:
    """Three processes, sixty orders for fifty pieces, bodies and undos repeated: none is lost or sold twice."""

    async def main(world: World) -> None:
        await stocked(world, replicas=3, mug=PIECES)
        refused: list[str] = []

        async def one(number: int) -> None:
            order = wants(f"A{number}", mug=1)
            bodies = (reserve(world, order, (number + n) % 3) for n in range(2))
            results = await asyncio.gather(*bodies, return_exceptions=True)
            if any(isinstance(result, TaskFailed) for result in results):
                refused.append(f"A{number}")
            elif number % 4 == 0:
                await asyncio.gather(*(release(world, order, replica=n) for n in range(2)))

        await asyncio.gather(*(one(number) for number in range(60)))
        left, sold, held = await state(world, "mug")
        assert left + sum(held.values()) == PIECES
        assert sold == 0
        assert not set(held) & set(refused)
        assert set(held.values()) <= {1}
        assert all(int(order[1:]) % 4 for order in held)

    run_world(main, seed=seed)
