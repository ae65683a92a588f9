"""The `jetloom` command.

One file per group of commands; each command's function has the arguments, and loads what it needs when it runs, so
that `jetloom --help` stays fast. Rendering (`_render`) takes plain data and no connection. Every command ends with one
of the exit codes of `_exit`; errors go to stderr with a hint, and in `--json` mode to stdout as a document too.
"""

from __future__ import annotations

from ._main import main

__all__ = ["main"]
