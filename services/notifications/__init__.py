"""Notifications: tells customers how their orders ended. It knows the shop by its events, and nobody knows it."""

from __future__ import annotations

import msgspec

from jetloom import Event, Module, Runtime, on
from jetloom.errors import ConditionFailed
from services.contracts import Id

TEXTS = {
    "fulfilled": "Your order {order} is on its way.",
    "cancelled": "We could not fulfil your order {order}. You have not been charged.",
}


class Ended(msgspec.Struct, frozen=True):
    """What is read of the events."""

    order: Id = ""
    customer: Id = ""


class Letter(msgspec.Struct, frozen=True):
    order: str
    customer: str
    kind: str
    text: str


class Notifications(Module):
    id = "notifications"
    description = "tells customers how their orders ended"
    buckets = ("letters",)

    async def init(self, rt: Runtime) -> None:
        self._letters = rt.kv("letters", Letter)
        self._logger = rt.logger

    @on("shop.order.*", ack_wait=5.0)
    async def tell(self, event: Event[Ended]) -> None:
        """An event that is delivered again has the same id, and its letter exists."""
        text = TEXTS.get(event.name)
        if text is None:
            return
        order, customer = event.payload.order, event.payload.customer
        letter = Letter(order, customer, event.name, text.format(order=order))
        try:
            await self._letters.create(event.id, letter)
        except ConditionFailed:
            return
        self._logger.info("letter sent", extra={"order": order, "kind": event.name})
