"""Reading one mapping's fields: every mistake is a finding, and reading goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ._durations import parse_duration
from ._finding import Finding, did_you_mean
from ._yaml import FINDINGS_MAX, Node

if TYPE_CHECKING:
    from ..types import JSON

NOT_YET = "is not supported yet by this version of jetloom"


class Report:
    """Collects the findings of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []

    def add(
        self, node: Node, path: str, message: str, suggestion: str = "", *, offset: int | None = None
    ) -> None:
        """`offset`: the character of a text that is meant, where its column can be told."""
        column = node.base + offset if offset is not None and node.base else node.column
        self.add_at(node.line, column, path, message, suggestion)

    def add_at(self, line: int, column: int, path: str, message: str, suggestion: str = "") -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(Finding(self.file, line, column, path, message, suggestion))


class Fields:
    """The fields of one mapping. What is read is asked for by name; null counts as absent."""

    def __init__(
        self,
        report: Report,
        node: Node,
        path: str,
        known: Iterable[str],
        not_yet: Iterable[str] = (),
    ) -> None:
        self.report = report
        self.node = node
        self.path = path
        self._values: Mapping[str, Node] = node.value if isinstance(node.value, dict) else {}
        known, not_yet = frozenset(known), frozenset(not_yet)
        for name, value in self._values.items():
            if name in not_yet:
                if value.value is not None:
                    self._at_key(name, f"{name} {NOT_YET}", "leave it out")
            elif name not in known:
                suggestion = did_you_mean(name, known) or f"known are {', '.join(sorted(known))}"
                self._at_key(name, f"unknown field {name}", suggestion)

    def of(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def find(self, name: str) -> Node | None:
        """A field that is there and not null."""
        node = self._values.get(name)
        return node if node is not None and node.value is not None else None

    def complain(self, name: str, message: str, suggestion: str = "") -> None:
        """A finding at a field, or at the mapping when the field is absent."""
        self.report.add(self._values.get(name, self.node), self.of(name), message, suggestion)

    def complain_key(self, name: str, message: str, suggestion: str = "") -> None:
        """A finding at the name of a field that should not be there."""
        self._at_key(name, message, suggestion)

    def missing(self, name: str, suggestion: str) -> None:
        self.report.add(self.node, self.path, f"{name} is missing", suggestion)

    def text(self, name: str, default: str = "") -> str:
        node = self.find(name)
        if node is None:
            return default
        if isinstance(node.value, str):
            return node.value
        suggestion = "" if isinstance(node.value, dict | list) else f'write {name}: "{node.raw}"'
        self.report.add(node, self.of(name), f"expected text, found {kind_of(node)}", suggestion)
        return default

    def choice[T: str](self, name: str, choices: tuple[T, ...], default: T) -> T:
        node = self.find(name)
        if node is None:
            return default
        for each in choices:
            if node.value == each:
                return each
        found = repr(node.value) if isinstance(node.value, str) else kind_of(node)
        suggestion = did_you_mean(node.value, choices) if isinstance(node.value, str) else ""
        self.report.add(node, self.of(name), f"expected {' or '.join(choices)}, found {found}", suggestion)
        return default

    def flag(self, name: str, default: bool = False) -> bool:
        node = self.find(name)
        if node is None:
            return default
        if isinstance(node.value, bool):
            return node.value
        words = {"yes": "true", "on": "true", "no": "false", "off": "false"}
        meant = words.get(node.value.lower(), "") if isinstance(node.value, str) else ""
        suggestion = f"write {meant}" if meant else ""
        self.report.add(node, self.of(name), f"expected true or false, found {kind_of(node)}", suggestion)
        return default

    def integer(self, name: str, default: int, most: int) -> int:
        """A whole number from 0 to `most`."""
        node = self.find(name)
        if node is None:
            return default
        value = node.value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
            return value
        found = str(value) if isinstance(value, int | float) else kind_of(node)
        self.report.add(node, self.of(name), f"expected a whole number from 0 to {most}, found {found}")
        return default

    def fraction(self, name: str, default: float) -> float:
        """A number from 0 to 1."""
        node = self.find(name)
        if node is None:
            return default
        value = node.value
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
        found = str(value) if isinstance(value, int | float) else kind_of(node)
        self.report.add(node, self.of(name), f"expected a number from 0 to 1, found {found}")
        return default

    def seconds(self, name: str, *, zero: bool = False) -> float | None:
        """A duration; above 0 unless `zero`. None when it is absent or wrong."""
        node = self.find(name)
        if node is None:
            return None
        value = node.value
        seconds: float | None = None
        if isinstance(value, str):
            seconds = parse_duration(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
        if seconds is None:
            found = repr(value) if isinstance(value, str) else kind_of(node)
            self.report.add(
                node,
                self.of(name),
                f"expected a duration, found {found}",
                "write 30s, 5m, 1h30m, 500ms or seconds",
            )
            return None
        if seconds < 0 or (seconds == 0 and not zero):
            self.report.add(node, self.of(name), f"expected a duration above 0, found {node.raw}")
            return None
        return seconds

    def mapping(self, name: str, suggestion: str = "") -> dict[str, JSON] | None:
        """A mapping as JSON."""
        node = self.find(name)
        if node is None:
            return None
        value = node.plain()
        if isinstance(value, dict):
            return value
        self.report.add(node, self.of(name), f"expected a mapping, found {kind_of(node)}", suggestion)
        return None

    def _at_key(self, name: str, message: str, suggestion: str) -> None:
        line, column = self.node.keys.get(name, (self.node.line, self.node.column))
        self.report.add_at(line, column, self.of(name), message, suggestion)


def kind_of(node: Node) -> str:
    """What a value is, as a finding says it."""
    match node.value:
        case None:
            return "nothing"
        case bool():
            return "true or false" if not node.raw else node.raw
        case int() | float():
            return f"the number {node.raw}"
        case str():
            shown = node.value if len(node.value) <= 40 else f"{node.value[:40]}…"
            return f"the text {shown!r}"
        case list():
            return "a list"
        case _:
            return "a mapping"
