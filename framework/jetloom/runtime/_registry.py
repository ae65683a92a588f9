"""Finding a module by its import path."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Sequence

from ..errors import StartFailed
from ._module import Module


def load_module(target: str) -> type[Module]:
    """The class that `package.module:Class` names. Raises `StartFailed` saying what is missing."""
    path, _, name = target.partition(":")
    if not path or not name:
        raise StartFailed([f"{target!r} is no target: write package.module:Class"])
    try:
        code = importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if path == missing or path.startswith(f"{missing}."):
            raise StartFailed(
                [f"{target}: there is no Python module {missing!r} on the import path"]
            ) from error
        raise StartFailed([f"{target}: {path} imports {missing!r}, which is not installed"]) from error
    except Exception as error:  # user code at import: every error of it is the answer
        raise StartFailed([f"{target}: importing {path} failed: {type(error).__name__}: {error}"]) from error
    found: object = getattr(code, name, None)
    known = [
        each
        for each, value in vars(code).items()
        if inspect.isclass(value) and issubclass(value, Module) and value is not Module
    ]
    if found is None:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"its modules: {', '.join(known) or 'none'}"
        raise StartFailed([f"{target}: {path} has no {name}; {hint}"])
    if not (inspect.isclass(found) and issubclass(found, Module)):
        raise StartFailed([f"{target}: {name} is no subclass of jetloom.Module"])
    return found


def load_modules(targets: Sequence[str]) -> list[type[Module]]:
    """All of them. Raises `StartFailed` with every target that can't be had."""
    found: list[type[Module]] = []
    problems: list[str] = []
    for target in targets:
        try:
            found.append(load_module(target))
        except StartFailed as error:
            problems.extend(str(each) for each in _lines(error))
    if problems:
        raise StartFailed(problems)
    return found


def _lines(error: StartFailed) -> list[str]:
    problems = error.fields.get("problems")
    return [str(each) for each in problems] if isinstance(problems, list) else [error.message]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
