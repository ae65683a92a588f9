"""All mistakes of a text at once, each with its place and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetloom.errors import DefinitionInvalid
from jetloom.workflows import check_text, load_text

MISTAKES = Path(__file__).parent / "data" / "ten_mistakes.yaml"


def shown(text: str) -> list[str]:
    return [str(finding) for finding in check_text(text, "f.yaml").findings]


def test_ten_mistakes_are_ten_findings() -> None:
    """Each has file, line, column, path, and a suggestion."""
    checked = check_text(MISTAKES.read_text(encoding="utf-8"), "shop.yaml")
    assert checked.definitions == []
    found = checked.findings
    assert [(finding.line, finding.column, finding.suggestion) for finding in found] == [
        (2, 1, "did you mean version?"),
        (3, 12, "write 1h or more"),
        (7, 17, "did you mean string?"),
        (11, 14, "write 30s, 5m, 1h30m, 500ms or seconds"),
        (14, 18, "did you mean reserve?"),
        (18, 5, "keep one of them"),
        (23, 15, 'write steps["fetch-user"]'),
        (24, 29, "complete it as CEL, such as input.total > 100"),
        (25, 9, "give every step an id of its own"),
        (30, 17, "add ship to depends_on of invoice"),
    ]
    assert all(finding.file == "shop.yaml" and finding.path and finding.message for finding in found)


@pytest.mark.parametrize(
    ("step", "place", "message", "suggestion"),
    [
        ("{id: Pay It, uses: x.y}", "3:10", "'Pay It' is no id", "write pay-it"),
        ("{id: a, uses: Payments.Charge}", "3:19", "is no handler", "write payments.charge"),
        ("{id: a, uses: nats:orders.x}", "3:19", "not supported yet", "serve it as a handler"),
        ("{id: a, uses: x.y, wait: {for: 1s}}", "3:24", "a step waits or uses a handler", "step of its own"),
        (
            "{id: a, wait: {message: m, on_timeout: skip}}",
            "3:32",
            "without timeout never",
            "write timeout: 1h",
        ),
        ("{id: a, wait: {until: tomorrow}}", "3:20", "not supported yet", "leave it out"),
        ("{id: a, uses: x.y, emit: {type: paid}}", "3:37", "is no event type", "shop.order.paid"),
        ("{id: a, uses: x.y, on_error: skipp}", "3:34", "expected fail or skip", "did you mean skip?"),
        ("{id: a, uses: x.y, retry: 5}", "3:31", "expected a mapping", "write retry: {max: 5}"),
        ("{id: a, uses: x.y, depends_on: a}", "3:36", "a depends on itself", "leave it out"),
        ("{id: a}", "3:5", "this step does nothing", "write uses, wait, emit or with"),
        ("{id: a, uses: x.y, foreach: '${input}'}", "3:24", "not supported yet", "leave it out"),
        ("{id: a, uses: x.y, when: '${input.x}'}", "3:30", "an expression already", "write input.x"),
        ("{id: a, uses: x.y, when: run.ids > 1}", "3:34", "there is no run.ids", "did you mean id?"),
        ("{id: a, uses: x.y, with: {b: '${steps.a}'}}", "3:34", "reads its own output", "in emit"),
        ("{id: a, uses: x.y, output_schema: {type: strin}}", "3:46", "bad schema", "did you mean string?"),
        ("{uses: x.y}", "3:5", "id is missing", "every step has an id"),
        ("just text", "3:5", "expected a step", "begin each step with - id:"),
    ],
)
def test_a_mistake_says_where_and_what_to_write(step: str, place: str, message: str, suggestion: str) -> None:
    """One mistake is one finding."""
    [found] = check_text(f"id: f\nsteps:\n  - {step}\n", "f.yaml").findings
    assert f"{found.line}:{found.column}" == place
    assert message in found.message
    assert suggestion in found.suggestion


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("kind: pipeline", "not supported yet"),
        ("concurrency: 3", "not supported yet"),
        ("rate_limit: 3", "not supported yet"),
        ("priority: 3", "not supported yet"),
        ("retention: 5m", "expected at least 1 h"),
        ("version: 2", "expected text, found the number 2"),
        ("timeout: soon", "expected a duration"),
        ("labels: {a: 1}", "expected text"),
        ("on_cancel: undo", "expected compensate or stop"),
        ("expose_to_ai: yes", "expected true or false"),
        ("output: ${steps.b.x}", "there is no step b to read"),
    ],
)
def test_fields_of_the_workflow_are_checked(field: str, message: str) -> None:
    """Unknown values are refused where they stand."""
    [found] = check_text(f"id: f\n{field}\nsteps: [{{id: a, uses: x.y}}]\n").findings
    assert found.line == 2
    assert message in found.message


def test_a_cycle_is_named() -> None:
    """It is one finding, which names its steps; who waits for it is told, too."""
    text = (
        "id: f\nsteps:\n"
        "  - {id: a, uses: x.y, depends_on: [c]}\n"
        "  - {id: b, uses: x.y, depends_on: [a]}\n"
        "  - {id: c, uses: x.y, depends_on: [b]}\n"
        "  - {id: d, uses: x.y, depends_on: [c]}\n"
    )
    cycle, behind = shown(text)
    assert all(f"{step} →" in cycle for step in "abc")
    assert behind.startswith("f.yaml:6:10: steps.d: d is never reached")


def test_a_dependency_by_way_of_others_may_be_read() -> None:
    """Only a step that is not waited for at all is out of reach."""
    text = (
        "id: f\nsteps:\n"
        "  - {id: a, uses: x.y}\n"
        "  - {id: b, uses: x.y, depends_on: a}\n"
        "  - {id: c, uses: x.y, depends_on: b, with: {v: '${steps.a.n}'}}\n"
        "output: ${steps.a.n}\n"
    )
    assert shown(text) == []


@pytest.mark.parametrize("separator", ["documents", "list"])
def test_a_text_may_hold_several(separator: str) -> None:
    """As documents, or listed under `workflows`."""
    one, other = "{id: f, steps: [{id: a, uses: x.y}]}", "{id: g, steps: [{id: a, uses: x.y}]}"
    text = f"{one}\n---\n{other}\n" if separator == "documents" else f"workflows:\n  - {one}\n  - {other}\n"
    assert [definition.id for definition in load_text(text)] == ["f", "g"]


def test_one_of_several_may_be_sound() -> None:
    """A mistake in one definition leaves the other one readable, but nothing is loaded."""
    text = "id: f\nsteps: [{id: a, uses: x.y}]\n---\nid: g\nsteps: []\n"
    checked = check_text(text)
    assert [definition.id for definition in checked.definitions] == ["f"]
    with pytest.raises(DefinitionInvalid) as caught:
        load_text(text, "shop.yaml")
    assert caught.value.fields["findings"] == ["shop.yaml:5:8: steps: a workflow has at least one step"]


def test_the_same_version_twice_is_refused() -> None:
    """One id and version is one definition."""
    one = "id: f\nsteps: [{id: a, uses: x.y}]\n"
    [found] = shown(f"{one}---\n{one}")
    assert "f version 1 stands there twice, first on line 1" in found


def test_an_empty_text_is_a_finding() -> None:
    """Nothing to load is not silently nothing."""
    assert "there is no workflow" in shown("")[0]


def test_conveniences_are_the_long_forms() -> None:
    """`depends_on` as a text, `max_retries`, one event without a list, durations with units."""
    [short] = load_text(
        "id: f\nsteps:\n  - {id: a, uses: x.y}\n"
        "  - {id: b, uses: x.y, depends_on: a, max_retries: 5, timeout: 1m30s, emit: {type: a.b}}\n"
    )
    [long] = load_text(
        "id: f\nsteps:\n  - {id: a, uses: x.y}\n"
        "  - {id: b, uses: x.y, depends_on: [a], retry: {max: 5}, timeout: 90, emit: [{type: a.b}]}\n"
    )
    assert short == long
