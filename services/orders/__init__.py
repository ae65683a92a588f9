"""Orders: starts a run for each order that is placed, and keeps what is known of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from jetloom import Event, Module, Runtime, StepContext, TaskFailed, Undo, endpoint, on, step
from services.contracts import Id, Order

WORKFLOW = "fulfillment"


class Record(msgspec.Struct, frozen=True):
    """What is kept of an order. A cancelled one stays, so that a `create` that arrives late finds it."""

    status: Literal["created", "fulfilled", "cancelled"]
    customer: str = ""
    amount_cents: int = 0


class Create(msgspec.Struct, frozen=True):
    order: Id
    customer: Id
    amount_cents: int


class OrderRef(msgspec.Struct, frozen=True):
    order: Id


class Orders(Module):
    id = "orders"
    description = "starts the fulfilment of placed orders and keeps their state"
    buckets = ("orders",)

    async def init(self, rt: Runtime) -> None:
        self._records = rt.kv("orders", Record)

    @on("shop.order.placed", ack_wait=5.0)
    async def placed(self, event: Event[Order]) -> None:
        """The run's id is the order's, so an event that is delivered twice starts one run."""
        order = event.payload
        await self.rt.workflows.start(WORKFLOW, msgspec.to_builtins(order), id=f"order-{order.id}")

    @endpoint("show")
    async def show(self, request: OrderRef) -> Record:
        return (await self._records.get(request.order)).value

    @step("orders.create", undo="orders.cancel")
    async def create(self, request: Create) -> OrderRef:
        def write(found: Record | None) -> Record:
            if found is not None and found.status == "cancelled":
                raise TaskFailed(
                    "order.cancelled", f"order {request.order} was cancelled before it was created"
                )
            return found or Record("created", request.customer, request.amount_cents)

        await self._records.modify(request.order, write)
        return OrderRef(request.order)

    @step("orders.cancel")
    async def cancel(self, ctx: StepContext, undo: Undo[Create, OrderRef]) -> None:
        """Writes `cancelled` whether the order was created, was never created, or is created later."""
        order = undo.input

        def write(_: Record | None) -> Record:
            return Record("cancelled", order.customer, order.amount_cents)

        await self._records.modify(order.order, write)
        payload = {"order": order.order, "customer": order.customer}
        ctx.emit("shop.order.cancelled", payload, key="cancelled")

    @step("orders.finalize")
    async def finalize(self, request: OrderRef) -> OrderRef:
        def write(found: Record | None) -> Record:
            if found is None or found.status == "cancelled":
                raise TaskFailed(
                    "order.not_open", f"order {request.order} can't be fulfilled: it is not open"
                )
            return msgspec.structs.replace(found, status="fulfilled")

        await self._records.modify(request.order, write)
        return request
