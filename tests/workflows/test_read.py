"""Reading fields: each mistake is found once, at its field, and a field that would be ignored is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from jetloom.workflows import (
    Definition,
    Finding,
    Retry,
    Saga,
    Step,
    Wait,
    check_definition,
    check_text,
    fingerprint,
    load_file,
    load_text,
)

DATA = Path(__file__).parent / "data"

STEP = "id: w\nsteps:\n  - id: a\n    uses: x.y\n"


def findings_of(text: str) -> list[Finding]:
    return check_text(text, "w.yaml").findings


def test_every_field_is_read() -> None:
    """A file with every field gives the model, durations in seconds."""
    (found,) = load_file(DATA / "everything.yaml")
    assert (found.version, found.timeout, found.retention) == ("2026.11", 5400.0, 172_800.0)
    assert (found.on_cancel, found.events, found.expose_to_ai) == ("stop", "lifecycle", True)
    user, reserve = found.step("fetch-user"), found.step("reserve")
    assert user.uses == "users.fetch@2"
    assert user.retry == Retry(5, "constant", 0.5, 10.0, 0.0)
    assert reserve.depends_on == ("fetch-user",)
    assert reserve.retry == Retry(max=1)
    assert reserve.saga == Saga("inventory.release", True, Retry(max=9), 5.0)
    assert [(emit.type, emit.key) for emit in reserve.emit] == [
        ("shop.order.reserved", "reserved-${output.id}")
    ]
    approve, pause = found.step("approve").wait, found.step("pause").wait
    assert approve is not None
    assert (approve.message, approve.timeout, approve.on_timeout) == ("approved", 86_400.0, "skip")
    assert pause is not None
    assert pause.for_ == "input.delay"


def test_the_stored_form_is_read_too() -> None:
    """JSON is YAML: a definition that was written out comes back as the same one."""
    (found,) = load_file(DATA / "everything.yaml")
    (again,) = load_text(msgspec.json.encode(found).decode())
    assert again == found
    assert fingerprint(again) == fingerprint(found)


@pytest.mark.parametrize(
    ("text", "path", "message", "suggestion"),
    [
        ("steps: [{id: a, uses: x.y}]", "", "id is missing", "write id:"),
        ("id: w", "", "steps is missing", "write steps:"),
        ("id: w\nsteps: []", "steps", "at least one step", ""),
        ("id: w\nsteps: {a: {uses: x.y}}", "steps", "expected a list of steps", "- id:"),
        ("id: w\nsteps: [a]", "steps[0]", "expected a step", "- id:"),
        ("id: w\nsteps: [{uses: x.y}]", "steps[0]", "id is missing", ""),
        ("id: My Flow\nsteps: [{id: a, uses: x.y}]", "id", "is no id", "write my-flow"),
        (
            "id: w\nversion: 1.10\nsteps: [{id: a, uses: x.y}]",
            "version",
            "the number 1.10",
            'write version: "1.10"',
        ),
        ("id: w\nversion: a b\nsteps: [{id: a, uses: x.y}]", "version", "is no version", ""),
        (
            "id: w\nexpose_to_ai: yes\nsteps: [{id: a, uses: x.y}]",
            "expose_to_ai",
            "expected true or false",
            "write true",
        ),
        ("id: w\nlabels: {a: 1}\nsteps: [{id: a, uses: x.y}]", "labels.a", "expected text", 'write a: "1"'),
        (
            "id: w\non_cancel: compnsate\nsteps: [{id: a, uses: x.y}]",
            "on_cancel",
            "compensate or stop",
            "did you mean compensate?",
        ),
        ("id: w\ntimeout: 0\nsteps: [{id: a, uses: x.y}]", "timeout", "above 0", ""),
        ("id: w\ninput_schema: []\nsteps: [{id: a, uses: x.y}]", "input_schema", "expected a mapping", ""),
        ("id: w\noutput: ${steps.b.x}\nsteps: [{id: a, uses: x.y}]", "output", "no step b", "steps are a"),
        (
            "id: w\noutput: ${run.idd}\nsteps: [{id: a, uses: x.y}]",
            "output",
            "no run.idd",
            "did you mean id?",
        ),
        (STEP + "    depends_on: a\n", "steps.a.depends_on", "depends on itself", ""),
        (STEP + "  - {id: b, uses: x.y, depends_on: [a, a]}\n", "steps.b.depends_on", "named twice", ""),
        (
            STEP + "  - {id: b, uses: x.y, depends_on: [3]}\n",
            "steps.b.depends_on",
            "expected the id of a step",
            "",
        ),
        (STEP + "    when: true && \n", "steps.a.when", "ends too early", ""),
        (STEP + "    when: ${input.x}\n", "steps.a.when", "an expression already", "write input.x"),
        (STEP + "    with: 3\n", "steps.a.with", "expected a mapping", ""),
        (STEP + '    with: {"${input.x}": 3}\n', "steps.a.with", "can't hold an expression", ""),
        (STEP + "    with: {x: '${steps.a.y}'}\n", "steps.a.with.x", "its own output", ""),
        (STEP + "    with: {x: ['${steps.b.y}']}\n", "steps.a.with.x[0]", "no step b", ""),
        (STEP + "    retry: 3\n", "steps.a.retry", "expected a mapping", "write retry: {max: 3}"),
        (STEP + "    retry: {max: -1}\n", "steps.a.retry.max", "whole number from 0", ""),
        (STEP + "    retry: {maxx: 1}\n", "steps.a.retry.maxx", "unknown field", "did you mean max?"),
        (STEP + "    retry: {jitter: 20}\n", "steps.a.retry.jitter", "from 0 to 1", ""),
        (STEP + "    max_retries: 1.5\n", "steps.a.max_retries", "whole number", ""),
        (STEP + "    saga: x.z\n", "steps.a.saga", "expected a mapping", "write saga: {uses: x.z}"),
        (STEP + "    saga: {is_critical: true}\n", "steps.a.saga", "uses is missing", ""),
        (STEP + "    wait: {for: 5m}\n", "steps.a.wait", "waits or uses", ""),
        (STEP + "    emit: a.b\n", "steps.a.emit", "expected a mapping", "write emit: {type: a.b}"),
        (STEP + "    emit: {type: paid}\n", "steps.a.emit.type", "is no event type", ""),
        (STEP + "    emit: {payload: 1}\n", "steps.a.emit", "type is missing", ""),
        (
            STEP + "    emit: [{type: a.b, key: k}, {type: a.b, key: k}]\n",
            "steps.a.emit",
            "emitted twice",
            "",
        ),
        (STEP + "  - {id: b, wait: 5m}\n", "steps.b.wait", "expected a mapping", "write wait: {for: 5m}"),
        (STEP + "  - {id: b, wait: {}}\n", "steps.b.wait", "message or for is missing", ""),
        (STEP + "  - {id: b, wait: {message: m, for: 5m}}\n", "steps.b.wait.for", "not both", ""),
        (STEP + "  - {id: b, wait: {for: 12:30:00}}\n", "steps.b.wait.for", "expected a duration", ""),
        (
            STEP + "  - {id: b, wait: {message: m, on_timeout: skip}}\n",
            "steps.b.wait.on_timeout",
            "without timeout",
            "",
        ),
        (STEP + "  - {id: b, with: {}, timeout: 5s}\n", "steps.b.timeout", "does nothing", ""),
        (
            "id: w\nsteps:\n  - {id: a, uses: Orders Reserve}\n",
            "steps.a.uses",
            "is no handler",
            "orders_reserve",
        ),
        ("id: w\nsteps:\n  - {id: a, uses: x.y@}\n", "steps.a.uses", "is no version", "x.y@1"),
    ],
)
def test_a_mistake_is_one_finding(text: str, path: str, message: str, suggestion: str) -> None:
    """Each mistake is found once, at its field."""
    (found,) = findings_of(text)
    assert found.path == path
    assert message in found.message
    assert suggestion in found.suggestion
    assert found.line >= 1
    assert found.column >= 1


@pytest.mark.parametrize(
    "text",
    [
        "id: w\nkind: pipeline\nsteps: [{id: a, uses: x.y}]\n",
        "id: w\nconcurrency: 3\nsteps: [{id: a, uses: x.y}]\n",
        "id: w\nrate_limit: 3\nsteps: [{id: a, uses: x.y}]\n",
        "id: w\npriority: 3\nsteps: [{id: a, uses: x.y}]\n",
        "id: w\nsteps: [{id: a, uses: 'nats:prices.quote'}]\n",
        "id: w\nsteps: [{id: a, wait: {until: x}}]\n",
        *(
            f"{STEP}    {field}: x\n"
            for field in (
                "foreach",
                "max_parallel",
                "workflow",
                "stop",
                "fallback",
                "escalation",
                "unknown_outcome",
            )
        ),
    ],
)
def test_what_this_version_does_not_run_is_a_finding(text: str) -> None:
    """A field that would be ignored is refused."""
    (found,) = findings_of(text)
    assert "is not supported yet by this version" in found.message


def test_a_cycle_is_named() -> None:
    """The finding shows the way round, and who waits behind it is told so."""
    found = findings_of(
        "id: w\nsteps:\n"
        "  - {id: a, uses: x.y, depends_on: c}\n"
        "  - {id: b, uses: x.y, depends_on: [a]}\n  - {id: c, uses: x.y, depends_on: [b]}\n"
        "  - {id: d, uses: x.y, depends_on: [c]}\n  - {id: e, uses: x.y}\n"
    )
    assert [(each.line, each.path) for each in found] == [(3, "steps.a.depends_on"), (6, "steps.d")]
    assert "a → c → b → a" in found[0].message
    assert "never reached" in found[1].message


def test_a_reference_may_go_through_others() -> None:
    """A step reads any step that it depends on, directly or not, and no other."""
    chain = (
        STEP
        + "  - {id: b, uses: x.y, depends_on: a}\n  - {id: c, depends_on: b, with: {x: '${steps.a.x}'}}\n"
    )
    assert findings_of(chain) == []
    (found,) = findings_of(chain + "  - {id: d, depends_on: a, with: {x: '${steps.b.x}'}}\n")
    assert found.message == "d reads steps.b, but doesn't depend on it"
    assert found.suggestion == "add b to depends_on of d"


def test_a_closed_input_schema_is_believed() -> None:
    """Where the schema allows no other fields, reading another one is a mistake."""
    schema = "input_schema: {properties: {order: {}}, additionalProperties: %s}\n"
    text = STEP + "    with: {x: '${input.ordr}'}\n"
    assert findings_of(schema % "true" + text) == []
    (found,) = findings_of(schema % "false" + text)
    assert (found.message, found.suggestion) == ("there is no input.ordr", "did you mean order?")


@pytest.mark.parametrize("reading", ['steps["fetch-user"].name', "has(steps['fetch-user'].name)"])
def test_a_hyphen_is_written_in_brackets(reading: str) -> None:
    """With a dot it would subtract, which is found wherever it stands."""
    text = "id: w\nsteps:\n  - {id: fetch-user, uses: x.y}\n"
    text += "  - id: b\n    uses: x.y\n    depends_on: fetch-user\n    when: "
    assert findings_of(text + reading) == []
    for wrong in ("steps.fetch-user.name", "steps.fetch-user.name == 'x'", "has(steps.fetch-user.name)"):
        (found,) = findings_of(text + wrong)
        assert found.suggestion == 'write steps["fetch-user"]'


def test_a_default_that_is_written_out_is_no_mistake() -> None:
    """What was built by hand with every default comes back from its stored form."""
    definition = Definition("w", (Step("a", wait=Wait(message="m"), retry=Retry()),))
    assert load_text(msgspec.json.encode(definition).decode()) == [definition]
    assert check_definition(definition) == []
