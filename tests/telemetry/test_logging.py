"""Log lines have a constant message and data in fields."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import msgspec
import pytest

from jetloom.telemetry import Context, get_logger, setup_logging, use


@pytest.fixture(autouse=True)
def _root_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines_have_fields() -> None:
    """A line names module, run and step of the context, and what `extra` gave."""
    out = io.StringIO()
    setup_logging("INFO", "json", stream=out)
    with use(Context(module="orders", run="order-1", step="reserve")):
        get_logger("bus").info("event failed", extra={"sequence": 7, "error": ValueError("x")})
        get_logger("bus").debug("not said")
    line = msgspec.json.decode(out.getvalue(), type=dict[str, object])
    assert line.pop("time")
    assert line == {
        "level": "info", "logger": "jetloom.bus", "message": "event failed", "module": "orders",
        "run": "order-1", "step": "reserve", "sequence": 7, "error": "x",
    }  # fmt: skip


def test_text_lines_are_for_people() -> None:
    """The text form has the same fields, and the stack of an error."""
    out = io.StringIO()
    setup_logging("warning", "text", stream=out)
    try:
        raise ValueError("no")
    except ValueError:
        get_logger("bus").exception("it broke", extra={"handler": "placed"})
    first, *stack = out.getvalue().splitlines()
    assert first.endswith("ERROR   jetloom.bus: it broke  handler=placed")
    assert stack[-1] == "ValueError: no"
