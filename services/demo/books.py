"""The bookkeeper: `python -m services.demo.books --nats URL --ledger FILE`. Imports nothing of jetloom.

It compares what was ordered with what the streams and the payment provider's ledger say, and names every difference.
`check` is a pure function of `Books`, so a test can forge books and see them refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

ORDERS = Path(__file__).with_name("orders.jsonl")
POLL_SECONDS = 0.5

UNDOABLE = frozenset({"reserve", "create", "pay", "ship"})
"""Steps of the workflow that have an undo."""


@dataclass(frozen=True)
class Expectation:
    """What an order of a given outcome leaves behind: its run's end, its events, and whether money is kept."""

    status: str
    error: str
    events: frozenset[str]
    kept: bool = False


_PAID = frozenset({"placed", "created", "paid"})
_DONE = Expectation("completed", "", _PAID | {"shipped", "fulfilled"}, kept=True)
OUTCOMES = {
    "fulfilled": _DONE,
    "charged_but_timed_out": _DONE,
    "declined": Expectation("failed", "card.declined", frozenset({"placed", "created", "cancelled"})),
    "out_of_stock": Expectation("failed", "stock.out", frozenset({"placed"})),
    "shipping_refused": Expectation("failed", "shipping.refused", _PAID | {"cancelled"}),
    "label_refused": Expectation("failed", "label.unprintable", _PAID | {"cancelled"}),
}


@dataclass(frozen=True)
class Order:
    """What was ordered, and how it has to end."""

    id: str
    outcome: str
    amount_cents: int
    items: dict[str, int]


@dataclass(frozen=True)
class Run:
    """One journal. `ends` counts its finished records; `done` and `undone` are in the journal's order."""

    order: str
    status: str = ""
    error: str = ""
    ends: int = 0
    done: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fact:
    """An event of the shop. `kind` is the last word of its type."""

    id: str
    kind: str
    order: str


@dataclass(frozen=True)
class Movement:
    """Money that moved at the provider: `charge` or `refund`."""

    order: str
    kind: str
    amount_cents: int


@dataclass(frozen=True)
class Shelf:
    """One product: what came in, and where it is now. `held` is by order."""

    delivered: int
    available: int
    sold: int
    held: dict[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True)
class Books:
    """Everything that the bookkeeper has read. `told`: an order and a kind for each letter to a customer."""

    orders: list[Order]
    runs: list[Run]
    facts: list[Fact]
    movements: list[Movement]
    shelves: dict[str, Shelf]
    told: list[tuple[str, str]]


def check(books: Books) -> list[str]:
    """Every difference between what was ordered and what the books say, one line each. Pure."""
    return [
        *_check_ends(books),
        *_check_rollbacks(books),
        *_check_events(books),
        *_check_money(books),
        *_check_stock(books),
        *_check_letters(books),
    ]


def _check_ends(books: Books) -> Iterator[str]:
    runs = Counter(run.order for run in books.runs)
    known = {order.id: OUTCOMES[order.outcome] for order in books.orders}
    for order in books.orders:
        if runs[order.id] != 1:
            yield f"{order.id}: {runs[order.id]} runs instead of one"
    for run in books.runs:
        expected = known.get(run.order)
        if expected is None:
            yield f"{run.order}: a run that nobody ordered"
        elif run.ends != 1:
            yield f"{run.order}: ended {run.ends} times instead of once"
        elif (run.status, run.error) != (expected.status, expected.error):
            yield f"{run.order}: ended {_end(run.status, run.error)}, not {_end(expected.status, expected.error)}"


def _end(status: str, error: str) -> str:
    return f"{status} ({error})" if error else status


def _check_rollbacks(books: Books) -> Iterator[str]:
    for run in books.runs:
        done = [step for step in run.done if step in UNDOABLE]
        expected = tuple(reversed(done)) if run.status == "failed" else ()
        if run.undone != expected:
            yield (
                f"{run.order}: undid {', '.join(run.undone) or 'nothing'} after {', '.join(done) or 'nothing'}; "
                f"expected {', '.join(expected) or 'nothing'}"
            )


def _check_events(books: Books) -> Iterator[str]:
    for event_id, count in Counter(fact.id for fact in books.facts).items():
        if count > 1:
            yield f"event {event_id} is stored {count} times"
    found = Counter((fact.order, fact.kind) for fact in books.facts)
    wanted = {(order.id, kind) for order in books.orders for kind in OUTCOMES[order.outcome].events}
    for order, kind in sorted(wanted | set(found)):
        count, expected = found[order, kind], int((order, kind) in wanted)
        if count != expected:
            yield f"{order}: event {kind} exists {count} times instead of {expected}"


def _check_money(books: Books) -> Iterator[str]:
    charges, refunds = Counter[str](), Counter[str]()
    balance = Counter[str]()
    for movement in books.movements:
        (charges if movement.kind == "charge" else refunds)[movement.order] += 1
        balance[movement.order] += movement.amount_cents * (1 if movement.kind == "charge" else -1)
    known = {order.id: order for order in books.orders}
    for order_id in sorted(set(charges) | set(refunds) | set(known)):
        order = known.get(order_id)
        due = order.amount_cents if order is not None and OUTCOMES[order.outcome].kept else 0
        if charges[order_id] > 1:
            yield f"{order_id}: charged {charges[order_id]} times"
        if refunds[order_id] > 1:
            yield f"{order_id}: refunded {refunds[order_id]} times"
        if balance[order_id] != due:
            what = "left charged with" if balance[order_id] > due else "paid only"
            yield f"{order_id}: {what} {balance[order_id]} cents, {due} are due"


def _check_stock(books: Books) -> Iterator[str]:
    due = Counter[str]()
    kept = {order.id for order in books.orders if OUTCOMES[order.outcome].kept}
    for order in books.orders:
        if order.id in kept:
            due.update(order.items)
    for product in sorted(set(books.shelves) | set(due)):
        shelf = books.shelves.get(product, Shelf(0, 0, 0))
        held = sum(shelf.held.values())
        there = shelf.available + held + shelf.sold
        if there != shelf.delivered:
            yield f"stock of {product}: {shelf.delivered} delivered, {there} accounted for"
        if held + shelf.sold != due[product]:
            yield f"stock of {product}: {held + shelf.sold} held or sold, {due[product]} fulfilled"
        if shelf.available < 0:
            yield f"stock of {product}: {shelf.available} available"
        for order_id in sorted(set(shelf.held) - kept):
            yield f"stock of {product}: still held for {order_id}, which was not fulfilled"


def _check_letters(books: Books) -> Iterator[str]:
    told = Counter(books.told)
    wanted = {
        (order.id, kind)
        for order in books.orders
        for kind in OUTCOMES[order.outcome].events & {"fulfilled", "cancelled"}
    }
    for order, kind in sorted(wanted | set(told)):
        count, expected = told[order, kind], int((order, kind) in wanted)
        if count != expected:
            yield f"{order}: the customer was told {kind} {count} times instead of {expected}"


def read_orders(path: Path, count: int | None = None) -> list[Order]:
    """The first `count` orders of the file, or all of them."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    return [_order(cast("dict[str, object]", json.loads(line))) for line in lines]


def _order(line: dict[str, object]) -> Order:
    order = cast("dict[str, object]", line["order"])
    items = cast("list[dict[str, object]]", order["items"])
    return Order(
        id=str(order["id"]),
        outcome=str(line["outcome"]),
        amount_cents=int(str(order["amount_cents"])),
        items={str(item["product"]): int(str(item["quantity"])) for item in items},
    )


async def balance(
    url: str, ledger: Path, orders: list[Order], *, namespace: str = "jetloom", patience: float = 0.0
) -> tuple[Books, list[str]]:
    """Reads and checks; again until there is no difference or `patience` seconds have passed.

    What a run causes outside its journal (letters, stock that leaves) follows a moment after its end.
    """
    from ._reading import read_books

    end = time.monotonic() + patience
    while True:
        books = await read_books(url, ledger, orders, namespace=namespace)
        wrong = check(books)
        if not wrong or time.monotonic() > end:
            return books, wrong
        await asyncio.sleep(POLL_SECONDS)


def totals(books: Books) -> list[tuple[str, str]]:
    """What the bookkeeper counted, for people."""
    charged = sum(each.amount_cents for each in books.movements if each.kind == "charge")
    refunded = sum(each.amount_cents for each in books.movements if each.kind == "refund")
    gone = sum(shelf.sold + sum(shelf.held.values()) for shelf in books.shelves.values())
    return [
        ("orders", str(len(books.orders))),
        ("runs that ended", str(sum(run.ends == 1 for run in books.runs))),
        ("undone steps", str(sum(len(run.undone) for run in books.runs))),
        ("events shop.order.*", str(len(books.facts))),
        ("charged", f"{charged / 100:,.2f}"),
        ("refunded", f"{refunded / 100:,.2f}"),
        ("pieces delivered", str(sum(each.delivered for each in books.shelves.values()))),
        ("pieces gone", str(gone)),
        ("letters to customers", str(len(books.told))),
    ]


def verdict(wrong: Iterable[str], *, lines_max: int = 20) -> list[str]:
    """The differences as lines to print; one line that says so when there is none."""
    wrong = list(wrong)
    if not wrong:
        return ["the books are right"]
    more = [f"  … and {len(wrong) - lines_max} more"] if len(wrong) > lines_max else []
    return [
        f"the books are wrong, {len(wrong)} differences:",
        *(f"  {each}" for each in wrong[:lines_max]),
        *more,
    ]


def main() -> int:
    """Prints the books. Returns 1 when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m services.demo.books", description="checks the shop's books"
    )
    parser.add_argument("--nats", default="nats://127.0.0.1:4222")
    parser.add_argument("--namespace", default="jetloom")
    parser.add_argument("--ledger", type=Path, required=True, help="the payment provider's SQLite file")
    parser.add_argument("--orders", type=Path, default=ORDERS)
    parser.add_argument("--count", type=int, default=None, help="only the first N orders were placed")
    parser.add_argument(
        "--patience", type=float, default=0.0, help="seconds in which the books may become right"
    )
    given = parser.parse_args()
    orders = read_orders(given.orders, given.count)
    books, wrong = asyncio.run(
        balance(given.nats, given.ledger, orders, namespace=given.namespace, patience=given.patience)
    )
    for name, value in totals(books):
        print(f"{name:<24} {value:>20}")
    print("\n".join(verdict(wrong)))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
