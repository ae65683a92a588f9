"""A definition ready to run: graph, templates, expressions and schemas, each compiled when it is first needed.

Everything is a function of the definition and of what it is given: the same on every engine and at every attempt. What
an expression reads of `steps` by name is what validation has allowed; one that reads `steps` as a whole sees the steps
that its own depends on and no others, because only those are the same whenever it is evaluated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import ExpressionFailed
from ..expressions import Expression, Reference, Template, compile_expression, compile_template
from ..schema import Schema, compile_schema
from ._durations import parse_duration
from ._fingerprint import fingerprint
from ._graph import Graph
from ._texts import EMIT_SCOPE

if TYPE_CHECKING:
    from ..types import JSON
    from ._model import Definition, Step

COMPILED_MAX = 1_000
"""Definitions that a process keeps compiled: more than it runs at a time; others are compiled again."""

_STEPS: Reference = ("steps",)


class Compiled:
    """One definition. Methods raise `ExpressionFailed` and `SchemaMismatch`; `KeyError` for a step that is none."""

    def __init__(self, definition: Definition, found: str | None = None) -> None:
        self.definition = definition
        self.fingerprint = found or fingerprint(definition)
        self._steps = {step.id: step for step in definition.steps}
        self._templates: dict[str, Template] = {}
        self._conditions: dict[str, Expression] = {}
        self._waits: dict[str, Expression] = {}
        self._emits: dict[str, list[tuple[str, Template, Template | None]]] = {}
        self._schemas: dict[str, Schema | None] = {}

    @cached_property
    def graph(self) -> Graph:
        """Raises `DefinitionInvalid` for steps that form no graph."""
        return Graph(self.definition)

    def step(self, step_id: str) -> Step:
        """Raises `KeyError` for an id that is not of this definition."""
        return self._steps[step_id]

    # -- what goes into a step
    def input_of(
        self, step_id: str, *, input: JSON, outputs: Mapping[str, JSON], trigger: JSON, run: JSON
    ) -> JSON:
        """The step's `with`, rendered. Without one: the run's input when the step depends on nothing, the output of its
        one dependency, or the outputs of several by their ids. A dependency that was skipped gives null.
        """
        step = self._steps[step_id]
        if step.with_ is None:
            if not step.depends_on:
                return input
            if len(step.depends_on) == 1:
                return _output(outputs, step.depends_on[0])
            return {other: _output(outputs, other) for other in step.depends_on}
        template = self._templates.get(step_id)
        if template is None:
            template = self._templates[step_id] = compile_template(step.with_)
        return template.render(self._scope(step_id, template.references, input, outputs, trigger, run))

    def when(
        self, step_id: str, *, input: JSON, outputs: Mapping[str, JSON], trigger: JSON, run: JSON
    ) -> bool:
        """Whether the step is wanted; true without a condition."""
        source = self._steps[step_id].when
        if source is None:
            return True
        condition = self._conditions.get(step_id)
        if condition is None:
            condition = self._conditions[step_id] = compile_expression(source)
        return condition.evaluate_bool(
            self._scope(step_id, condition.references, input, outputs, trigger, run)
        )

    def wait_seconds(
        self, step_id: str, *, input: JSON, outputs: Mapping[str, JSON], trigger: JSON, run: JSON
    ) -> float:
        """How long `wait.for` is; 0 without one. An expression gives seconds, a duration, or `5m`."""
        wait = self._steps[step_id].wait
        if wait is None or wait.for_ is None:
            return 0.0
        if not isinstance(wait.for_, str):
            return float(wait.for_)
        expression = self._waits.get(step_id)
        if expression is None:
            expression = self._waits[step_id] = compile_expression(wait.for_)
        value = expression.evaluate(self._scope(step_id, expression.references, input, outputs, trigger, run))
        seconds: float | None = None
        if isinstance(value, str):
            seconds = parse_duration(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
            seconds = float(value)
        if seconds is None:
            raise ExpressionFailed(wait.for_, f"expected a duration, at least 0 seconds, found {value!r}")
        return seconds

    # -- what comes out of a step and of the run
    def emits_of(
        self,
        step_id: str,
        *,
        input: JSON,
        outputs: Mapping[str, JSON],
        trigger: JSON,
        run: JSON,
        output: JSON,
    ) -> list[tuple[str, JSON, str | None]]:
        """(type, payload, key) of the events that the step's end emits. `output` is the step's own."""
        step = self._steps[step_id]
        if not step.emit:
            return []
        compiled = self._emits.get(step_id)
        if compiled is None:
            compiled = self._emits[step_id] = [
                (
                    emit.type,
                    compile_template(emit.payload, EMIT_SCOPE),
                    compile_template(emit.key, EMIT_SCOPE) if emit.key is not None else None,
                )
                for emit in step.emit
            ]
        events: list[tuple[str, JSON, str | None]] = []
        for kind, payload, key in compiled:
            references = payload.references if key is None else payload.references | key.references
            scope = {**self._scope(step_id, references, input, outputs, trigger, run), "output": output}
            name = _key(key.render(scope), step_id) if key is not None else None
            events.append((kind, payload.render(scope), name))
        return events

    def output_of(self, *, input: JSON, outputs: Mapping[str, JSON], trigger: JSON, run: JSON) -> JSON:
        """The definition's `output`, rendered. Without one: the output of the one step that nobody waits for, or
        those of several by their ids. A step that was skipped gives null.
        """
        if self.definition.output is None:
            sinks = self.graph.sinks
            if len(sinks) == 1:
                return _output(outputs, sinks[0])
            return {step: _output(outputs, step) for step in sinks}
        template = self._templates.get("")
        if template is None:
            template = self._templates[""] = compile_template(self.definition.output)
        return template.render({"input": input, "steps": _mapping(outputs), "trigger": trigger, "run": run})

    # -- schemas
    def check_input(self, value: JSON) -> None:
        """Raises `SchemaMismatch`."""
        self._check("input", self.definition.input_schema, f"the input of {self.definition.id}", value)

    def check_output(self, value: JSON) -> None:
        """Raises `SchemaMismatch`."""
        self._check("output", self.definition.output_schema, f"the output of {self.definition.id}", value)

    def check_step_output(self, step_id: str, value: JSON) -> None:
        """Raises `SchemaMismatch`."""
        self._check(f".{step_id}", self._steps[step_id].output_schema, f"the output of step {step_id}", value)

    def _check(self, place: str, source: dict[str, JSON] | None, what: str, value: JSON) -> None:
        if source is None:
            return
        schema = self._schemas.get(place)
        if schema is None:
            schema = self._schemas[place] = compile_schema(source)
        schema.validate(what, value)

    def _scope(
        self,
        step_id: str,
        references: frozenset[Reference],
        input: JSON,
        outputs: Mapping[str, JSON],
        trigger: JSON,
        run: JSON,
    ) -> dict[str, JSON]:
        if _STEPS in references:
            behind = self.graph.ancestors(step_id)
            outputs = {name: outputs[name] for name in self.graph.order if name in behind and name in outputs}
        return {"input": input, "steps": _mapping(outputs), "trigger": trigger, "run": run}


_cache: OrderedDict[str, Compiled] = OrderedDict()


def compile_definition(definition: Definition) -> Compiled:
    """The same object for the same fingerprint, as long as it is among the last `COMPILED_MAX`."""
    found = fingerprint(definition)
    compiled = _cache.get(found)
    if compiled is None:
        compiled = _cache[found] = Compiled(definition, found)
        if len(_cache) > COMPILED_MAX:
            _cache.popitem(last=False)
    else:
        _cache.move_to_end(found)
    return compiled


def _mapping(outputs: Mapping[str, JSON]) -> JSON:
    """Expressions read any mapping; the type says dict because JSON has no other."""
    return outputs  # pyright: ignore[reportReturnType]


def _output(outputs: Mapping[str, JSON], step: str) -> JSON:
    return outputs.get(step)


def _key(value: JSON, step_id: str) -> str:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ExpressionFailed(f"emit key of {step_id}", f"expected a text or whole number, found {value!r}")
