"""Orders, shipping, loyalty and payments: what is repeated changes nothing, what was undone stays undone."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import cast

import pytest
from aiohttp.test_utils import TestServer

from jetloom import ErrorClass, Runtime, StepContext, TaskFailed, Undo
from jetloom.testing import FakeContext, World
from services.loyalty import Loyalty
from services.notifications import Notifications
from services.orders import Orders, Record
from services.payments import Charge, Charged, Payments, PaymentsConfig
from services.provider import Card, Ledger, make_app
from services.shipping import Shipping

CREATE = {"order": "A1", "customer": "c-1", "amount_cents": 500}


async def test_orders_create_and_cancel(world: World) -> None:
    """An order is created once; cancelling it emits one event under one key, and closes it for good."""
    await world.start(Orders)
    for _ in range(2):
        assert await world.step("orders.create", CREATE) == {"order": "A1"}
    context = FakeContext("order-A1", "undo=create")
    await world.step("orders.cancel", Undo[object, object](CREATE), ctx=context)
    payload = {"order": "A1", "customer": "c-1"}
    assert context.emitted == [("shop.order.cancelled", payload, "cancelled")]
    for name in ("orders.create", "orders.finalize"):
        with pytest.raises(TaskFailed):
            await world.step(name, CREATE)
    assert (await world.call("orders", "show", {"order": "A1"}, type=Record)).status == "cancelled"


async def test_shipping_cancel_before_create(world: World) -> None:
    """A parcel that was cancelled before it was booked is not booked any more."""
    await world.start(Shipping)
    request = {"order": "A1", "country": "DE"}
    booked = [await world.step("shipping.create", {"order": "A2", "country": "DE"}) for _ in range(2)]
    assert booked[0] == booked[1]
    await world.step("shipping.cancel", Undo[object, object](request, None, "unknown"))
    with pytest.raises(TaskFailed) as cancelled:
        await world.step("shipping.create", request)
    assert cancelled.value.info.code == "shipping.cancelled"
    with pytest.raises(TaskFailed) as refused:
        await world.step("shipping.create", {"order": "A3", "country": "AQ"})
    assert refused.value.info.code == "shipping.refused"


async def test_points_once(world: World) -> None:
    """Points of an order are given once; a guest has no account."""
    await world.start(Loyalty)
    for _ in range(2):
        assert await world.step("loyalty.add", CREATE) == {"points": 5}
    with pytest.raises(TaskFailed):
        await world.step("loyalty.add", {**CREATE, "customer": "guest-1"})


async def test_letters_once_per_event(world: World) -> None:
    """A customer gets one letter for an event, however often it is told, and none for events that end nothing."""
    await world.start(Notifications)
    for kind in ("created", "fulfilled", "fulfilled", "paid", "cancelled"):
        payload = {"order": "A1", "customer": "c-1"}
        await world.publish(f"shop.order.{kind}", payload, id=f"order-A1.1.{kind}")
        # Later than the server remembers an id: the second one is stored.
        await world.advance(minutes=3)
    assert len(world.handled("notifications.tell")) == 5
    assert sorted(await world.kv("letters").keys()) == ["order-A1.1.cancelled", "order-A1.1.fulfilled"]


class OnlyConfig:
    """What payments need of a runtime."""

    def __init__(self, config: PaymentsConfig) -> None:
        self._config = config

    def config_as(self, kind: type[PaymentsConfig]) -> PaymentsConfig:
        assert kind is PaymentsConfig
        return self._config


@asynccontextmanager
async def paying(ledger: Path, *, timeout: float = 5.0) -> AsyncGenerator[Payments]:
    """Payments at a provider of their own, over real HTTP."""
    server = TestServer(make_app(Ledger(ledger), hang_seconds=2))
    await server.start_server()
    payments = Payments()
    await payments.init(cast("Runtime", OnlyConfig(PaymentsConfig(str(server.make_url("/")), timeout))))
    try:
        yield payments
    finally:
        await payments.shutdown()
        await server.close()


def pays(order: str, card: Card) -> tuple[StepContext, Charge]:
    return FakeContext(f"order-{order}", "pay"), Charge(order, card, 500)


def balance(ledger: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        return db.execute("SELECT order_id, kind FROM movements ORDER BY id").fetchall()


async def test_charge_and_refund(tmp_path: Path) -> None:
    """A charge is repeated under one key and made once; its refund likewise, also without the charge's answer."""
    ledger = tmp_path / "ledger.sqlite"
    async with paying(ledger) as payments:
        context, charge = pays("A1", Card.OK)
        first, again = [await payments.charge(context, charge) for _ in range(2)]
        assert first == again
        for undo_of in (Undo(charge, first), Undo[Charge, Charged](charge, None, "unknown")):
            await payments.refund(FakeContext("order-A1", "undo=pay"), undo_of)
        assert balance(ledger) == [("A1", "charge"), ("A1", "refund")]
        with pytest.raises(TaskFailed):
            await payments.charge(context, charge)


async def test_refund_of_a_charge_that_arrives_later(tmp_path: Path) -> None:
    """After the refund of a charge that never happened, the charge takes nothing."""
    ledger = tmp_path / "ledger.sqlite"
    async with paying(ledger) as payments:
        context, charge = pays("A1", Card.OK)
        await payments.refund(context, Undo[Charge, Charged](charge, None, "unknown"))
        with pytest.raises(TaskFailed):
            await payments.charge(context, charge)
        assert balance(ledger) == []


@pytest.mark.parametrize(
    ("card", "code", "error_class"),
    [
        (Card.DECLINED, "card.declined", ErrorClass.TERMINAL),
        (Card.TIMEOUT, "provider.unavailable", ErrorClass.RETRYABLE),
        (Card.LOST, "provider.unavailable", ErrorClass.RETRYABLE),
        (Card.BUSY, "provider.unavailable", ErrorClass.RETRYABLE),
    ],
)
async def test_error_classes(tmp_path: Path, card: Card, code: str, error_class: ErrorClass) -> None:
    """A decline is for good; a time-out, a 500 and a 503 are tried again, and end charged once."""
    ledger = tmp_path / "ledger.sqlite"
    async with paying(ledger, timeout=0.4) as payments:
        context, charge = pays("A1", card)
        with pytest.raises(TaskFailed) as caught:
            await payments.charge(context, charge)
        assert (caught.value.info.code, caught.value.info.error_class) == (code, error_class)
        if error_class is ErrorClass.RETRYABLE:
            assert (await payments.charge(context, charge)).charge == "order-A1.1.charge"
            assert balance(ledger) == [("A1", "charge")]


async def test_provider_away() -> None:
    """A provider that nobody reaches is tried again."""
    payments = Payments()
    await payments.init(cast("Runtime", OnlyConfig(PaymentsConfig("http://127.0.0.1:1"))))
    try:
        with pytest.raises(TaskFailed) as caught:
            await payments.charge(*pays("A1", Card.OK))
        assert caught.value.info.error_class is ErrorClass.RETRYABLE
    finally:
        await payments.shutdown()
