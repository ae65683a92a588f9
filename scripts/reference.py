"""Writes docs/reference/python.md from the code: signatures and docstrings of what users import; `--check` compares."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import textwrap
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "python.md"
COLUMNS = 100

SECTIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    (
        "Modules",
        "from jetloom import …",
        "jetloom",
        ("Module", "module", "on", "endpoint", "every", "background", "health"),
    ),
    ("Events", "from jetloom import …", "jetloom", ("Event", "Retry")),
    ("Ticks", "from jetloom import …", "jetloom", ("Tick",)),
    ("Steps", "from jetloom import …", "jetloom", ("step", "StepContext", "Undo", "TaskFailed")),
    ("The runtime", "`rt`, given to `Module.init`", "jetloom", ("Runtime",)),
    ("Publishing and subscribing", "`rt.bus`", "jetloom.bus", ("Bus", "EventHandler")),
    ("Requests", "`rt.rpc`", "jetloom.rpc", ("Rpc", "CallRetry")),
    (
        "Runs",
        "`rt.workflows`",
        "jetloom.runtime",
        ("Workflows", "Started", "RunView", "StepView", "RunSummary", "JournalLine"),
    ),
    ("Buckets", "`rt.kv(…)`", "jetloom.stores", ("KeyValue", "Entry", "Change")),
    ("Locks", "`rt.locks`", "jetloom.stores", ("Locks", "Lock")),
    ("Shared types", "from jetloom import …", "jetloom", ("Actor", "ErrorClass", "JetloomError")),
    ("Testing", "from jetloom.testing import …", "jetloom.testing", ("World", "Fake", "Delay")),
)
"""Title, where it comes from, module, names."""


def render() -> str:
    """The whole page."""
    parts = [
        "# Python",
        "What modules, services and tests import. Written from the code by `make docs`; a test compares.",
    ]
    for title, source, module, names in SECTIONS:
        parts.append(f"## {title}\n\n{source}")
        found = importlib.import_module(module)
        parts += [_describe(name, getattr(found, name)) for name in names]
    return "\n\n".join(parts) + "\n"


def _describe(name: str, value: object) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    if isinstance(tree, ast.ClassDef):
        return _class(name, tree)
    assert isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    return f"### `{name}`\n\n{_code(_signature(tree))}\n\n{_text(tree)}".rstrip()


def _class(name: str, tree: ast.ClassDef) -> str:
    parts = [f"### `{name}`", _text(tree)]
    fields = [_field(each) for each in tree.body if isinstance(each, ast.AnnAssign)]
    if shown := [field for field in fields if field]:
        parts.append(_code("\n".join(shown)))
    for each in tree.body:
        if not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) or each.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator) for decorator in each.decorator_list}
        if "overload" in decorators:
            continue
        signature = _signature(each, own=name, prefix="@property\n" if "property" in decorators else "")
        parts.append(f"{_code(signature)}\n\n{_text(each)}".rstrip())
    return "\n\n".join(part for part in parts if part)


def _field(each: ast.AnnAssign) -> str:
    name = ast.unparse(each.target)
    return "" if name.startswith("_") else ast.unparse(each)


def _signature(tree: ast.FunctionDef | ast.AsyncFunctionDef, *, own: str = "", prefix: str = "") -> str:
    arguments = tree.args
    if own and arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args = arguments.args[1:]
    word = "async def" if isinstance(tree, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(tree.returns)}" if tree.returns is not None else ""
    types = f"[{', '.join(ast.unparse(each) for each in tree.type_params)}]" if tree.type_params else ""
    line = f"{word} {tree.name}{types}({ast.unparse(arguments)}){returns}"
    if len(line) <= COLUMNS:
        return prefix + line
    pieces = _split(ast.unparse(arguments))
    return (
        f"{prefix}{word} {tree.name}{types}(\n"
        + "".join(f"    {piece},\n" for piece in pieces)
        + f"){returns}"
    )


def _split(arguments: str) -> list[str]:
    """Arguments one by one: commas inside brackets don't count."""
    pieces, depth, start = list[str](), 0, 0
    for at, sign in enumerate(arguments):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            pieces.append(arguments[start:at].strip())
            start = at + 1
    return [*pieces, arguments[start:].strip()]


def _text(tree: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return ast.get_docstring(tree) or ""


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def main() -> int:
    text = render()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is not what the code says: run `make docs`", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
