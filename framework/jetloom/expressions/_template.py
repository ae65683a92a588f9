"""Templates: JSON values whose texts hold expressions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

from ..errors import ExpressionInvalid
from ._expression import SCOPE, Expression, Reference, as_text, compile_expression, read_tokens

if TYPE_CHECKING:
    from ..types import JSON

TEMPLATE_NESTING_MAX = 64
"""Lists and objects within each other in a template. Above it a value is data that belongs elsewhere."""


class Template:
    """A JSON value whose texts may hold `${expression}`. `references` is everything that they read."""

    __slots__ = ("_node", "references")

    def __init__(self, node: _Node, references: frozenset[Reference]) -> None:
        self._node = node
        self.references = references

    def render(self, scope: Mapping[str, JSON]) -> JSON:
        """The value with its expressions evaluated. Raises `ExpressionFailed`."""
        return _render(self._node, scope)


class _Text(NamedTuple):
    """Pieces of a text: expressions stand among plain strings."""

    pieces: tuple[str | Expression, ...]


type _Node = None | bool | int | float | str | Expression | _Text | list[_Node] | dict[str, _Node]


def compile_template(value: JSON, names: frozenset[str] = SCOPE) -> Template:
    """Compiles every `${…}` in the texts of a JSON value. Raises `ExpressionInvalid` for the first bad one.

    A text that is one expression and nothing else gives its value, of any type. Within a longer text a string is
    inserted as it is, other values as JSON. `$${` stands for `${`.
    """
    references: set[Reference] = set()

    def build(part: JSON, depth: int) -> _Node:
        if depth > TEMPLATE_NESTING_MAX:
            raise ExpressionInvalid(
                "", 0, f"more than {TEMPLATE_NESTING_MAX} lists and objects within each other"
            )
        if isinstance(part, str):
            return _compile_text(part, names, references)
        if isinstance(part, list | tuple):
            return [build(item, depth + 1) for item in part]
        if isinstance(part, dict):
            for key in part:
                if "${" in key:
                    raise ExpressionInvalid(
                        key, key.index("${"), "a key can't hold an expression, only a value can"
                    )
            return {key: build(item, depth + 1) for key, item in part.items()}
        return part

    return Template(build(value, 0), frozenset(references))


def _compile_text(text: str, names: frozenset[str], references: set[Reference]) -> _Node:
    if "${" not in text:
        return text
    pieces: list[str | Expression] = []
    for piece in _split(text):
        if isinstance(piece, str):
            pieces.append(piece)
            continue
        at, source = piece
        try:
            expression = compile_expression(source, names)
        except ExpressionInvalid as error:
            position, reason = error.fields["position"], error.fields["reason"]
            raise ExpressionInvalid(text, at + cast("int", position), str(reason)) from error
        references |= expression.references
        pieces.append(expression)
    # The line end that a YAML block leaves behind is no text that somebody meant.
    rest = [piece for piece in pieces if not isinstance(piece, str) or piece.strip("\n")]
    if len(rest) == 1 and isinstance(rest[0], Expression):
        return rest[0]
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(cast("list[str]", pieces))
    return _Text(tuple(pieces))


def _split(text: str) -> Iterator[str | tuple[int, str]]:
    """Plain pieces, and (position, source) of expressions."""
    at = 0
    plain = ""
    while True:
        start = text.find("${", at)
        if start < 0:
            plain += text[at:]
            break
        if start > at and text[start - 1] == "$":
            plain += text[at : start - 1] + "${"
            at = start + 2
            continue
        end = _closing(text, start)
        if plain or start > at:
            yield plain + text[at:start]
        plain = ""
        yield start + 2, text[start + 2 : end]
        at = end + 1
    if plain:
        yield plain


def _closing(text: str, start: int) -> int:
    depth = 0
    for token in read_tokens(text, start + 2):
        if token.kind != "sign":
            continue
        if token.text == "{":
            depth += 1
        elif token.text == "}":
            if depth == 0:
                return token.at
            depth -= 1
    raise ExpressionInvalid(
        text, start, "${ is not closed by }: close it, or write $${ for the two characters"
    )


def _render(node: _Node, scope: Mapping[str, JSON]) -> JSON:
    if isinstance(node, Expression):
        return node.evaluate(scope)
    if isinstance(node, _Text):
        return "".join(
            piece if isinstance(piece, str) else as_text(piece.evaluate(scope)) for piece in node.pieces
        )
    if isinstance(node, list):
        return [_render(item, scope) for item in node]
    if isinstance(node, dict):
        return {key: _render(item, scope) for key, item in node.items()}
    return node
