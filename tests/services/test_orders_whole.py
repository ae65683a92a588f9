"""Whole orders through all services and the workflow, in virtual time; the provider and the labels are faked."""

from __future__ import annotations

import msgspec
import pytest

from jetloom import ErrorClass, TaskFailed
from jetloom.testing import Delay, Fake, World
from jetloom.types import JSON, RunStatus
from services.contracts import Delivery, Item, Order
from services.inventory import Inventory, Shelf
from services.loyalty import Loyalty, Points
from services.notifications import Letter, Notifications
from services.orders import Orders, Record
from services.shipping import Shipment, Shipping, number_of

WORKFLOWS = "services/workflows"
ORDER = Order("A1", "c-1", "card_ok", "DE", "1 Loom Street", 5_00, [Item("mug", 3)])


class Payments:
    """The steps of the payments service."""

    def __init__(self, charge: Fake, refund: Fake) -> None:
        self.charge = charge
        self.refund = refund


@pytest.fixture
async def payments(world: World) -> Payments:
    """The shop with ten mugs on the shelf, and its faked payments."""
    faked = Payments(
        await world.fake_step("payments.charge", [{"charge": "c-1"}]),
        await world.fake_step("payments.refund"),
    )
    await world.fake_step("labels.print", [{"label": "L-1"}])
    await world.start(Inventory)
    await world.start(Orders, workflows=[WORKFLOWS])
    await world.start(Shipping, Loyalty, Notifications)
    await world.publish("shop.stock.delivered", Delivery("d-1", "mug", 10))
    await world.settled()
    return faked


async def shelf(world: World) -> Shelf:
    return (await world.kv("stock", Shelf).get("mug")).value


def told(world: World) -> list[str]:
    return [each.name for each in world.published("shop.order.*")]


async def test_order_is_fulfilled(world: World, payments: Payments) -> None:
    """A placed order takes its way through every service: paid once, shipped, sold, told, and points given."""
    await world.publish("shop.order.placed", ORDER)
    await world.settled()
    run = await world.run("order-A1")
    assert run.status is RunStatus.COMPLETED
    assert run.output == {"order": "A1", "charge": "c-1", "shipment": number_of("A1"), "label": "L-1"}
    assert told(world) == ["placed", "created", "paid", "shipped", "fulfilled"]
    assert [call.input for call in payments.charge.calls] == [
        {"order": "A1", "card": "card_ok", "amount_cents": 500}
    ]
    found = await shelf(world)
    assert (found.available, found.sold, found.held) == (7, 3, {})
    assert (await world.kv("orders", Record).get("A1")).value.status == "fulfilled"
    assert [each.output for each in world.handled("loyalty.add")] == [Points(5)]
    [letter] = [event.id for event in world.published("shop.order.fulfilled")]
    assert (await world.kv("letters", Letter).get(letter)).value.kind == "fulfilled"


async def test_refused_shipment_is_rolled_back(world: World, payments: Payments) -> None:
    """When no carrier goes there, money and stock come back, in this order, and the customer is told."""
    await world.publish("shop.order.placed", msgspec.structs.replace(ORDER, country="AQ"))
    await world.settled()
    run = await world.run("order-A1")
    assert (run.status, run.error and run.error.code) == (RunStatus.FAILED, "shipping.refused")
    assert told(world) == ["placed", "created", "paid", "cancelled"]
    assert len(payments.charge.calls) == len(payments.refund.calls) == 1
    undone = [payments.refund.calls[0].at]
    undone += [world.handled(name)[0].at for name in ("orders.cancel", "inventory.release")]
    assert undone == sorted(undone)
    found = await shelf(world)
    assert (found.available, found.sold, found.held) == (10, 0, {})
    assert (await world.kv("orders", Record).get("A1")).value.status == "cancelled"
    [letter] = [event.id for event in world.published("shop.order.cancelled")]
    assert "not been charged" in (await world.kv("letters", Letter).get(letter)).value.text


async def test_provider_that_is_away_is_asked_again(world: World, payments: Payments) -> None:
    """A payment without an answer is repeated under the same key until there is one."""
    away = TaskFailed("provider.unavailable", "no answer", error_class=ErrorClass.RETRYABLE)
    payments.charge.will(Delay(1, away), away, away, {"charge": "c-1"})
    await world.publish("shop.order.placed", ORDER)
    await world.settled()
    assert (await world.run("order-A1")).status is not RunStatus.COMPLETED
    await world.advance(minutes=1)
    assert (await world.run("order-A1")).status is RunStatus.COMPLETED
    assert [call.attempt for call in payments.charge.calls] == [1, 2, 3, 4]
    assert len({call.key for call in payments.charge.calls}) == 1


async def test_order_outlives_a_crashed_service(world: World, payments: Payments) -> None:
    """An order whose service is killed in the middle of a step goes on when the service is back."""
    payments.charge.will(Delay(3, {"charge": "c-1"}))
    await world.publish("shop.order.placed", ORDER)
    await world.settled()
    world.crash(Orders)
    world.crash("engine")
    await world.advance(minutes=1)
    assert "fulfilled" not in told(world)
    await world.restart(Orders)
    await world.restart("engine")
    await world.wait("order-A1")
    await world.settled()
    assert told(world) == ["placed", "created", "paid", "shipped", "fulfilled"]
    assert (await shelf(world)).sold == 3


async def test_event_told_twice_is_one_order(world: World, payments: Payments) -> None:
    """An order that is placed twice runs once."""
    for number in range(2):
        await world.publish("shop.order.placed", ORDER, id=f"event-{number}")
    await world.settled()
    assert len(world.handled("orders.placed")) == 2
    assert len(payments.charge.calls) == 1


async def test_unprintable_label_cancels_the_shipment(world: World) -> None:
    """What fails last undoes what came before, the parcel too."""

    def unprintable(_: JSON) -> JSON:
        raise TaskFailed("label.unprintable", "no room")

    await world.fake_step("payments.charge", [{"charge": "c-1"}])
    await world.fake_step("payments.refund")
    await world.fake_step("labels.print", [unprintable])
    await world.start(Inventory, Orders, Shipping, Loyalty, workflows=[WORKFLOWS])
    await world.publish("shop.stock.delivered", Delivery("d-1", "mug", 10))
    await world.publish("shop.order.placed", ORDER)
    await world.settled()
    run = await world.run("order-A1")
    assert (run.status, run.error and run.error.code) == (RunStatus.FAILED, "label.unprintable")
    assert (await world.kv("shipments", Shipment).get("A1")).value.status == "cancelled"
