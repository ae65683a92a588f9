"""YAML with positions, read as YAML 1.2 reads it and as JSON can say it.

Only `true`, `false`, `null` and numbers are no text when they stand without quotes: `on`, `yes`, `12:30:00`,
`2026-01-01` and `007` stay what was written. Keys are text and stand once. Tags other than `!!str`, merge keys,
aliases that grow beyond measure or contain themselves, and nesting beyond any definition's need are findings.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol, cast

from ._finding import Finding

if TYPE_CHECKING:
    from ..types import JSON

TEXT_CHARACTERS_MAX = 16 * 1024 * 1024
"""Of one file: above what a definition with the most steps needs."""
DEPTH_MAX = 64
"""Lists and mappings within each other."""
ALIAS_NODES_MAX = 10_000
"""Nodes that aliases repeat, in all: a bomb of nested aliases doubles past it in a few lines."""
FINDINGS_MAX = 1_000
"""Of one file: whoever meets so many repairs the first ones first."""

type Scalar = None | bool | int | float | str

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,18})")
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_NO_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, Scalar] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_STR_TAGS = ("!", "tag:yaml.org,2002:str")
_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**64 - 1


class Node:
    """A value and where it stands. A mapping's `keys` say where its keys stand; `raw` is a scalar's text."""

    __slots__ = ("base", "column", "keys", "line", "raw", "size", "value")

    def __init__(self, value: Scalar | list[Node] | dict[str, Node], line: int = 0, column: int = 0) -> None:
        self.value = value
        self.line = line
        self.column = column
        self.raw = ""
        self.base = 0
        """The column of a text's first character; 0 when it can't be told (escapes, several lines)."""
        self.keys: dict[str, tuple[int, int]] = {}
        self.size = 1

    def plain(self) -> JSON:
        """The value as JSON."""
        value = self.value
        if isinstance(value, dict):
            return {key: item.plain() for key, item in value.items()}
        if isinstance(value, list):
            return [item.plain() for item in value]
        return value


def node_of(value: JSON, depth: int = 0) -> Node:
    """A value that no file holds."""
    if depth > DEPTH_MAX:
        return Node(None)
    if isinstance(value, dict):
        return Node({key: node_of(item, depth + 1) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return Node([node_of(item, depth + 1) for item in value])
    node = Node(value)
    node.raw = str(value)
    return node


def resolve(text: str) -> Scalar:
    """What a scalar without quotes is. Raises `ValueError` for a number that JSON can't carry."""
    if text in _WORDS:
        return _WORDS[text]
    if _NO_JSON.fullmatch(text):
        raise ValueError(f"{text} is no number of JSON")
    if _NUMBER.fullmatch(text) is None:
        return text
    if "." not in text and "e" not in text and "E" not in text:
        if _INTEGER.fullmatch(text) is None and len(text) > 21:
            raise ValueError(f"{text[:24]}… is beyond 64 bits")
        number = int(text)
        if not _INTEGER_MIN <= number <= _INTEGER_MAX:
            raise ValueError(f"{text} is beyond 64 bits")
        return number
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is beyond what a number can be")
    return value


class _Mark:
    """What the library says of a place."""

    line: int
    column: int


class _Event:
    """What the library says of a token; parts that an event has not are never asked."""

    start_mark: _Mark
    end_mark: _Mark
    anchor: str | None
    tag: str | None
    implicit: tuple[bool, bool]
    value: str
    style: str


class _Parser(Protocol):
    def get_event(self) -> _Event | None: ...


class _Frame:
    """A list or mapping that is still open."""

    __slots__ = ("anchor", "key", "node")

    def __init__(self, node: Node, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: str | None = None


def read_yaml(text: str, file: str, findings: list[Finding]) -> list[Node]:
    """The documents of a text. What is wrong is added to `findings`; what can be read is read all the same."""
    if len(text) > TEXT_CHARACTERS_MAX:
        findings.append(
            Finding(
                file, 1, 1, "", f"the text has {len(text)} characters, the limit is {TEXT_CHARACTERS_MAX}"
            )
        )
        return []
    return _Reader(text, file, findings).read()


class _Reader:
    def __init__(self, text: str, file: str, findings: list[Finding]) -> None:
        self._text = text
        self._file = file
        self._findings = findings
        self._documents: list[Node] = []
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Node] = {}
        self._repeated = 0
        self._skipping = 0
        self._skipped_key = False

    def read(self) -> list[Node]:
        import yaml  # 20 ms, so only for whoever reads YAML
        from yaml.cyaml import CParser  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]

        parser = cast("_Parser", CParser(self._text))
        try:
            while (event := parser.get_event()) is not None:
                self._take(type(event).__name__, event)
        except yaml.MarkedYAMLError as error:
            mark = cast("_Mark | None", error.problem_mark or error.context_mark)
            context = f" {error.context}" if error.context else ""
            line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
            self._find(
                line, column, f"no YAML: {error.problem}{context}", "indent with spaces and close every quote"
            )
        except (yaml.YAMLError, UnicodeError) as error:
            self._find(1, 1, f"no YAML: {str(error).partition(chr(10))[0]}", "save the file as UTF-8")
        return self._documents

    def _find(self, line: int, column: int, message: str, suggestion: str = "") -> None:
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(self._file, line, column, "", message, suggestion))

    def _take(self, kind: str, event: _Event) -> None:
        match kind:
            case "MappingStartEvent" | "SequenceStartEvent":
                self._open(Node({} if kind[0] == "M" else [], *_place(event)), event)
            case "MappingEndEvent" | "SequenceEndEvent":
                self._close()
            case "ScalarEvent" if not self._skipping:
                self._scalar(event)
            case "AliasEvent" if not self._skipping:
                self._alias(event)
            case "DocumentStartEvent":
                self._anchors = {}
            case _:
                pass

    def _open(self, node: Node, event: _Event) -> None:
        if self._skipping or len(self._stack) >= DEPTH_MAX:
            if not self._skipping:
                self._find(
                    node.line, node.column, f"more than {DEPTH_MAX} lists and mappings within each other"
                )
            self._skipping += 1
            return
        if event.tag is not None and event.tag not in (
            "tag:yaml.org,2002:map" if isinstance(node.value, dict) else "tag:yaml.org,2002:seq",
            "!",
        ):
            self._tag(node, event.tag)
        if self._expects_key():
            self._find(node.line, node.column, "a key must be text, found a list or mapping")
            self._set_key("", node.line, node.column)
            self._skipping, self._skipped_key = 1, True
            return
        self._stack.append(_Frame(node, event.anchor))
        if event.anchor is not None:
            # Known only when it is closed: an alias inside finds nothing, so nothing contains itself.
            self._anchors.pop(event.anchor, None)

    def _close(self) -> None:
        if self._skipping:
            self._skipping -= 1
            if not self._skipping and self._stack and not self._skipped_key:
                self._stack[-1].key = None
            return
        frame = self._stack.pop()
        if frame.anchor is not None:
            self._anchors[frame.anchor] = frame.node
        self._put(frame.node)

    def _scalar(self, event: _Event) -> None:
        node = Node(None, *_place(event))
        node.raw = event.value
        if event.start_mark.line == event.end_mark.line:
            quotes = 1 if event.style in ("'", '"') else 0
            if event.end_mark.column - event.start_mark.column == len(event.value) + 2 * quotes:
                node.base = node.column + quotes
        if event.tag is not None:
            if event.tag not in _STR_TAGS:
                self._tag(node, event.tag)
            node.value = event.value
        elif event.implicit[0]:
            try:
                node.value = resolve(event.value)
            except ValueError as error:
                self._find(node.line, node.column, str(error), f'write it as text: "{event.value[:24]}"')
        else:
            node.value = event.value
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if self._expects_key():
            self._key(node, event.value)
        else:
            self._put(node)

    def _key(self, node: Node, text: str) -> None:
        if text == "<<" and isinstance(node.value, str):
            self._find(node.line, node.column, "merge keys are not YAML 1.2", "write the fields out")
        if not isinstance(node.value, str):
            self._find(
                node.line, node.column, f"a key must be text, found {text or 'nothing'}", f'write "{text}"'
            )
        self._set_key(text, node.line, node.column)

    def _set_key(self, key: str, line: int, column: int) -> None:
        frame = self._stack[-1]
        known = frame.node.keys.get(key)
        if known is not None:
            self._find(line, column, f"{key} stands here twice, first on line {known[0]}", "keep one of them")
        else:
            frame.node.keys[key] = (line, column)
        frame.key = key

    def _alias(self, event: _Event) -> None:
        line, column = _place(event)
        found = self._anchors.get(event.anchor or "")
        if found is None:
            self._find(
                line, column, f"there is no anchor &{event.anchor} before this, or it contains this alias"
            )
            found = Node(None, line, column)
        self._repeated += found.size
        if self._repeated > ALIAS_NODES_MAX:
            if self._repeated - found.size <= ALIAS_NODES_MAX:
                self._find(
                    line, column, f"aliases repeat more than {ALIAS_NODES_MAX} values", "write fewer of them"
                )
            found = Node(None, line, column)
        if self._expects_key():
            self._key(found, found.raw)
        else:
            self._put(found)

    def _expects_key(self) -> bool:
        frame = self._stack[-1] if self._stack else None
        return frame is not None and isinstance(frame.node.value, dict) and frame.key is None

    def _put(self, node: Node) -> None:
        if not self._stack:
            self._documents.append(node)
            return
        frame = self._stack[-1]
        frame.node.size += node.size
        if isinstance(frame.node.value, list):
            frame.node.value.append(node)
        elif isinstance(frame.node.value, dict) and frame.key is not None:
            frame.node.value.setdefault(frame.key, node)
            frame.key = None

    def _tag(self, node: Node, tag: str) -> None:
        shown = tag.replace("tag:yaml.org,2002:", "!!")
        self._find(
            node.line,
            node.column,
            f"unknown tag {shown}",
            "leave the tag out; !!str is the only one there is",
        )


def _place(event: _Event) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1
