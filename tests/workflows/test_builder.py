"""The Python form is the YAML form: one model, the same checks."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest

from jetloom.errors import DefinitionInvalid
from jetloom.workflows import (
    Definition,
    Emit,
    Retry,
    Saga,
    Step,
    Wait,
    Workflow,
    check_definition,
    fingerprint,
    load_text,
)


class Order(msgspec.Struct):
    id: str


def test_built_is_loaded() -> None:
    """Every field that a step and a workflow can have."""
    built = (
        Workflow(
            "f",
            version="1.2",
            name="F",
            description="d",
            expose_to_ai=True,
            input_schema={"type": "object"},
            output_schema={"type": "integer"},
            output="${steps.b.n}",
            timeout=timedelta(minutes=5),
            retention="2h",
            labels={"team": "shop"},
            on_cancel="stop",
            events="lifecycle",
        )
        .step("a", uses="x.a", saga="x.undo", retry=Retry(max=5, backoff="constant"), name="A", timeout=3)
        .step(
            "b",
            uses="x.b@2",
            after="a",
            with_={"n": "${steps.a.n}"},
            when="input.go",
            max_retries=0,
            on_error="skip",
            saga=Saga("x.undo-b", is_critical=True, timeout=9.0),
            emit=[Emit("x.y", {"n": 1}, "k"), Emit("x.z")],
            output_schema={"type": "object"},
        )
        .step("c", after=["a", "b"], wait=Wait("m", timeout=60.0, on_timeout="skip"))
        .step("d", after=["c"], wait=Wait(for_="input.n"))
        .build()
    )
    [loaded] = load_text("""
id: f
version: "1.2"
name: F
description: d
expose_to_ai: true
input_schema: {type: object}
output_schema: {type: integer}
output: ${steps.b.n}
timeout: 5m
retention: 2h
labels: {team: shop}
on_cancel: stop
events: lifecycle
steps:
  - {id: a, name: A, uses: x.a, saga: {uses: x.undo}, retry: {max: 5, backoff: constant}, timeout: 3s}
  - id: b
    uses: x.b@2
    depends_on: a
    with: {n: "${steps.a.n}"}
    when: input.go
    retry: {max: 0}
    on_error: skip
    saga: {uses: x.undo-b, is_critical: true, timeout: 9s}
    emit: [{type: x.y, payload: {n: 1}, key: k}, {type: x.z}]
    output_schema: {type: object}
  - {id: c, depends_on: [a, b], wait: {message: m, timeout: 1m, on_timeout: skip}}
  - {id: d, depends_on: [c], wait: {for: "${input.n}"}}
""")
    assert built == loaded
    assert fingerprint(built) == fingerprint(loaded)


def test_a_type_stands_for_its_schema() -> None:
    """A struct as the input's schema refuses what a decoder of it would refuse."""
    built = Workflow("f", input_schema=Order).step("a", uses="x.a").build()
    assert built.input_schema is not None
    assert "Order" in str(built.input_schema)


def test_building_finds_everything() -> None:
    """All findings at once, as for a file."""
    with pytest.raises(DefinitionInvalid) as caught:
        Workflow("F!").step("a", uses="X", after="z").step("a", max_retries=1, retry=Retry(max=2)).build()
    text = str(caught.value)
    for part in ("is no id", "is no handler", "there is no step z", "stands there twice"):
        assert part in text


def test_a_definition_made_by_hand_can_be_checked() -> None:
    """Without building it."""
    assert check_definition(Definition("f", (Step("a", uses="x.a"),))) == []
    [found] = check_definition(Definition("f", (Step("a", uses="x.a", when="1 +"),)))
    assert found.path == "steps.a.when"
