"""Loyalty: points for customers who have an account. Nice to have: an order does not fail for them."""

from __future__ import annotations

import msgspec

from jetloom import Module, Runtime, TaskFailed, step
from services.contracts import Id

CENTS_PER_POINT = 100


class Add(msgspec.Struct, frozen=True):
    order: Id
    customer: Id
    amount_cents: int


class Points(msgspec.Struct, frozen=True):
    points: int


class Loyalty(Module):
    id = "loyalty"
    description = "gives points to customers"
    buckets = ("points",)

    async def init(self, rt: Runtime) -> None:
        self._points = rt.kv("points", Points)

    @step("loyalty.add")
    async def add(self, request: Add) -> Points:
        if request.customer.startswith("guest-"):
            raise TaskFailed("loyalty.no_account", f"{request.customer} has no account")
        points = Points(request.amount_cents // CENTS_PER_POINT)
        # One key per order: points that were given are not given again.
        await self._points.modify(f"{request.customer}.{request.order}", lambda found: found or points)
        return points
