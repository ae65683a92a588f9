"""The bookkeeper: right books pass, and each kind of wrong books is refused by name."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from services.demo._reading import fold, read_journal
from services.demo.books import OUTCOMES, Books, Fact, Movement, Order, Run, Shelf, check, read_orders
from services.demo.generate import FOLDER

DONE = {
    "fulfilled": ("reserve", "create", "pay", "ship", "label", "finalize", "loyalty"),
    "charged_but_timed_out": ("reserve", "create", "pay", "ship", "label", "finalize"),
    "declined": ("reserve", "create"),
    "out_of_stock": (),
    "shipping_refused": ("reserve", "create", "pay"),
    "label_refused": ("reserve", "create", "pay", "ship"),
}


def run_of(order: Order) -> Run:
    expected, done = OUTCOMES[order.outcome], DONE[order.outcome]
    undone = tuple(reversed(done)) if expected.status == "failed" else ()
    return Run(order.id, expected.status, expected.error, ends=1, done=done, undone=undone)


def movements_of(order: Order) -> list[Movement]:
    events = OUTCOMES[order.outcome].events
    charge = [Movement(order.id, "charge", order.amount_cents)] if "paid" in events else []
    refund = [Movement(order.id, "refund", order.amount_cents)] if charge and "cancelled" in events else []
    return charge + refund


def right_books() -> Books:
    """What a perfect shop leaves behind after all orders of the demo."""
    orders = read_orders(FOLDER / "orders.jsonl")
    shelves: dict[str, Shelf] = {}
    for order in orders:
        for product, quantity in order.items.items():
            shelf = shelves.get(product, Shelf(delivered=1_000, available=1_000, sold=0))
            if OUTCOMES[order.outcome].kept and order.id.endswith("7"):
                held = {**shelf.held, order.id: quantity}
                shelf = replace(shelf, available=shelf.available - quantity, held=held)
            elif OUTCOMES[order.outcome].kept:
                shelf = replace(shelf, available=shelf.available - quantity, sold=shelf.sold + quantity)
            shelves[product] = shelf
    return Books(
        orders=orders,
        runs=[run_of(order) for order in orders],
        facts=[
            Fact(f"{order.id}.{kind}", kind, order.id)
            for order in orders
            for kind in OUTCOMES[order.outcome].events
        ],
        movements=[movement for order in orders for movement in movements_of(order)],
        shelves=shelves,
        told=[
            (order.id, kind)
            for order in orders
            for kind in OUTCOMES[order.outcome].events & {"fulfilled", "cancelled"}
        ],
    )


BOOKS = right_books()


def first(outcome: str) -> Order:
    return next(order for order in BOOKS.orders if order.outcome == outcome)


def changed_run(outcome: str, **changes: Any) -> Books:
    order = first(outcome).id
    runs = [replace(run, **changes) if run.order == order else run for run in BOOKS.runs]
    return replace(BOOKS, runs=runs)


def without_movement(order: str, kind: str) -> Books:
    kept = [each for each in BOOKS.movements if (each.order, each.kind) != (order, kind)]
    return replace(BOOKS, movements=kept)


def changed_shelf(**changes: Any) -> Books:
    return replace(BOOKS, shelves={**BOOKS.shelves, "mug": replace(BOOKS.shelves["mug"], **changes)})


def some(kind: str) -> Fact:
    return next(fact for fact in BOOKS.facts if fact.kind == kind)


MUG = BOOKS.shelves["mug"]

FORGERIES: list[tuple[str, Books, str]] = [
    (
        "charged twice",
        replace(BOOKS, movements=[*BOOKS.movements, *movements_of(first("fulfilled"))]),
        f"{first('fulfilled').id}: charged 2 times",
    ),
    (
        "left charged after a failure",
        without_movement(first("shipping_refused").id, "refund"),
        f"{first('shipping_refused').id}: left charged with",
    ),
    (
        "fulfilled and not paid",
        without_movement(first("fulfilled").id, "charge"),
        f"{first('fulfilled').id}: paid only 0 cents",
    ),
    (
        "refunded twice",
        replace(BOOKS, movements=[*BOOKS.movements, movements_of(first("label_refused"))[1]]),
        f"{first('label_refused').id}: refunded 2 times",
    ),
    ("a lost end", changed_run("declined", ends=0), f"{first('declined').id}: ended 0 times"),
    ("two ends", changed_run("fulfilled", ends=2), f"{first('fulfilled').id}: ended 2 times"),
    (
        "the wrong end",
        changed_run("declined", status="completed", error="", undone=()),
        f"{first('declined').id}: ended completed, not failed (card.declined)",
    ),
    ("a lost run", replace(BOOKS, runs=BOOKS.runs[1:]), f"{BOOKS.runs[0].order}: 0 runs instead of one"),
    (
        "a run that nobody ordered",
        replace(BOOKS, runs=[*BOOKS.runs, Run("B1", "completed", "", ends=1)]),
        "B1: a run that nobody ordered",
    ),
    (
        "an event twice under one id",
        replace(BOOKS, facts=[*BOOKS.facts, some("paid")]),
        f"event {some('paid').id} is stored 2 times",
    ),
    (
        "an event twice under two ids",
        replace(BOOKS, facts=[*BOOKS.facts, replace(some("paid"), id="another")]),
        f"{some('paid').order}: event paid exists 2 times instead of 1",
    ),
    (
        "a lost event",
        replace(BOOKS, facts=[fact for fact in BOOKS.facts if fact != some("shipped")]),
        f"{some('shipped').order}: event shipped exists 0 times instead of 1",
    ),
    ("a piece that leaked", changed_shelf(available=MUG.available - 1), "stock of mug: 1000 delivered, 999"),
    (
        "a piece still held for a failed order",
        changed_shelf(available=MUG.available - 1, held={**MUG.held, first("declined").id: 1}),
        f"stock of mug: still held for {first('declined').id}",
    ),
    (
        "a piece given back twice",
        changed_shelf(available=MUG.available + 1, sold=MUG.sold - 1),
        "stock of mug: ",
    ),
    (
        "undone in the wrong order",
        changed_run("shipping_refused", undone=("reserve", "create", "pay")),
        f"{first('shipping_refused').id}: undid reserve, create, pay",
    ),
    (
        "an undo missing",
        changed_run("declined", undone=("create",)),
        f"{first('declined').id}: undid create after",
    ),
    (
        "an undo twice",
        changed_run("declined", undone=("create", "create", "reserve")),
        f"{first('declined').id}: undid create, create, reserve",
    ),
    (
        "a letter twice",
        replace(BOOKS, told=[*BOOKS.told, BOOKS.told[0]]),
        f"{BOOKS.told[0][0]}: the customer was told {BOOKS.told[0][1]} 2 times",
    ),
]


def test_right_books_pass() -> None:
    """There is nothing to say about right books."""
    assert check(BOOKS) == []


@pytest.mark.parametrize(("books", "said"), [pytest.param(b, s, id=name) for name, b, s in FORGERIES])
def test_forgery_is_refused(books: Books, said: str) -> None:
    """Books that are wrong in one place are refused, and the place is named."""
    assert [line for line in check(books) if line.startswith(said)], check(books)


def test_empty_books_are_wrong() -> None:
    """A shop that did nothing did not fulfil its orders."""
    assert len(check(replace(BOOKS, runs=[], facts=[], movements=[], shelves={}, told=[]))) > len(
        BOOKS.orders
    )


def entry(n: int, *records: dict[str, Any]) -> dict[str, Any]:
    return {"n": n, "at": 1.0, "by": "e", "inc": 1, "records": list(records)}


def completed(step: str) -> dict[str, Any]:
    return {"t": "completed", "step": step}


JOURNAL = [
    entry(1, {"t": "run_started"}, {"t": "started", "step": "reserve"}, completed("reserve")),
    entry(2, completed("create"), {"t": "failed", "step": "pay"}, {"t": "undoing"}),
    entry(3, {"t": "undo_completed", "step": "create"}, {"t": "undo_completed", "step": "reserve"}),
    entry(4, {"t": "finished", "status": "failed", "error": {"code": "card.declined"}}),
]
FOLDED = Run("A1", "failed", "card.declined", 1, ("reserve", "create"), ("create", "reserve"))


def rolled_up(entries: list[dict[str, Any]], last: dict[str, Any]) -> dict[str, Any]:
    lines = "\n".join(json.dumps(each) for each in entries).encode()
    snapshot: dict[str, Any] = {
        "t": "snapshot",
        "state": {},
        "history": base64.b64encode(zlib.compress(lines)).decode(),
    }
    return {**last, "records": [snapshot, *last["records"]]}


def test_journal_of_a_run_that_goes_on() -> None:
    """A journal of several messages is read in the order of its entries."""
    bodies = [json.dumps(each).encode() for each in JOURNAL]
    assert fold("A1", read_journal(bodies)) == FOLDED


def test_journal_of_a_finished_run() -> None:
    """One rolled-up message says the same, also when it rolled up an earlier roll-up."""
    once = rolled_up(JOURNAL[:3], JOURNAL[3])
    twice = rolled_up([rolled_up(JOURNAL[:2], JOURNAL[2])], JOURNAL[3])
    for body in (once, twice):
        assert fold("A1", read_journal([json.dumps(body).encode()])) == FOLDED
