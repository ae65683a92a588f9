"""The demo's orders are what their generator makes."""

from __future__ import annotations

from services.demo.books import OUTCOMES, read_orders
from services.demo.generate import COUNT, FOLDER, make_orders, make_stock, to_lines


def test_committed_files_are_the_generated_ones() -> None:
    """orders.jsonl and stock.jsonl are what `python -m services.demo.generate` writes."""
    orders = make_orders()
    assert (FOLDER / "orders.jsonl").read_text(encoding="utf-8") == to_lines(orders)
    assert (FOLDER / "stock.jsonl").read_text(encoding="utf-8") == to_lines(make_stock(orders))


def test_every_outcome_comes_early() -> None:
    """A small demo meets every outcome that the bookkeeper knows."""
    path = FOLDER / "orders.jsonl"
    assert len(read_orders(path)) == COUNT
    assert {order.outcome for order in read_orders(path, 20)} == set(OUTCOMES)
