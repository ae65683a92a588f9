"""Three workflows joined by events: an order is taken in, the depot fulfils it, the hub tells its customer.

Each module can be a process of its own and knows the others by their events only. An event's id becomes the token of
the run that it starts, so an event that comes twice starts one run; who asked and the trace travel along.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from jetloom import Event, Module, Retry, Runtime, StepContext, endpoint, on, step
from jetloom.telemetry import current
from jetloom.types import JSON
from services.contracts import Id

TOTAL_MAX = 100_000


class Placed(msgspec.Struct, frozen=True):
    order: Id
    total: int


class Checked(msgspec.Struct, frozen=True):
    ok: bool
    priority: Literal["express", "standard", "bulk"] = "standard"
    reason: str = ""


class Validated(msgspec.Struct, frozen=True):
    order: Id
    priority: str


class News(msgspec.Struct, frozen=True):
    """What happened to an order, as the hub hears of it."""

    order: Id
    reason: str = ""


class Message(msgspec.Struct, frozen=True):
    order: Id
    text: str


class Told(msgspec.Struct, frozen=True):
    """Everything that a customer was told about one order, in its order; `asked` and `trace` are the last one's."""

    texts: tuple[str, ...] = ()
    asked: str = ""
    trace: str = ""


class Intake(Module):
    id = "intake"
    description = "takes orders in"

    @endpoint("place")
    async def place(self, order: Placed) -> str:
        """The run of an order; the same order again is the same run."""
        data: dict[str, JSON] = {"order": order.order, "total": order.total}
        started = await self.rt.workflows.start("intake", data, token=order.order)
        return started.run

    @step("intake.check")
    async def check(self, order: Placed) -> Checked:
        if not 0 < order.total < TOTAL_MAX:
            return Checked(ok=False, reason=f"a total of {order.total} is out of bounds")
        if order.total >= 50_000:
            return Checked(ok=True, priority="bulk")
        return Checked(ok=True, priority="express" if order.total >= 10_000 else "standard")


class Depot(Module):
    id = "depot"
    description = "fulfils validated orders"

    @on("joined.order.validated")
    async def validated(self, event: Event[Validated]) -> None:
        await self.rt.workflows.start("depot", msgspec.to_builtins(event.payload), token=event.id)

    @step("depot.move")
    async def move(self, ctx: StepContext, order: News) -> None:
        """One stage of the fulfilment; it is told when it is done, in the same entry of the journal."""
        ctx.emit(f"joined.fulfillment.{ctx.step}", {"order": order.order})


class Hub(Module):
    id = "hub"
    description = "tells customers"
    buckets = ("told",)

    async def init(self, rt: Runtime) -> None:
        self._told = rt.kv("told", Told)

    @on(
        "joined.>",
        where="event.namespace == 'joined.fulfillment' || event.type == 'joined.order.failed'",
        key="event.payload.order",
        retry=Retry(max=20, initial=0.5, max_delay=5),
    )
    async def news(self, event: Event[News]) -> None:
        """The next news of an order waits until this one is told: its run is waited for."""
        reason = f" ({event.payload.reason})" if event.payload.reason else ""
        text = f"{event.name.replace('_', ' ')}{reason}"
        notice: dict[str, JSON] = {"order": event.payload.order, "text": text}
        await self.rt.workflows.run("notice", notice, token=event.id)

    @step("hub.tell")
    async def tell(self, message: Message) -> None:
        context = current()

        def write(found: Told | None) -> Told:
            known = found.texts if found is not None else ()
            # The step may run again after it has written: once is enough.
            texts = known if message.text in known else (*known, message.text)
            return Told(texts, str(context.actor), context.trace)

        await self._told.modify(message.order, write)
