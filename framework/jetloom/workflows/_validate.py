"""What only the whole definition shows: its graph, and what its expressions read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from ._fields import Report
from ._finding import did_you_mean, nearest
from ._graph import find_cycles, find_unreached, show_cycle, sort_steps
from ._read import ReadStep, ReadWorkflow, read_workflow
from ._texts import Reading, Texts, hyphen_finding
from ._yaml import Node

if TYPE_CHECKING:
    from ..types import JSON
    from ._model import Definition

RUN_FIELDS = ("id", "workflow", "labels")
"""What an expression can read of `run`."""


def check_workflow(report: Report, node: Node, path: str = "") -> Definition | None:
    """The definition of a node; None when it has findings, which are all in the report."""
    before = len(report.findings)
    read = read_workflow(report, node, path)
    if read is None:
        return None
    _Checker(report, read, path).check()
    return read.definition if len(report.findings) == before else None


class _Checker:
    def __init__(self, report: Report, read: ReadWorkflow, path: str) -> None:
        self._report = report
        self._read = read
        self._path = path
        self._steps: dict[str, ReadStep] = {}
        self._texts = Texts(report, frozenset(each.step.id for each in read.steps))

    def check(self) -> None:
        for each in self._read.steps:
            known = self._steps.setdefault(each.step.id, each)
            if known is not each and each.step.id:
                self._report.add(
                    each.id_node,
                    each.path,
                    f"the id {each.step.id} stands there twice, first on line {known.id_node.line}"
                    if known.id_node.line
                    else f"the id {each.step.id} stands there twice",
                    "give every step an id of its own",
                )
        edges = self._edges()
        self._check_order(edges)
        self._check_readings(edges)
        self._check_emits()

    # -- the graph
    def _edges(self) -> dict[str, list[str]]:
        """Dependencies between steps that exist. A mistyped one counts as what was meant: that is one mistake."""
        edges: dict[str, list[str]] = {}
        for each in self._read.steps:
            name = each.step.id
            known: list[str] = []
            for other, node in each.depends_on:
                path = f"{each.path}.depends_on"
                if other == name:
                    self._report.add(node, path, f"{name} depends on itself", "leave it out")
                elif other in self._steps:
                    known.append(other)
                else:
                    meant = nearest(other, self._steps.keys() - {name})
                    known += [meant] if meant and meant not in known else []
                    suggestion = f"did you mean {meant}?" if meant else self._known_steps()
                    self._report.add(node, path, f"there is no step {other}", suggestion)
            # A repeated id is a finding already; its dependencies are looked at, but the first one is the step.
            edges.setdefault(name, known)
        return edges

    def _check_order(self, edges: Mapping[str, Sequence[str]]) -> None:
        _, left = sort_steps(edges)
        if not left:
            return
        cycles = find_cycles(edges, left)
        in_cycle = {step for cycle in cycles for step in cycle}
        for cycle in cycles:
            first = self._steps[cycle[0]]
            node = next((node for other, node in first.depends_on if other == cycle[1]), first.id_node)
            self._report.add(
                node,
                f"{first.path}.depends_on",
                f"these steps wait for each other: {show_cycle(cycle)}",
                "take one of the dependencies out",
            )
        for step in left:
            # A step of the group that the shown cycle leaves out waits for it all the same: it says so itself.
            if step not in in_cycle:
                each = self._steps[step]
                self._report.add(
                    each.id_node,
                    each.path,
                    f"{step} is never reached: it waits for steps that wait for each other",
                    f"see {show_cycle(cycles[0])}",
                )

    # -- what expressions read
    def _check_readings(self, edges: Mapping[str, Sequence[str]]) -> None:
        asked: dict[tuple[str, str], list[Reading]] = {}
        fields = self._input_fields()
        for each in self._read.steps:
            for reading in each.readings:
                self._check_reading(reading, fields)
                other = self._step_of(reading)
                if other == each.step.id:
                    self._report.add(
                        reading.node,
                        reading.path,
                        f"{other} reads its own output, which is not there yet",
                        "in emit, output is this step's output",
                    )
                elif other:
                    asked.setdefault((each.step.id, other), []).append(reading)
        for step, other in sorted(find_unreached(edges, asked)):
            for reading in _first_of_each_place(asked[(step, other)]):
                self._report.add(
                    reading.node,
                    reading.path,
                    f"{step} reads steps.{other}, but doesn't depend on it",
                    f"add {other} to depends_on of {step}",
                )
        for reading in self._read.output_readings:
            self._check_reading(reading, fields)
            self._step_of(reading)

    def _step_of(self, reading: Reading) -> str:
        """The step that is read; empty for none. One that doesn't exist is a finding."""
        reference = reading.reference
        if reference[0] != "steps" or len(reference) < 2:
            return ""
        name = reference[1]
        if name in self._steps:
            return name
        hyphenated = self._texts.hyphen(reading.text)
        if hyphenated:
            self._report.add(reading.node, reading.path, *hyphen_finding(hyphenated))
        else:
            suggestion = did_you_mean(name, self._steps) or self._known_steps()
            offset = reading.text.find(name)
            self._report.add(
                reading.node,
                reading.path,
                f"there is no step {name} to read",
                suggestion,
                offset=max(offset, 0),
            )
        return ""

    def _check_reading(self, reading: Reading, input_fields: frozenset[str] | None) -> None:
        root, *rest = reading.reference
        if not rest:
            return
        known: Sequence[str] | frozenset[str] | None = None
        if root == "run":
            known = RUN_FIELDS
        elif root == "input":
            known = input_fields
        if known is not None and rest[0] not in known:
            suggestion = did_you_mean(rest[0], known) or f"known are {', '.join(sorted(known)) or 'none'}"
            offset = max(reading.text.find(rest[0]), 0)
            self._report.add(
                reading.node, reading.path, f"there is no {root}.{rest[0]}", suggestion, offset=offset
            )

    def _input_fields(self) -> frozenset[str] | None:
        """The fields that the input can have, where its schema says that there are no others."""
        schema = self._read.definition.input_schema
        if schema is None or schema.get("additionalProperties") is not False:
            return None
        if any(name in schema for name in ("$ref", "allOf", "anyOf", "oneOf", "patternProperties")):
            return None
        properties = schema.get("properties")
        return frozenset(cast("dict[str, JSON]", properties)) if isinstance(properties, dict) else None

    def _check_emits(self) -> None:
        """Two events of one type and key are one event: the server would refuse the second, and nobody would see it."""
        seen: set[tuple[str, str]] = set()
        for each in self._read.steps:
            for emit, node in zip(each.step.emit, each.emit_nodes, strict=True):
                if emit.key is None or "${" in emit.key:
                    continue
                if (emit.type, emit.key) in seen:
                    self._report.add(
                        node,
                        f"{each.path}.emit",
                        f"{emit.type} with the key {emit.key} is emitted twice, and only the first would be stored",
                        "give each event a key of its own, or leave the key out",
                    )
                seen.add((emit.type, emit.key))

    def _known_steps(self) -> str:
        names = [name for name in self._steps if name]
        more = ", …" if len(names) > 10 else ""
        return f"steps are {', '.join(names[:10])}{more}" if names else ""


def _first_of_each_place(readings: Sequence[Reading]) -> list[Reading]:
    found: dict[str, Reading] = {}
    for reading in readings:
        found.setdefault(reading.path, reading)
    return list(found.values())
