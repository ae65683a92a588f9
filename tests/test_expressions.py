"""Expressions and templates: typed values, errors instead of empty values, limits, and no CEL where none is needed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetloom.errors import ErrorClass, ExpressionFailed, ExpressionInvalid
from jetloom.expressions import (
    COMPREHENSIONS_MAX,
    NESTING_MAX,
    SCOPE,
    SOURCE_CHARACTERS_MAX,
    compile_expression,
    compile_template,
)
from jetloom.types import JSON

SCOPE_VALUES: dict[str, JSON] = {
    "input": {"x": 1, "f": 1.5, "s": "a", "n": None, "items": [1, 2], "big": 2**70, "odd key": True},
    "steps": {"a": {"b": 2}, "fetch-user": {"name": "Ada"}},
    "trigger": None,
    "run": {"id": "r1", "workflow": "w", "labels": {"team": "shop"}},
}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("input.x", 1),
        (" input.n ", None),
        ("input.items[1]", 2),
        ("input['odd key']", True),
        ('steps["fetch-user"].name', "Ada"),
        ("input.big", 2**70),
        ("run.labels.team", "shop"),
    ],
)
def test_a_path_is_walked_without_cel(source: str, value: JSON) -> None:
    """A path gives the value that stands there, of any type."""
    expression = compile_expression(source)
    assert expression.is_path
    assert expression.evaluate(SCOPE_VALUES) == value


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("input.x + 1", 2),
        ("true", True),
        ("null", None),
        ("has(steps.a)", True),
        ("has(steps.skipped) && steps.skipped.total > 3", False),
        ("input.items.map(i, i * 2)", [2, 4]),
        ("steps[input.s].b", 2),
        ("steps.map(id, id)", ["a", "fetch-user"]),
        ("1u", 1),
        ('timestamp("2026-01-01T00:00:00+01:00")', "2025-12-31T23:00:00Z"),
        ('duration("90m")', "5400s"),
        ('duration("1.5s")', "1.5s"),
        ('b"abc"', "YWJj"),
        ('{"a": [1u, null]}', {"a": [1, None]}),
        ("{1: 2}", {"1": 2}),
        ('input.s.matches("^[a-c]$") ? "yes" : "no"', "yes"),
        ('"}" + input.s // a comment', "}a"),
        (r'r"\d" + "\n"', "\\d\n"),
    ],
)
def test_an_expression_gives_json(source: str, value: JSON) -> None:
    """CEL's types come out as the JSON that says them best."""
    found = compile_expression(source).evaluate(SCOPE_VALUES)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("input.y", "there is no input.y"),
        ("input.y + 1", "there is no input.y"),
        ("steps.fetchuser.name", "did you mean fetch-user?"),
        ("steps.skipped.total == 1", "there is no steps.skipped"),
        ("input.items[7]", "there is no input.items[7]: the list has 2 item(s)"),
        ("input.s.y", "input.s is a text, which has no field 'y'"),
        ("trigger.x", "trigger is null"),
        ("input.items[7] + 1", "out of bounds"),
        ("input.x + 1.5", "double(x)"),
        ("input.x / 0", "division by zero"),
        ("9223372036854775807 + input.x", "overflow"),
        ("1.0 / 0.0", "JSON can't say"),
        ('{1: 2, "1": 3}', "twice"),
    ],
)
def test_what_does_not_fit_fails_for_good(source: str, message: str) -> None:
    """A missing key is an error that names it, never an empty value; no retry repairs it."""
    expression = compile_expression(source)
    with pytest.raises(ExpressionFailed) as caught:
        expression.evaluate(SCOPE_VALUES)
    assert message in caught.value.message
    assert source in caught.value.message
    assert caught.value.to_info().error_class is ErrorClass.TERMINAL


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("input.map(k, k)", ["a", "b", "c", "d", "e"]),
        ("input.filter(k, input[k] > 2)", ["a", "b", "e"]),
        ("[input].map(o, o.map(k, k))", [["a", "b", "c", "d", "e"]]),
        ('{"y": 1, "x": 2}.map(k, k)', ["x", "y"]),
        ("[2u, 1u].map(n, n + 1u)", [3, 2]),
        ("[3, 1].map(n, n)", [3, 1]),
        ('input.exists(k, k == "d") && input.all(k, input[k] > 0)', True),
    ],
)
def test_an_object_is_walked_in_the_order_of_its_keys(source: str, value: JSON) -> None:
    """Every evaluation, in every process, gives the same list: a step's input is derived again at each attempt."""
    scope: dict[str, JSON] = {"input": {"e": 5, "d": 1, "c": 2, "b": 3, "a": 4}}
    expression = compile_expression(source)
    assert [expression.evaluate(scope) for _ in range(5)] == [value] * 5


def test_an_object_is_given_in_the_order_of_its_keys() -> None:
    """Within a text its form is the same every time."""
    template = compile_template("= ${input.n > 0 ? input : {}}")
    assert template.render({"input": {"n": 1, "b": 2, "a": 3}}) == '= {"a":3,"b":2,"n":1}'


def test_a_condition_is_true_or_false() -> None:
    """Nothing counts as true by being there."""
    assert compile_expression("input.x == 1").evaluate_bool(SCOPE_VALUES)
    with pytest.raises(ExpressionFailed, match="expected true or false, found a number"):
        compile_expression("input.x").evaluate_bool(SCOPE_VALUES)


@pytest.mark.parametrize(
    ("source", "position", "reason"),
    [
        ("", 0, "missing"),
        ("// nothing", 0, "missing"),
        ("1 +", 3, "ends too early"),
        ("1 + * 2", 4, "'*'"),
        ("inptu.x", 0, "did you mean input?"),
        ("input.x + inptu", 10, "did you mean input?"),
        ("sise(input)", 0, "did you mean size?"),
        ("input.items.exists(i, i > 1) && i == 1", 32, "there is no i"),
        ("input.items.map(input, 1)", 16, "take another"),
        ('input.items.map("x", 1)', 16, "name of a variable"),
        ('"abc', 0, "not closed"),
        ("(input.x", 8, ") is missing"),
        ("input.x)", 7, "closes nothing"),
        ("input.x + `y`", 10, "no meaning"),
        (".input.x", 0, "dot"),
        ("1\n+ foo", 4, "there is no foo"),
        ("steps.fetch-user.name", 12, "there is no user"),
        ("now()", 0, "no function now"),
    ],
)
def test_a_bad_expression_is_refused_with_its_place(source: str, position: int, reason: str) -> None:
    """Compiling finds unknown names and functions too, not only what the grammar refuses."""
    with pytest.raises(ExpressionInvalid) as caught:
        compile_expression(source)
    assert reason in caught.value.message
    assert caught.value.fields["position"] == position


@pytest.mark.parametrize(
    "source",
    [
        "1" + " + 1" * SOURCE_CHARACTERS_MAX,
        "(" * (NESTING_MAX + 1) + "1" + ")" * (NESTING_MAX + 1),
        "input.items.map(i, " * (COMPREHENSIONS_MAX + 1) + "1" + ")" * (COMPREHENSIONS_MAX + 1),
    ],
)
def test_limits_are_kept(source: str) -> None:
    """There is no step budget, so length, nesting and comprehensions are bounded when it is compiled."""
    with pytest.raises(ExpressionInvalid):
        compile_expression(source)


def test_references_are_what_is_read() -> None:
    """Constant paths are references; what is computed ends them, and bound variables are none."""
    found = compile_expression(
        'steps.a.b + size(input["odd key"].c) + input.items.map(i, i.x + steps[i].y)[0] + run.id.size()'
    ).references
    assert found == {
        ("steps", "a", "b"),
        ("input", "odd key", "c"),
        ("input", "items"),
        ("steps",),
        ("run", "id"),
    }


class _View(Mapping[str, JSON]):
    """Outputs as an engine shows them: read by name only."""

    def __getitem__(self, step: str) -> JSON:
        if step != "a":
            raise KeyError(step)
        return {"b": 2}

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("nothing may ask for all of them")

    def __len__(self) -> int:
        raise AssertionError("nothing may ask for all of them")


def test_only_what_is_read_is_taken_from_the_scope() -> None:
    """A scope may be a view that is never read as a whole."""
    scope: dict[str, JSON] = {"steps": _View(), "input": {}}  # pyright: ignore[reportAssignmentType]
    assert compile_expression("steps.a.b").evaluate(scope) == 2
    assert compile_expression("steps.a.b + 1").evaluate(scope) == 3
    assert compile_expression("has(steps.c)").evaluate(scope) is False


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("plain", "plain"),
        ("${input.x}", 1),
        ("${input.items}", [1, 2]),
        ("${input.x}\n", 1),
        (" ${input.x}", " 1"),
        ("a ${input.s} b ${input.x} ${input.n} ${input.items}", "a a b 1 null [1,2]"),
        ("$${input.x} ${input.s}", "${input.x} a"),
        ("$5 and {}", "$5 and {}"),
        ('${ {"a": "}"}.a }', "}"),
        ({"a": ["${input.x}", True, None, {"b": "${steps.a.b}"}]}, {"a": [1, True, None, {"b": 2}]}),
        (3, 3),
        (None, None),
    ],
)
def test_a_template_renders(template: JSON, value: JSON) -> None:
    """A whole expression keeps its type; within a text, strings stand plainly and other values as JSON."""
    assert compile_template(template).render(SCOPE_VALUES) == value


def test_a_template_gives_fresh_values() -> None:
    """What one run changes in its input is not what the next one gets."""
    template = compile_template({"a": [1]})
    first = template.render({})
    assert isinstance(first, dict)
    first["a"] = 2
    assert template.render({}) == {"a": [1]}


@pytest.mark.parametrize(
    ("template", "position"),
    [("x ${input.x", 2), ("ab ${}", 5), ("ab ${input.x +}", 14), ({"${input.x}": 1}, 0)],
)
def test_a_bad_template_is_refused_with_its_place(template: JSON, position: int) -> None:
    """Positions count in the whole text."""
    with pytest.raises(ExpressionInvalid) as caught:
        compile_template(template)
    assert caught.value.fields["position"] == position


def test_names_can_be_added() -> None:
    """An emit sees its step's output; other places don't."""
    assert compile_template("${output.x}", SCOPE | {"output"}).references == {("output", "x")}
    with pytest.raises(ExpressionInvalid, match="there is no output"):
        compile_template("${output.x}")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_a_value_passes_through_cel_unchanged(value: JSON) -> None:
    """What a real expression reads and gives back is what a path gives."""
    scope: dict[str, JSON] = {"input": {"v": value}}
    assert compile_expression("true ? input.v : null").evaluate(scope) == value
    assert compile_expression("input.v").evaluate(scope) == value


@given(st.text(max_size=30))
def test_any_text_is_compiled_or_refused(source: str) -> None:
    """No text makes the compiler fail in another way, and a refusal points into the text."""
    for compiler in (compile_expression, compile_template):
        try:
            compiler(source)
        except ExpressionInvalid as error:
            position = error.fields["position"]
            assert isinstance(position, int)
            assert 0 <= position <= len(source)


def test_paths_never_load_cel() -> None:
    """A process whose definitions only walk paths doesn't pay for the library."""
    code = (
        "import sys; from jetloom.expressions import compile_template;"
        "compile_template({'a': '${input.x} and ${steps.a.b}'}).render({'input': {'x': 1}, 'steps': {'a': {'b': 2}}});"
        "print('cel' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
