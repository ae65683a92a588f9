"""Journal records in words."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from jetloom.cli._records import TEXT_CHARACTERS_MAX, record_text
from jetloom.messages import Record
from jetloom.types import JSON


def test_every_record_kind_has_a_sentence() -> None:
    """No kind of record that the journal knows is printed raw, even with none of its optional fields."""
    kinds = [
        msgspec.inspect.type_info(kind)
        for kind in get_args(Record.__value__ if hasattr(Record, "__value__") else Record)
    ]
    tags = [kind.tag for kind in kinds if isinstance(kind, msgspec.inspect.StructType)]
    assert len(tags) > 25
    for tag in tags:
        text = record_text({"t": str(tag)})
        assert text
        assert not text.startswith(f"{tag} {{"), tag


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (
            {"t": "started", "step": "charge", "attempt": 2, "where": "task"},
            "step charge started (attempt 2, as a task)",
        ),
        (
            {
                "t": "failed",
                "step": "charge",
                "attempt": 1,
                "error": {"code": "card.slow", "message": "x"},
                "next": "retry",
            },
            "step charge attempt 1 failed: card.slow: x → retry",
        ),
        ({"t": "undoing", "plan": ["b", "a"]}, "rollback begins: b, a"),
        ({"t": "finished", "status": "completed", "output": {"a": 1}}, 'run completed: {"a":1}'),
        ({"t": "finished", "status": "failed", "error": {"code": "x", "message": "y"}}, "run failed: x: y"),
        (
            {"t": "cancelled", "id": "1", "reason": "late", "actor": {"kind": "human", "id": "kim"}},
            "cancel asked for by human:kim: late",
        ),
        ({"t": "brand_new", "a": 1}, 'brand_new {"a":1}'),
    ],
)
def test_a_record_reads_as_a_sentence(record: dict[str, JSON], text: str) -> None:
    """One record is one line; an unknown kind is printed as it is."""
    assert record_text(record) == text


def test_long_values_are_cut() -> None:
    """A large output does not fill the screen."""
    text = record_text({"t": "completed", "step": "a", "output": "x" * 10_000})
    assert len(text) == TEXT_CHARACTERS_MAX + 1
