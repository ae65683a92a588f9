"""What an engine asks of a definition: inputs, conditions, events, waits, output, schemas."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import TypedDict

import pytest

from jetloom.errors import ExpressionFailed, SchemaMismatch
from jetloom.types import JSON
from jetloom.workflows import Compiled, Definition, Emit, Step, Wait, compile_definition, load_text


class Scope(TypedDict):
    input: JSON
    outputs: Mapping[str, JSON]
    trigger: JSON
    run: dict[str, JSON]


def scope(input: JSON = None, **outputs: JSON) -> Scope:
    return {
        "input": input,
        "outputs": outputs,
        "trigger": None,
        "run": {"id": "r1", "workflow": "f", "labels": {}},
    }


def compiled(*steps: Step, output: JSON = None) -> Compiled:
    return compile_definition(Definition("f", steps, output=output))


class View(Mapping[str, JSON]):
    """Outputs as an engine holds them: no dict, and never walked."""

    def __init__(self, **outputs: JSON) -> None:
        self._outputs = outputs

    def __getitem__(self, step: str) -> JSON:
        return self._outputs[step]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("outputs were walked")

    def __len__(self) -> int:
        raise AssertionError("outputs were counted")


def test_input_without_with() -> None:
    """The run's input, the one dependency's output, or several by id; null for one that was skipped."""
    flow = compiled(
        Step("a", uses="x.a"),
        Step("b", uses="x.b", depends_on=("a",)),
        Step("c", uses="x.c", depends_on=("a", "b")),
    )
    assert flow.input_of("a", **scope({"n": 1})) == {"n": 1}
    assert flow.input_of("b", **scope(a=5)) == 5
    assert flow.input_of("b", **scope()) is None
    assert flow.input_of("c", **scope(a=5)) == {"a": 5, "b": None}


def test_input_with_with() -> None:
    """Expressions keep their type, and outputs are read by name only."""
    with_: dict[str, JSON] = {"n": "${steps.a.n + 1}", "p": "${steps.a}", "t": "run ${run.id}: ${input.x}"}
    flow = compiled(Step("a", uses="x.a"), Step("b", uses="x.b", depends_on=("a",), with_=with_))
    given = scope({"x": [1]})
    given["outputs"] = View(a={"n": 2})
    assert flow.input_of("b", **given) == {"n": 3, "p": {"n": 2}, "t": "run r1: [1]"}


@pytest.mark.parametrize(
    "source", ["${steps.a.nn}", "${steps.b.n}", "${input.y}", "${steps.a.nn + 1}", "- ${input.y} -"]
)
def test_a_missing_key_is_an_error(source: str) -> None:
    """It fails for good and names what is missing; nothing becomes empty."""
    flow = compiled(
        Step("a", uses="x.a"),
        Step("b", uses="x.b"),
        Step("c", uses="x.c", depends_on=("a", "b"), with_={"v": source}),
    )
    with pytest.raises(ExpressionFailed, match=r"there is no (steps|input)") as caught:
        flow.input_of("c", **scope({"x": 1}, a={"n": 1}))
    assert caught.value.error_class == "terminal"


def test_a_condition_may_ask_for_a_skipped_step() -> None:
    """`has(steps.x)` is false for a step that was skipped; anything but true or false is an error."""
    flow = compiled(
        Step("a", uses="x.a"),
        Step("b", uses="x.b", depends_on=("a",), when="has(steps.a) && steps.a.n > 1"),
        Step("c", uses="x.c", depends_on=("a",), when="steps.a.n"),
    )
    assert flow.when("a", **scope())
    assert flow.when("b", **scope(a={"n": 2}))
    assert not flow.when("b", **scope(a={"n": 1}))
    assert not flow.when("b", **scope())
    with pytest.raises(ExpressionFailed, match="expected true or false, found a number"):
        flow.when("c", **scope(a={"n": 1}))


def test_events_see_the_output() -> None:
    """Type, payload and key of each event, in order."""
    flow = compiled(
        Step("a", uses="x.a", emit=(Emit("s.paid", {"c": "${output.c}"}, "paid-${input.id}"), Emit("s.done")))
    )
    assert flow.emits_of("a", **scope({"id": 7}), output={"c": 1}) == [
        ("s.paid", {"c": 1}, "paid-7"),
        ("s.done", None, None),
    ]


@pytest.mark.parametrize(
    ("wait", "seconds"),
    [(Wait(for_=90), 90.0), (Wait(for_="input.n"), 5.0), (Wait(for_="input.text"), 5400.0), (Wait("m"), 0.0)],
)
def test_a_wait_has_seconds(wait: Wait, seconds: float) -> None:
    """A number, or an expression that gives one or a duration."""
    assert compiled(Step("a", wait=wait)).wait_seconds("a", **scope({"n": 5, "text": "1h30m"})) == seconds


@pytest.mark.parametrize("value", [-1, True, "soon", None, [1]])
def test_a_wait_for_anything_else_fails(value: JSON) -> None:
    """What is no duration is an error and not a wait of no time."""
    with pytest.raises(ExpressionFailed, match="expected a duration"):
        compiled(Step("a", wait=Wait(for_="input.n"))).wait_seconds("a", **scope({"n": value}))


def test_output_is_declared_or_that_of_the_last_steps() -> None:
    """One last step gives its output, several theirs by id; a skipped one null."""
    a, b, c = (
        Step("a", uses="x.a"),
        Step("b", uses="x.b", depends_on=("a",)),
        Step("c", uses="x.c", depends_on=("a",)),
    )
    assert compiled(a, b).output_of(**scope(a=1, b=2)) == 2
    assert compiled(a, b, c).output_of(**scope(a=1, b=2)) == {"b": 2, "c": None}
    assert compiled(a, b, output={"o": "${steps.a}"}).output_of(**scope(a=1, b=2)) == {"o": 1}


def test_schemas_are_checked() -> None:
    """Input, outputs of steps and the run's output, each named in its error."""
    [definition] = load_text(
        "id: f\ninput_schema: {type: object, required: [id]}\noutput_schema: {type: integer}\n"
        "steps: [{id: a, uses: x.y, output_schema: {type: string}}, {id: b, uses: x.y}]\n"
    )
    flow = compile_definition(definition)
    flow.check_input({"id": 1})
    flow.check_output(1)
    flow.check_step_output("a", "text")
    flow.check_step_output("b", object.__name__)
    with pytest.raises(SchemaMismatch, match="the input of f"):
        flow.check_input({})
    with pytest.raises(SchemaMismatch, match="the output of f"):
        flow.check_output("1")
    with pytest.raises(SchemaMismatch, match="the output of step a"):
        flow.check_step_output("a", 1)


def test_steps_are_found_by_id() -> None:
    """Without a walk, and with their neighbours."""
    flow = compiled(Step("a", uses="x.a"), Step("b", uses="x.b", depends_on=("a",)))
    assert flow.step("b").depends_on == ("a",)
    assert flow.graph.dependents == {"a": ("b",)}
    assert flow.graph.order == ("a", "b")
    with pytest.raises(KeyError):
        flow.step("c")


def test_compiled_once() -> None:
    """The same contents are compiled once."""
    assert compiled(Step("a", uses="x.a")) is compiled(Step("a", uses="x.a"))
    assert compiled(Step("a", uses="x.a")) is not compiled(Step("a", uses="x.b"))


def test_all_steps_are_those_behind() -> None:
    """`steps` as a whole has the steps that this one depends on: others may or may not have ended by then."""
    found = compile_definition(
        Definition(
            "w",
            (
                Step("a"),
                Step("b", depends_on=("a",)),
                Step("c", depends_on=("b",), with_={"ids": "${steps.map(id, id)}"}),
                Step("x"),
            ),
        )
    )
    outputs: dict[str, JSON] = {"x": 1, "b": 2, "a": 3}
    assert found.input_of("c", input=None, outputs=outputs, trigger=None, run=None) == {"ids": ["a", "b"]}


def test_nothing_heavy_loads_before_it_is_needed() -> None:
    """Compiling a definition that has expressions and schemas loads neither library; walking a path needs none."""
    code = (
        "import sys; from jetloom.workflows import Definition, Step, compile_definition;"
        "c = compile_definition(Definition('w', (Step('a', when='1 + 1 == 2', with_={'x': '${input.x}'}),), "
        "input_schema={'type': 'object'}));"
        "c.input_of('a', input={'x': 1}, outputs={}, trigger=None, run=None); c.graph;"
        "print(*[name for name in ('cel', 'jsonschema_rs', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
