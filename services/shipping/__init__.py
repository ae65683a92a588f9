"""Shipping: books parcels with a carrier that does not go everywhere."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from jetloom import Module, Runtime, TaskFailed, Undo, step
from services.contracts import Id

COUNTRIES = frozenset({"AT", "BE", "CH", "DE", "DK", "ES", "FR", "IT", "NL", "PL"})


class Create(msgspec.Struct, frozen=True):
    order: Id
    country: str


class Shipment(msgspec.Struct, frozen=True):
    """A cancelled shipment stays, so that a `create` that arrives late finds it."""

    shipment: str
    status: Literal["booked", "cancelled"] = "booked"


class Shipping(Module):
    id = "shipping"
    description = "books parcels"
    buckets = ("shipments",)

    async def init(self, rt: Runtime) -> None:
        self._shipments = rt.kv("shipments", Shipment)

    @step("shipping.create", undo="shipping.cancel")
    async def create(self, request: Create) -> Shipment:
        if request.country not in COUNTRIES:
            raise TaskFailed("shipping.refused", f"no carrier goes to {request.country}")

        def write(found: Shipment | None) -> Shipment:
            if found is not None and found.status == "cancelled":
                raise TaskFailed(
                    "shipping.cancelled", f"the shipment of {request.order} was cancelled before"
                )
            return found or Shipment(number_of(request.order))

        entry = await self._shipments.modify(request.order, write)
        return entry.value if entry is not None else Shipment(number_of(request.order))

    @step("shipping.cancel")
    async def cancel(self, undo: Undo[Create, Shipment]) -> None:
        """The same whether the parcel was booked, was never booked, or is booked later."""
        order = undo.input.order
        await self._shipments.modify(order, lambda _: Shipment(number_of(order), "cancelled"))


def number_of(order: str) -> str:
    return "S-" + hashlib.sha256(order.encode()).hexdigest()[:10].upper()
