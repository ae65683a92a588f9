"""Printing: JSON documents for programs, rich text for people, errors for both."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType

WIDTH_PIPED = 160
"""Columns when stdout is no terminal: wide enough for tables of ids, so that `grep` sees whole lines."""


def print_json(value: object) -> None:
    """One JSON document, or one line of several, on stdout."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def open_console(*, stderr: bool = False) -> Console:
    """A console for people; without colours and with a fixed width when nobody watches."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else WIDTH_PIPED
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def show(json: bool, value: object, render: Callable[[], RenderableType]) -> None:
    """Prints `value` as JSON, or what `render` makes of it; a text is printed as it is."""
    if json:
        print_json(value)
        return
    rendered = render()
    if isinstance(rendered, str):
        sys.stdout.write(rendered + "\n")
    else:
        open_console().print(rendered)
    sys.stdout.flush()


def say(text: str) -> None:
    """A remark that is no result, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_error(
    message: str, *, hint: str = "", code: str = "error", exit_code: int = 1, json: bool = False
) -> None:
    """`error:` and `hint:` on stderr; with `json` the same thing on stdout as one document."""
    say(f"error: {message}")
    if hint:
        say(f"hint: {hint}")
    if json:
        error: dict[str, object] = {"code": code, "message": message}
        if hint:
            error["hint"] = hint
        print_json({"error": error, "exit_code": exit_code})
