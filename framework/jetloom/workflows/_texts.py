"""Finding and checking the expressions of a definition."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..errors import ExpressionInvalid
from ..expressions import SCOPE, Reference, compile_expression, compile_template
from ._fields import Report
from ._yaml import Node

EMIT_SCOPE = SCOPE | {"output"}
"""The names of an emit: it also sees the output of its own step."""


class Reading(NamedTuple):
    """Something that an expression at a place reads."""

    reference: Reference
    node: Node
    path: str
    text: str


class Texts:
    """Compiles the texts of one workflow and keeps what they read."""

    def __init__(self, report: Report, ids: frozenset[str]) -> None:
        self._report = report
        self._hyphenated = sorted((name for name in ids if "-" in name), key=len, reverse=True)

    def template(self, node: Node, path: str, names: frozenset[str] = SCOPE) -> list[Reading]:
        """What the texts of a value read. Each bad one is a finding."""
        value = node.value
        readings: list[Reading] = []
        if isinstance(value, dict):
            for key, item in value.items():
                if "${" in key:
                    line, column = node.keys.get(key, (node.line, node.column))
                    self._report.add_at(
                        line, column, path, f"the key {key} can't hold an expression", "only a value can"
                    )
                readings += self.template(item, f"{path}.{key}", names)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                readings += self.template(item, f"{path}[{index}]", names)
        elif isinstance(value, str) and "${" in value:
            try:
                template = compile_template(value, names)
            except ExpressionInvalid as error:
                self._complain(node, path, value, error)
            else:
                readings = [Reading(each, node, path, value) for each in sorted(template.references)]
        return readings

    def expression(self, node: Node, path: str, source: str) -> list[Reading]:
        """What a bare expression reads. A bad one is a finding."""
        try:
            expression = compile_expression(source)
        except ExpressionInvalid as error:
            self._complain(node, path, source, error)
            return []
        return [Reading(each, node, path, source) for each in sorted(expression.references)]

    def hyphen(self, text: str) -> str:
        """The step whose hyphen was taken for a minus in this text; empty when there is none."""
        for name in self._hyphenated:
            if re.search(rf"\bsteps\.{re.escape(name)}(?![A-Za-z0-9_-])", text):
                return name
        return ""

    def _complain(self, node: Node, path: str, text: str, error: ExpressionInvalid) -> None:
        position, reason = error.fields["position"], str(error.fields["reason"])
        name = self.hyphen(text)
        if name:
            self._report.add(node, path, *hyphen_finding(name), offset=max(text.find(f"steps.{name}"), 0))
            return
        message, _, suggestion = reason.partition(", did you mean ")
        if suggestion:
            suggestion = f"did you mean {suggestion.partition('?')[0]}?"
        else:
            message, _, suggestion = reason.partition(": ")
        suggestion = suggestion or "complete it as CEL, such as input.total > 100"
        offset = position if isinstance(position, int) else 0
        self._report.add(
            node, path, f"bad expression at character {offset + 1}: {message}", suggestion, offset=offset
        )


def hyphen_finding(name: str) -> tuple[str, str]:
    """Message and suggestion."""
    return f"steps.{name} subtracts, because of the hyphen", f'write steps["{name}"]'
