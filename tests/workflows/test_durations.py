"""Durations as people write them."""

from __future__ import annotations

import pytest

from jetloom.workflows import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("5m", 300.0), ("1h30m", 5400.0), ("500ms", 0.5), ("2d", 172_800.0), ("1.5s", 1.5),
     ("1m500ms", 60.5), (" 1s ", 1.0), ("1d2h3m4s5ms", 93_784.005)],
)  # fmt: skip
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    """Units go from the largest to the smallest."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5 minutes", "30m1h", "1h 30m", "-5s", "s", "1S", "٣s", "1e3s"])
def test_anything_else_is_none(text: str) -> None:
    """A unit is never guessed."""
    assert parse_duration(text) is None
