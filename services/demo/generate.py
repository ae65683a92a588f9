"""`python -m services.demo.generate`: writes orders.jsonl and stock.jsonl, always the same ones."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from services.provider import Card

SEED = 20_260
COUNT = 300
FOLDER = Path(__file__).parent

PRICES_CENTS = {"mug": 1_200, "tee": 2_400, "cap": 1_900, "pen": 350, "bag": 2_800, "poster": 1_500}
SOLD_OUT = "unicorn"
"""Nobody delivers it: out of stock whatever the order of things."""
COUNTRIES = ("AT", "BE", "CH", "DE", "FR", "IT", "NL", "PL")
NOBODY_GOES_TO = "AQ"
LONG_ADDRESS = "The third house behind the old mill, beyond the river, second door on the left, ring twice"

KINDS: list[tuple[str, Card, int]] = [
    ("declined", Card.DECLINED, 32),
    ("out_of_stock", Card.OK, 24),
    ("charged_but_timed_out", Card.TIMEOUT, 24),
    ("charged_but_timed_out", Card.LOST, 12),
    ("shipping_refused", Card.OK, 14),
    ("label_refused", Card.OK, 10),
    ("fulfilled", Card.BUSY, 14),
    ("fulfilled", Card.SLOW, 20),
]
"""Outcome, card, and how many of the 300. The rest is fulfilled without further ado."""


def make_orders() -> list[dict[str, Any]]:
    """Each with the outcome expected. Among the first 20 are all kinds."""
    dice = random.Random(SEED)
    first = [(outcome, card) for outcome, card, _ in KINDS]
    rest = [(outcome, card) for outcome, card, count in KINDS for _ in range(count - 1)]
    first += [("fulfilled", Card.OK)] * (20 - len(first))
    rest += [("fulfilled", Card.OK)] * (COUNT - len(first) - len(rest))
    dice.shuffle(first)
    dice.shuffle(rest)
    return [_order(dice, number, *kind) for number, kind in enumerate(first + rest, 1)]


def _order(dice: random.Random, number: int, outcome: str, card: Card) -> dict[str, Any]:
    products = dice.sample(sorted(PRICES_CENTS), dice.randint(1, 3))
    quantities = {product: dice.randint(1, 4) for product in products}
    cents = sum(PRICES_CENTS[product] * quantity for product, quantity in quantities.items())
    if outcome == "out_of_stock":
        # Sorted last, so that what stands before it is taken and has to be given back.
        quantities[SOLD_OUT] = 1
    guest = dice.random() < 0.1
    order: dict[str, Any] = {
        "id": f"A{number:04}",
        "customer": f"guest-{number}" if guest else f"c-{dice.randint(1, 80):02}",
        "card": card.value,
        "country": NOBODY_GOES_TO if outcome == "shipping_refused" else dice.choice(COUNTRIES),
        "address": LONG_ADDRESS if outcome == "label_refused" else f"{dice.randint(1, 99)} Loom Street",
        "amount_cents": cents,
        "items": [{"product": product, "quantity": quantity} for product, quantity in quantities.items()],
    }
    return {"outcome": outcome, "order": order}


def make_stock(orders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Deliveries that are enough for all orders at once: only the unicorn can be out of stock."""
    wanted = Counter[str]()
    for line in orders:
        for item in line["order"]["items"]:
            wanted[item["product"]] += item["quantity"]
    deliveries: list[dict[str, Any]] = []
    for product in sorted(PRICES_CENTS):
        half = (wanted[product] + 1) // 2 + 5
        deliveries += [
            {"id": f"{product}-{part}", "product": product, "quantity": half} for part in ("first", "second")
        ]
    return deliveries


def to_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def main() -> None:
    orders = make_orders()
    (FOLDER / "orders.jsonl").write_text(to_lines(orders), encoding="utf-8")
    (FOLDER / "stock.jsonl").write_text(to_lines(make_stock(orders)), encoding="utf-8")
    print(dict(Counter(line["outcome"] for line in orders)))


if __name__ == "__main__":
    main()
