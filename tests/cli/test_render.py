"""What people see."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from jetloom.cli import _render
from jetloom.cli._checks import Check
from jetloom.cli._events import EventLine, Letter
from jetloom.cli._workflows import StepRow, WorkflowRow
from jetloom.types import RunStatus
from tests.cli.fakes import LINES, NOW, order_view

if TYPE_CHECKING:
    from rich.console import RenderableType


def text_of(renderable: RenderableType) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(renderable)
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1, "0 ms"),
        (0.012, "12 ms"),
        (3.42, "3.4 s"),
        (310, "5 min 10 s"),
        (300, "5 min"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    """Two units at most."""
    assert _render.duration(seconds) == text


def test_a_run_shows_status_steps_and_what_it_waits_for() -> None:
    """The view has the attempts, the durations and the reason of the last failure, unmangled by markup."""
    text = text_of(_render.run_view(order_view(), now=NOW))
    for part in (
        "order-17",
        "order @ 1",
        "waiting",
        "1 min 15 s",
        "message payment",
        "500 ms",
        "payments.charge",
        "card.slow: the bank [did] not answer",
    ):
        assert part in text
    charge = next(line for line in text.splitlines() if line.startswith("charge"))
    assert charge.split()[:5] == ["charge", "running", "3", "1", "min"]


def test_an_ended_run_shows_how_long_it_took() -> None:
    """`took` instead of `running for`."""
    import msgspec

    view = msgspec.structs.replace(order_view(RunStatus.COMPLETED), ended_at=NOW - 70, output={"total": 42})
    text = text_of(_render.run_view(view, now=NOW))
    assert "5.0 s" in text
    assert '{"total":42}' in text
    assert "running for" not in text


def test_a_journal_has_one_line_for_each_record() -> None:
    """Ordinal, time and engine stand once for each entry."""
    lines = text_of(_render.journal(LINES)).splitlines()
    assert len(lines) == 3
    assert lines[0].split()[0] == "1"
    assert lines[1].endswith("step reserve started (attempt 1, in the engine)")
    assert lines[2].strip() == 'step reserve completed: {"ok":true}'
    assert text_of(_render.journal([])) == "no entries\n"


def test_empty_tables_say_so() -> None:
    """Nothing found is said, with what to do where there is something."""
    assert text_of(_render.run_table([], now=NOW)) == "no runs\n"
    assert "jetloom run FOLDER" in text_of(_render.workflow_table([]))
    assert text_of(_render.dead_letter_table([], now=NOW)) == "no dead letters\n"


def test_a_workflow_shows_its_steps() -> None:
    """Each step with its handler, what it comes after, and its undo."""
    row = WorkflowRow(
        "order",
        "2",
        "ab" * 32,
        NOW,
        description="fulfil",
        steps=(
            StepRow("reserve", "inventory.reserve", undo="inventory.release"),
            StepRow("charge", "payments.charge", ("reserve",)),
        ),
        input_schema={"type": "object"},
    )
    text = text_of(_render.workflow_view(row))
    assert "inventory.release" in text
    assert '{"type":"object"}' in text
    assert next(line for line in text.splitlines() if line.startswith("charge")).split()[2] == "reserve"
    assert row.handlers() == {"inventory.reserve", "inventory.release", "payments.charge"}
    assert "order" in text_of(_render.workflow_table([row]))


def test_events_and_dead_letters() -> None:
    """An event is one line; a dead letter has its reason, headers and payload."""
    event = EventLine(7, "shop.order.placed", "e-1", "web", NOW, payload={"id": 17})
    assert text_of(_render.event_line(event)).rstrip().endswith('shop.order.placed  e-1  {"id":17}')
    letter = Letter(
        3,
        NOW - 5,
        "orders",
        "placed",
        "exception.ValueError",
        "x",
        "retryable",
        "jetloom.events.shop.order.placed",
        7,
        4,
        {"ce-id": "e-1"},
        "Traceback …",
        payload={"id": 17},
    )
    assert "exception.ValueError: x" in text_of(_render.dead_letter_table([letter], now=NOW))
    view = text_of(_render.dead_letter_view(letter))
    assert "ce-id" in view
    assert "sequence 7, delivered 4 times" in view
    assert "Traceback" in view
    assert '{"id":17}' in view


def test_checks_have_their_hints_below() -> None:
    """A failed check says what to do."""
    text = text_of(_render.check_table([Check("engines", "fail", "no engine runs", "start one")]))
    assert text.splitlines()[0].split() == ["fail", "engines", "no", "engine", "runs"]
    assert "→ start one" in text


def test_long_values_are_cut() -> None:
    """What is cut says how much there is."""
    assert "(10002 characters; --json prints all)" in _render.value_text("x" * 10_000)
