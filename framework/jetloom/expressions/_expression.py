"""One expression: read, checked, compiled, evaluated."""

from __future__ import annotations

import base64
import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec

from ..errors import ExpressionFailed, ExpressionInvalid

if TYPE_CHECKING:
    from cel import Context, Program

    from ..types import JSON

type Reference = tuple[str, ...]
"""What an expression reads: `("steps", "reserve", "total")`. Parts that are computed end it."""

SCOPE = frozenset({"input", "trigger", "steps", "run"})
"""The names that every expression of a workflow may use."""

SOURCE_CHARACTERS_MAX = 4_096
"""Of one expression: its parser recurses, and stays far from the stack's end at this length."""
NESTING_MAX = 32
"""Brackets within brackets. The library's parser gives up between 50 and 500."""
COMPREHENSIONS_MAX = 2
"""`map`, `filter`, `all`, `exists` within each other: two already cost the product of two lists."""
MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
FUNCTIONS = MACROS | {
    "has", "size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint", "double", "bytes",
    "timestamp", "duration", "type", "dyn", "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek",
    "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds",
}  # fmt: skip
"""What an expression may call."""

_TYPES_HINT = "types don't mix by themselves: convert with int(x), double(x) or string(x)"
_ORDER = "in_order_of_keys__"
"""A function of ours that no source can name: it is none of `FUNCTIONS`."""
_WORDS = frozenset({"true", "false", "null", "in"})
_TYPES = frozenset({"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"})
_OPEN, _CLOSE = {"(": ")", "[": "]", "{": "}"}, frozenset(")]}")

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
    |(?P<string>(?:[rR][bB]?|[bB][rR])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
      |[bB]?(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+\.\d+|\d+)(?:[eE][-+]?\d+)?[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>&&|\|\||[=!<>]=|[-+*/%!<>?:.,()\[\]{}])
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_PATH = re.compile(
    r"""\s*[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*|\["[^"\\\n]*"\]|\['[^'\\\n]*'\]|\[\d{1,9}\])*\s*""",
    re.ASCII,
)
_PART = re.compile(r"""\.?([A-Za-z_][A-Za-z0-9_]*)|\["([^"]*)"\]|\['([^']*)'\]|\[(\d+)\]""", re.ASCII)
_UNEXPECTED = re.compile(r"Syntax error: (?:mismatched|extraneous) input '(.*?)' expecting")
_PARSE_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class Expression:
    """A compiled expression. `references` is everything it reads of its scope."""

    __slots__ = ("_path", "_program", "_wanted", "references", "source")

    def __init__(
        self,
        source: str,
        references: frozenset[Reference],
        path: tuple[str | int, ...] | None,
        program: Program | None,
    ) -> None:
        self.source = source
        self.references = references
        self._path = path
        self._program = program
        self._wanted = _shortest(references)

    def __repr__(self) -> str:
        return f"Expression({self.source!r})"

    @property
    def is_path(self) -> bool:
        """Whether it only walks a path, so that evaluating it needs no CEL."""
        return self._program is None

    def evaluate(self, scope: Mapping[str, JSON]) -> JSON:
        """Its value as JSON. Raises `ExpressionFailed`, also for a key that is missing."""
        if self._path is not None:
            return self._walk(self._path, scope)
        program = self._program
        if program is None:
            raise ExpressionFailed(self.source, "it was not compiled")
        try:
            value: object = program.execute(_context(program, _part_of(scope, self._wanted)))
        except LookupError as error:
            raise ExpressionFailed(self.source, self._missing(scope, error)) from error
        except TypeError as error:
            raise ExpressionFailed(self.source, f"{_first_sentence(str(error))} ({_TYPES_HINT})") from error
        except (ArithmeticError, RuntimeError, ValueError) as error:
            raise ExpressionFailed(self.source, _first_sentence(str(error))) from error
        return _to_json(value, self.source)

    def evaluate_bool(self, scope: Mapping[str, JSON]) -> bool:
        """Raises `ExpressionFailed` for anything that is neither true nor false."""
        value = self.evaluate(scope)
        if not isinstance(value, bool):
            raise ExpressionFailed(self.source, f"expected true or false, found {_kind(value)}")
        return value

    def _walk(self, path: tuple[str | int, ...], scope: Mapping[str, JSON]) -> JSON:
        value: object = scope
        for index, part in enumerate(path):
            holder = value
            try:
                if isinstance(holder, Mapping):
                    value = cast("Mapping[str | int, object]", holder)[part]
                    continue
                if isinstance(holder, list) and isinstance(part, int):
                    value = cast("list[object]", holder)[part]
                    continue
            except LookupError:
                raise ExpressionFailed(
                    self.source, _absent(path[: index + 1], cast("object", holder))
                ) from None
            found = _kind(cast("object", holder))
            raise ExpressionFailed(
                self.source, f"{_written(path[:index])} is {found}, which has no {_quoted(part)}"
            )
        return cast("JSON", value)

    def _missing(self, scope: Mapping[str, JSON], error: LookupError) -> str:
        for reference in sorted(self.references):
            value: object = scope
            for index, part in enumerate(reference):
                if not isinstance(value, Mapping):
                    break
                known = cast("Mapping[str, object]", value)
                if part not in known:
                    return _absent(reference[: index + 1], known)
                value = known[part]
        key = error.args[0] if error.args else ""
        return f"there is no {key}" if isinstance(error, KeyError) else str(key)


def compile_expression(source: str, names: frozenset[str] = SCOPE) -> Expression:
    """Compiles CEL over these names. Raises `ExpressionInvalid` with the position of what is wrong."""
    if len(source) > SOURCE_CHARACTERS_MAX:
        raise ExpressionInvalid(
            source,
            SOURCE_CHARACTERS_MAX,
            f"longer than {SOURCE_CHARACTERS_MAX} characters: split it into steps",
        )
    if _PATH.fullmatch(source):
        path = tuple(_parts(source))
        root = str(path[0])
        if root not in _WORDS:
            _check_name(root, source, source.index(root), names)
            return Expression(source, frozenset({_texts(path)}), path, None)
    tokens = [token for token in read_tokens(source, 0) if token.kind != "space"]
    if not tokens:
        raise ExpressionInvalid(source, 0, "an expression is missing")
    references = _references(source, tokens, names)
    program = _program(source)
    ordered = _ordered(source, tokens)
    return Expression(source, references, None, program if ordered == source else _program(ordered))


# -- reading sources
def read_tokens(source: str, start: int) -> Iterator[_Token]:
    at = start
    while at < len(source):
        found = _TOKEN.match(source, at)
        if found is None or found.lastgroup is None:
            char = source[at]
            reason = "this text is not closed" if char in "\"'" else f"{char!r} has no meaning here"
            raise ExpressionInvalid(source, at, reason)
        yield _Token(found.lastgroup, found[0], at)
        at = found.end()


def _references(source: str, tokens: list[_Token], names: frozenset[str]) -> frozenset[Reference]:
    """What the source reads. Raises `ExpressionInvalid` for unknown names and functions, and beyond the limits."""
    found: set[Reference] = set()
    bound: list[str] = []
    opened: list[tuple[str, bool]] = []
    for index, token in enumerate(tokens):
        if token.kind == "sign":
            if token.text in _OPEN:
                called = tokens[index - 1].text if index else ""
                macro = (
                    token.text == "(" and called in MACROS and index >= 2 and tokens[index - 2].text == "."
                )
                if macro:
                    bound.append(_bound_name(source, tokens, index, names))
                opened.append((_OPEN[token.text], macro))
                _check_limits(source, token, len(opened), len(bound))
            elif token.text in _CLOSE:
                if not opened or opened[-1][0] != token.text:
                    raise ExpressionInvalid(
                        source, token.at, f"{token.text} closes nothing that is open here"
                    )
                if opened.pop()[1]:
                    bound.pop()
            continue
        if token.kind != "name":
            continue
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        if after == "(":
            if token.text not in FUNCTIONS and token.text != "in":
                raise ExpressionInvalid(
                    source, token.at, f"there is no function {token.text}{_suggest(token.text, FUNCTIONS)}"
                )
            continue
        if index > 0 and tokens[index - 1].text == ".":
            if index == 1 or (tokens[index - 2].kind == "sign" and tokens[index - 2].text not in _CLOSE):
                raise ExpressionInvalid(source, tokens[index - 1].at, "a name can't begin with a dot")
            continue
        if token.text in _WORDS or token.text in bound or token.text in _TYPES - names:
            continue
        _check_name(token.text, source, token.at, names)
        found.add(_reference(tokens, index))
    if opened:
        raise ExpressionInvalid(source, len(source), f"{opened[-1][0]} is missing")
    return frozenset(found)


def _bound_name(source: str, tokens: list[_Token], index: int, names: frozenset[str]) -> str:
    variable = tokens[index + 1] if index + 1 < len(tokens) else tokens[index]
    if variable.kind != "name" or variable.text in _WORDS:
        raise ExpressionInvalid(
            source, variable.at, "expected the name of a variable, as in items.map(item, item.id)"
        )
    if variable.text in names:
        raise ExpressionInvalid(
            source, variable.at, f"{variable.text} is a name of the scope: take another one"
        )
    return variable.text


def _check_limits(source: str, token: _Token, nesting: int, comprehensions: int) -> None:
    if nesting > NESTING_MAX:
        raise ExpressionInvalid(source, token.at, f"more than {NESTING_MAX} brackets within each other")
    if comprehensions > COMPREHENSIONS_MAX:
        raise ExpressionInvalid(
            source,
            token.at,
            f"more than {COMPREHENSIONS_MAX} of {', '.join(sorted(MACROS))} within each other",
        )


def _reference(tokens: list[_Token], index: int) -> Reference:
    """The longest constant path from the name at `index`; a method that is called on it is no part of it."""
    parts = [tokens[index].text]
    at = index + 1

    def text(offset: int) -> str:
        return tokens[at + offset].text if at + offset < len(tokens) else ""

    while True:
        if text(0) == "." and at + 1 < len(tokens) and tokens[at + 1].kind == "name" and text(2) != "(":
            parts.append(text(1))
            at += 2
        elif text(0) == "[" and at + 1 < len(tokens) and tokens[at + 1].kind == "string" and text(2) == "]":
            literal = text(1)
            # A literal with escapes or a prefix ends the path: what is before it is read whole.
            if literal[0] not in "\"'" or literal[:3] in ('"""', "'''") or "\\" in literal:
                break
            parts.append(literal[1:-1])
            at += 3
        else:
            break
    return tuple(parts)


def _check_name(name: str, source: str, at: int, names: frozenset[str]) -> None:
    if name not in names:
        raise ExpressionInvalid(
            source, at, f"there is no {name}{_suggest(name, names)}; known are {', '.join(sorted(names))}"
        )


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f", did you mean {close[0]}?" if close else ""


def _parts(source: str) -> Iterator[str | int]:
    for name, double, single, number in _PART.findall(source.strip()):
        yield int(number) if number else name or double or single


def _texts(path: tuple[str | int, ...]) -> Reference:
    texts: list[str] = []
    for part in path:
        if isinstance(part, int):
            break
        texts.append(part)
    return tuple(texts)


def _program(source: str) -> Program:
    compile_source = _library()
    try:
        return compile_source(source)
    except ValueError as error:
        raise _invalid(source, str(error)) from error


def _library() -> Callable[[str], Program]:
    import cel  # 0.3 s, so only when the first real expression is compiled

    return cel.compile


def _ordered(source: str, tokens: list[_Token]) -> str:
    """The source with the keys of what is walked put in order.

    The library keeps an object in a hash table with a seed of its own, so `steps.map(id, id)` would give another order
    at every evaluation: another input at every attempt.
    """
    pieces: list[str] = []
    at = 0
    for index, token in enumerate(tokens[1:-1], start=1):
        if token.text in MACROS and tokens[index - 1].text == "." and tokens[index + 1].text == "(":
            if _is_list_literal(tokens, index - 2):
                continue
            pieces += [source[at : token.at], f"{_ORDER}()."]
            at = token.at
    return "".join([*pieces, source[at:]])


def _is_list_literal(tokens: list[_Token], end: int) -> bool:
    """Whether a list that is written out ends here. It has an order, and its unsigned numbers stay what they are."""
    if tokens[end].text != "]" or tokens[end].kind != "sign":
        return False
    depth = 0
    for index in range(end, -1, -1):
        token = tokens[index]
        if token.kind == "sign":
            depth += (token.text == "]") - (token.text == "[")
        if depth == 0:
            before = tokens[index - 1] if index else None
            return (
                before is None or (before.kind == "sign" and before.text not in _CLOSE) or before.text == "in"
            )
    return False


def _keys_in_order(value: object) -> object:
    if not isinstance(value, dict):
        return value
    keys = cast("dict[str | int | bool, object]", value)
    return sorted(keys, key=lambda key: (type(key).__name__, key))


def _context(program: Program, variables: dict[str, object]) -> Context | dict[str, object]:
    if _ORDER not in program.source:
        return variables
    import cel

    context = cel.Context(variables)
    context.add_function(_ORDER, _keys_in_order)
    return context


def _invalid(source: str, message: str) -> ExpressionInvalid:
    found = _PARSE_ERROR.search(message)
    if found is None:
        return ExpressionInvalid(source, 0, _first_sentence(message))
    line, column, reason = int(found[1]), int(found[2]), found[3]
    before = sum(len(text) + 1 for text in source.split("\n")[: line - 1])
    unexpected = _UNEXPECTED.match(reason)
    if unexpected is not None:
        reason = (
            "it ends too early" if unexpected[1] == "<EOF>" else f"{unexpected[1]!r} is not expected here"
        )
    return ExpressionInvalid(source, min(before + column - 1, len(source)), reason)


# -- evaluating
def _shortest(references: frozenset[Reference]) -> tuple[Reference, ...]:
    """Without those that another one covers."""
    return tuple(
        sorted(
            reference
            for reference in references
            if not any(reference[:length] in references for length in range(1, len(reference)))
        )
    )


def _part_of(scope: Mapping[str, JSON], wanted: tuple[Reference, ...]) -> dict[str, object]:
    """The part of the scope that is read: converting the rest for CEL would cost more than the evaluation."""
    chosen: dict[str, object] = {}
    for reference in wanted:
        source: object = scope
        target = chosen
        for index, part in enumerate(reference):
            known = cast("Mapping[str, object]", source)
            if part not in known:
                break
            source = known[part]
            if index + 1 == len(reference) or not isinstance(source, Mapping):
                target[part] = (
                    dict(cast("Mapping[str, object]", source)) if isinstance(source, Mapping) else source
                )
                break
            target = cast("dict[str, object]", target.setdefault(part, {}))
    return chosen


def as_text(value: JSON) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _to_json(value: object, source: str) -> JSON:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise ExpressionFailed(source, f"its value is {value}, which JSON can't say")
            return value
        case list():
            return [_to_json(item, source) for item in cast("list[object]", value)]
        case dict():
            return _object(cast("dict[object, object]", value), source)
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            raise ExpressionFailed(
                source, f"its value is of type {type(value).__name__}, which JSON can't say"
            )


def _object(value: dict[object, object], source: str) -> JSON:
    result: dict[str, JSON] = {}
    # The library gives keys in an order of its own at every evaluation.
    for key, item in sorted(value.items(), key=lambda pair: str(pair[0])):
        name = key if isinstance(key, str) else as_text(_to_json(key, source))
        if name in result:
            raise ExpressionFailed(source, f"its value has the key {name!r} twice")
        result[name] = _to_json(item, source)
    return result


def _absent(path: tuple[str | int, ...], holder: object) -> str:
    if isinstance(holder, list):
        return f"there is no {_written(path)}: the list has {len(cast('list[object]', holder))} item(s)"
    names = sorted(str(name) for name in cast("Mapping[object, object]", holder))
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "nothing"
    owner = _written(path[:-1]) or "the scope"
    return f"there is no {_written(path)}{_suggest(str(path[-1]), names)}; {owner} has {listed}"


def _written(path: tuple[str | int, ...]) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", part):
            text += f".{part}" if text else part
        else:
            text += f'["{part}"]'
    return text


def _quoted(part: str | int) -> str:
    return f"item {part}" if isinstance(part, int) else f"field {part!r}"


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"


def _first_sentence(message: str) -> str:
    return message.partition("\n")[0].partition(". ")[0]
