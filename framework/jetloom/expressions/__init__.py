"""CEL expressions and templates over JSON: compiled and checked once, evaluated without I/O.

An expression sees the names of its scope and nothing else: no time, no randomness, no environment. One that only walks
a path (`steps.reserve.total`, `input["first-name"]`, `input.items[0]`) is a walk through dicts and lists; any other is
compiled by the CEL library, which loads with the first of them. CEL has no step budget, so the source's length, its
nesting and the nesting of its comprehensions have limits.

Values are JSON. CEL computes in 64 bits: a larger integer is a float inside a real expression, and itself in a path.
"""

from ._expression import (
    COMPREHENSIONS_MAX,
    FUNCTIONS,
    NESTING_MAX,
    SCOPE,
    SOURCE_CHARACTERS_MAX,
    Expression,
    Reference,
    compile_expression,
)
from ._template import TEMPLATE_NESTING_MAX, Template, compile_template

__all__ = [
    "COMPREHENSIONS_MAX",
    "FUNCTIONS",
    "NESTING_MAX",
    "SCOPE",
    "SOURCE_CHARACTERS_MAX",
    "TEMPLATE_NESTING_MAX",
    "Expression",
    "Reference",
    "Template",
    "compile_expression",
    "compile_template",
]
