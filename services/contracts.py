"""What the services say to each other: the data of the shop's events and of its workflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

type Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""Of orders, customers and products: fit for keys and run ids."""


class Item(msgspec.Struct, frozen=True):
    product: Id
    quantity: Annotated[int, msgspec.Meta(ge=1)]


class Order(msgspec.Struct, frozen=True):
    """The payload of `shop.order.placed`, and the input of the workflow."""

    id: Id
    customer: Id
    card: str
    country: str
    address: str
    amount_cents: Annotated[int, msgspec.Meta(ge=1)]
    items: Annotated[list[Item], msgspec.Meta(min_length=1)]


class OrderEvent(msgspec.Struct, frozen=True):
    """The payload of every other `shop.order.*` event."""

    order: Id
    customer: Id
    items: list[Item] = []


class Delivery(msgspec.Struct, frozen=True):
    """The payload of `shop.stock.delivered`."""

    id: Id
    product: Id
    quantity: Annotated[int, msgspec.Meta(ge=0)]


def quantities(items: Sequence[Item]) -> dict[str, int]:
    """How many of each product, sorted by product: an order may name one twice."""
    total: dict[str, int] = {}
    for item in sorted(items, key=lambda item: item.product):
        total[item.product] = total.get(item.product, 0) + item.quantity
    return total
