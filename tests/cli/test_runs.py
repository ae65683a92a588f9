"""`jetloom start` and `jetloom runs`."""

from __future__ import annotations

import msgspec
import pytest

from jetloom.runtime import JournalLine, RunSummary
from tests.cli.conftest import ErrorDocument, Run, World


class Page(msgspec.Struct):
    runs: list[RunSummary]
    next: int


def test_start_prints_the_run(run: Run, world: World) -> None:
    """A started run is named; in JSON mode with its incarnation."""
    assert run("start", "order", "--input", '{"id": 1}', "--id", "a").out == "run a started\n"
    assert run("start", "order", "--input", '{"id": 1}', "--id", "a").out == "run a exists already\n"
    ended = run("start", "order", "--input", '{"id": 2}', "--id", "b", "--json")
    assert ended.json() == {"run": "b", "inc": 12, "started": True}


def test_start_with_wait_prints_the_output(run: Run, world: World) -> None:
    """Only the output goes to stdout, so that it can be piped."""
    ended = run("start", "order", "--input", '{"id": 1}', "--wait")
    assert ended.code == 0
    assert ended.json() == {"total": 42}
    assert ended.err == "run generated started\n"
    ended = run("start", "order", "--input", '{"id": 1}', "--wait", "--json")
    assert ended.json() == {
        "run": "generated",
        "inc": 12,
        "started": False,
        "status": "completed",
        "output": {"total": 42},
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("start", "ordr", "--input", '{"id": 1}'), 3, "no workflow 'ordr'; registered are: order"),
        (("start", "order", "--input", "{}"), 2, "does not fit its schema: /: id is required"),
        (
            ("start", "order", "--input", '{"id": 18}', "--id", "order-17"),
            4,
            "exists with another workflow or input",
        ),
        (("start", "order", "--timeout", "3s"), 2, "add --wait"),
        (("start", "order", "--label", "a"), 2, "name=value"),
        (
            ("start", "order", "--input", '{"id": 1}', "--id", "failed-1", "--wait"),
            1,
            "card.declined: the bank said no",
        ),
        (("runs", "show", "lost"), 3, "no run 'lost'"),
        (("runs", "journal", "lost"), 3, "no run 'lost'"),
        (("runs", "tail", "lost"), 3, "no run 'lost'"),
        (("runs", "cancel", "lost"), 3, "no run 'lost'"),
        (("runs", "result", "order-17", "--timeout", "1s"), 124, "did not end within 1 s; it goes on"),
        (("runs", "list", "--limit", "0"), 2, "--limit 0"),
    ],
)
def test_errors_have_their_code_and_say_what_to_do(
    words: tuple[str, ...], code: int, message: str, run: Run, world: World
) -> None:
    """What a user did wrong is an exit code and a sentence on stderr."""
    ended = run(*words)
    assert ended.code == code
    assert ended.out == ""
    assert message in ended.err
    assert ended.err.startswith("error: ") or "\nerror: " in ended.err


def test_a_run_that_failed_ends_the_waiting_with_1(run: Run, world: World) -> None:
    """So does one that was cancelled; in JSON mode the error is the document."""
    world.workflows.runs["cancelled-1"] = None
    ended = run("runs", "result", "cancelled-1", "--json")
    assert ended.code == 1
    assert ended.read(ErrorDocument).error.code == "run.cancelled"


def test_list_pages(run: Run, world: World) -> None:
    """A page ends with the cursor of the next one."""
    world.workflows.runs["second"] = None
    ended = run("runs", "list", "--limit", "1")
    assert "order-17" in ended.out
    assert ended.err == "more: add --after 1\n"
    page = run("runs", "list", "--limit", "1", "--after", "1", "--json").read(Page)
    assert [row.run for row in page.runs] == ["second"]
    assert page.next == 0


def test_journal_and_tail(run: Run, world: World) -> None:
    """The journal is one document, the tail JSON lines."""
    journal = run("runs", "journal", "order-17", "--json").read(list[JournalLine])
    assert [line.n for line in journal] == [1, 2]
    lines = run("runs", "tail", "order-17", "--json").out.splitlines()
    assert [msgspec.json.decode(line, type=JournalLine).n for line in lines] == [1, 2]
    assert "step reserve completed" in run("runs", "tail", "order-17", "--after", "1").out


def test_cancel_message_and_action_reach_the_run(run: Run, world: World) -> None:
    """What was asked for is passed on with its options."""
    assert (
        run("runs", "cancel", "order-17", "--reason", "late", "--no-compensate").out
        == "run order-17: cancel requested\n"
    )
    assert run("runs", "message", "order-17", "paid", '{"by": 1}').code == 0
    assert run("runs", "action", "order-17", "retry", "--step", "charge", "--json").json() == {
        "run": "order-17",
        "action": "retry",
    }
    assert world.workflows.asked == [
        ("cancel", "order-17", "late", "False"),
        ("message", "order-17", "paid", '{"by":1}'),
        ("action", "order-17", "retry", "charge"),
    ]
    ended = run("runs", "cancel", "order-17", "--wait", "--timeout", "1s")
    assert ended.code == 124


def test_nothing_is_sent_to_a_run_that_has_ended(run: Run, world: World) -> None:
    """A message and an action are refused by name; a cancel says how the run ended, and is no error."""
    world.workflows.runs["completed-1"] = None
    for words in (("message", "completed-1", "paid"), ("action", "completed-1", "retry")):
        ended = run("runs", *words)
        assert ended.code == 4
        assert "run 'completed-1' has ended (completed)" in ended.err
    ended = run("runs", "cancel", "completed-1")
    assert (ended.code, ended.out) == (0, "run completed-1 has ended already: completed\n")
    assert world.workflows.asked == []
