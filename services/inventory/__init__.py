"""Inventory: stock on shelves, one document per product, changed by conditional writes only.

A document says everything about its product: how many are available, held for which order, and sold. So taking a piece
and remembering for whom is one write, and doing it again changes nothing. An order that is *closed* on a shelf (given
back, sold, or refused) takes nothing there any more: a `reserve` that arrives after its undo finds that.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

import msgspec

from jetloom import Event, Module, Runtime, TaskFailed, Undo, on, step
from services.contracts import Delivery, Id, Item, OrderEvent, quantities

CLOSED_MAX = 1_000
"""Orders that a shelf remembers as closed, and its deliveries: must stay above those within the longest delay of a late
step or event, and the document (some 20 bytes each) far below the server's limit of a message."""


class Shelf(msgspec.Struct, frozen=True):
    """One product. available + held + sold = everything that was ever delivered."""

    available: int = 0
    sold: int = 0
    held: dict[str, int] = {}
    closed: list[str] = []
    deliveries: list[str] = []

    def take(self, order: str, quantity: int) -> Shelf:
        """Holds them for this order; unchanged when it has them, may not have them, or there are too few."""
        if order in self.held or order in self.closed or quantity > self.available:
            return self
        held = {**self.held, order: quantity}
        return msgspec.structs.replace(self, available=self.available - quantity, held=held)

    def close(self, order: str, *, sold: bool) -> Shelf:
        """What is held for this order is sold or available again; it takes nothing any more."""
        if order in self.closed:
            return self
        held = dict(self.held)
        quantity = held.pop(order, 0)
        return msgspec.structs.replace(
            self,
            available=self.available + (0 if sold else quantity),
            sold=self.sold + (quantity if sold else 0),
            held=held,
            closed=[*self.closed, order][-CLOSED_MAX:],
        )

    def receive(self, delivery: str, quantity: int) -> Shelf:
        if delivery in self.deliveries:
            return self
        deliveries = [*self.deliveries, delivery][-CLOSED_MAX:]
        return msgspec.structs.replace(self, available=self.available + quantity, deliveries=deliveries)


class Reserve(msgspec.Struct, frozen=True):
    order: Id
    items: list[Item]


class Reservation(msgspec.Struct, frozen=True):
    order: Id
    pieces: int


class Inventory(Module):
    id = "inventory"
    description = "keeps the stock"
    buckets = ("stock",)

    async def init(self, rt: Runtime) -> None:
        self._shelves = rt.kv("stock", Shelf)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @on("shop.stock.delivered", ack_wait=5.0)
    async def delivered(self, event: Event[Delivery]) -> None:
        new = event.payload
        await self._change(new.product, lambda shelf: shelf.receive(new.id, new.quantity))

    @on("shop.order.fulfilled", ack_wait=5.0)
    async def fulfilled(self, event: Event[OrderEvent]) -> None:
        await self._close(event.payload.order, event.payload.items, sold=True)

    @step("inventory.reserve", undo="inventory.release")
    async def reserve(self, request: Reserve) -> Reservation:
        """Holds every item of the order, or none."""
        wanted = quantities(request.items)
        for product, quantity in wanted.items():
            shelf = await self._change(product, lambda shelf, n=quantity: shelf.take(request.order, n))
            if request.order not in shelf.held:
                await self._close(request.order, request.items, sold=False)
                raise TaskFailed("stock.out", f"{quantity} {product} wanted, {shelf.available} available")
        return Reservation(request.order, sum(wanted.values()))

    @step("inventory.release")
    async def release(self, undo: Undo[Reserve, Reservation]) -> None:
        """The same whether `reserve` happened, never happened, or arrives later."""
        await self._close(undo.input.order, undo.input.items, sold=False)

    async def _close(self, order: str, items: list[Item], *, sold: bool) -> None:
        for product in quantities(items):
            await self._change(product, lambda shelf: shelf.close(order, sold=sold))

    async def _change(self, product: str, change: Callable[[Shelf], Shelf]) -> Shelf:
        # The conditional write makes it right, also with other processes; the turn spares it conflicts in this one.
        async with self._turns[product]:
            entry = await self._shelves.modify(product, lambda shelf: change(shelf or Shelf()))
        return entry.value if entry is not None else Shelf()
