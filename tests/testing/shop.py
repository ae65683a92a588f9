"""A small shop, for tests of the testing kit: its modules and its workflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from jetloom import Event, Module, Retry, Runtime, StepContext, TaskFailed, endpoint, every, on, step
from jetloom.workflows import Definition, load_text

WORKFLOW = """
id: fulfil
version: "1"
steps:
  - id: reserve
    uses: stock.reserve
    with: { order: "${input.order}" }
    saga: { uses: stock.release }
  - id: pay
    uses: payments.charge
    depends_on: [reserve]
    with: { order: "${input.order}" }
    retry: { max: 3, initial: 60, max_delay: 600 }
  - id: close
    uses: sales.close
    depends_on: [pay]
    with: { order: "${input.order}" }
"""


class Placed(msgspec.Struct, frozen=True):
    order: str
    pieces: int = 1


class Prices(msgspec.Struct, frozen=True):
    cents: int = 100


class Sales(Module):
    id = "sales"
    config = Prices
    buckets = ("sales",)

    async def init(self, rt: Runtime) -> None:
        self.rt = rt
        self.sales = rt.kv("sales", Placed)

    @on("shop.order.placed", retry=Retry(max=2, initial=10))
    async def placed(self, event: Event[Placed]) -> None:
        if event.payload.pieces < 0:
            raise TaskFailed("order.negative", "fewer than none")
        await self.sales.put(event.payload.order, event.payload)
        self.rt.logger.info("order taken", extra={"order": event.payload.order})
        await self.rt.workflows.start("fulfil", {"order": event.payload.order}, id=event.payload.order)

    @endpoint()
    async def price(self, placed: Placed) -> int:
        quoted = await self.rt.rpc.call("tax", "rate", placed.order, type=int)
        return placed.pieces * self.rt.config_as(Prices).cents + quoted

    @endpoint()
    async def count(self, up_to: int) -> AsyncIterator[int]:
        for number in range(up_to):
            yield number

    @step("sales.close")
    async def close(self, ctx: StepContext, placed: Placed) -> str:
        ctx.emit("shop.order.closed", {"order": placed.order})
        return "closed"

    @every("1h")
    async def tidy(self) -> None:
        await self.rt.bus.publish("shop.tidied")


class Stock(Module):
    id = "stock"
    buckets = ("stock",)

    async def init(self, rt: Runtime) -> None:
        self.held = rt.kv("stock", bool)

    @step("stock.reserve")
    async def reserve(self, placed: Placed) -> bool:
        await self.held.put(placed.order, True)
        return True

    @step("stock.release")
    def release(self) -> None:
        """Runs in a thread."""

    @on("shop.stock.slow", ack_wait=30, retry=Retry(max=0))
    async def slow(self, event: Event[int]) -> None:
        await asyncio.sleep(event.payload)


def definition() -> Definition:
    [found] = load_text(WORKFLOW, "shop.py")
    return found
