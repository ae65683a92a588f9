"""Finding modules: registered by a decorator, by import path, by the entry points of installed packages."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import cast, overload

from ..errors import ModuleConflict, ModuleNotFound, StartFailed
from ._module import Module

ENTRY_POINTS = "jetloom.modules"
"""The group in which an installed package names its modules: `orders = "shop.orders:Orders"`."""

_registered: dict[str, type[Module]] = {}


# -- registered ones
@overload
def module[M: type[Module]](kind: M, /) -> M: ...
@overload
def module[M: type[Module]](
    *, id: str = "", version: str = "", description: str = "", depends_on: Sequence[str] | None = None
) -> Callable[[M], M]: ...


def module(
    kind: type[Module] | None = None,
    /,
    *,
    id: str = "",
    version: str = "",
    description: str = "",
    depends_on: Sequence[str] | None = None,
) -> object:
    """Registers a module class, and may say its id and the like: `@module` or `@module(id="orders")`.

    Raises `ModuleConflict` when another class has that id.
    """

    def add(kind: type[Module]) -> type[Module]:
        given = {"id": id, "version": version, "description": description}
        for name, value in given.items():
            if value:
                setattr(kind, name, value)
        if depends_on is not None:
            kind.depends_on = tuple(depends_on)
        register(kind)
        return kind

    return add if kind is None else add(kind)


def register(kind: type[Module]) -> None:
    """Makes a module class known under its id. The same class again is fine, also a reloaded one.

    Raises `ModuleConflict` when another class has that id.
    """
    known = _registered.get(kind.id)
    if known is not None and _path(known) != _path(kind):
        raise ModuleConflict(
            f"module {kind.id!r} is registered twice: {_path(known)} and {_path(kind)}; give one another id",
            module=kind.id,
        )
    _registered[kind.id] = kind


def registered() -> dict[str, type[Module]]:
    """The registered classes by id, as they are now."""
    return dict(_registered)


def get_registered(module_id: str) -> type[Module]:
    """Raises `ModuleNotFound`."""
    if module_id not in _registered:
        raise ModuleNotFound(module_id)
    return _registered[module_id]


# -- targets
def load_module(target: str) -> type[Module]:
    """The class that `package.module:Class` names. Raises `StartFailed` saying what is missing."""
    path, _, name = target.partition(":")
    if not path or not name:
        raise StartFailed([f"{target!r} is no target: write package.module:Class"])
    code = _imported(target, path)
    found: object = getattr(code, name, None)
    if found is None:
        known = [each.__name__ for each in _modules_in(code)]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"its modules: {', '.join(known) or 'none'}"
        raise StartFailed([f"{target}: {path} has no {name}; {hint}"])
    if not _is_module(found):
        raise StartFailed([f"{target}: {name} is no subclass of jetloom.Module"])
    return cast("type[Module]", found)


def find_modules(target: str) -> list[type[Module]]:
    """What a target names: the class of `package.module:Class`, every module with an id that `package.module` itself
    defines, or what the entry point `@name` stands for. Raises `StartFailed`.
    """
    if target.startswith("@"):
        return _installed(target)
    if ":" in target:
        return [load_module(target)]
    code = _imported(target, target)
    own = [each for each in _modules_in(code) if each.__module__ == code.__name__ and each.id]
    if not own:
        raise StartFailed([f"{target}: {target} defines no module (a subclass of jetloom.Module with an id)"])
    return own


def load_modules(targets: Sequence[str]) -> list[type[Module]]:
    """All of them, each once. Raises `StartFailed` with every target that can't be had."""
    found, problems = try_modules(targets)
    if problems:
        raise StartFailed(problems)
    return found


def try_modules(targets: Iterable[str]) -> tuple[list[type[Module]], list[str]]:
    """What can be had, and why the rest can't."""
    found: list[type[Module]] = []
    problems: list[str] = []
    for target in targets:
        try:
            found.extend(find_modules(target))
        except StartFailed as error:
            problems.extend(_lines(error))
    return list(dict.fromkeys(found)), problems


def installed_targets() -> list[str]:
    """The targets of every installed module: `@name` of each entry point of the group `jetloom.modules`."""
    from importlib.metadata import entry_points  # 20 ms, so only where it is asked for

    return sorted({f"@{each.name}" for each in entry_points(group=ENTRY_POINTS)})


def _installed(target: str) -> list[type[Module]]:
    from importlib.metadata import entry_points

    name = target.removeprefix("@")
    found = {each.value: each for each in entry_points(group=ENTRY_POINTS, name=name)}
    if not found:
        known = installed_targets()
        raise StartFailed(
            [
                f"{target}: no installed package has the entry point {name!r} in the group {ENTRY_POINTS}; "
                f"installed are: {', '.join(known) or 'none'}"
            ]
        )
    if len(found) > 1:
        raise StartFailed([f"{target}: several packages have this entry point: {', '.join(sorted(found))}"])
    [value] = found
    try:
        return find_modules(value)
    except StartFailed as error:
        raise StartFailed([f"{target}: {line}" for line in _lines(error)]) from error


def _imported(target: str, path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if path == missing or path.startswith(f"{missing}."):
            hint = "" if ":" in target else ", nor a file of that name; write package.module:Class"
            raise StartFailed(
                [f"{target}: there is no Python module {missing!r} on the import path{hint}"]
            ) from error
        raise StartFailed([f"{target}: {path} imports {missing!r}, which is not installed"]) from error
    except Exception as error:  # user code at import: every error of it is the answer
        raise StartFailed([f"{target}: importing {path} failed: {type(error).__name__}: {error}"]) from error


def _modules_in(code: ModuleType) -> list[type[Module]]:
    return [cast("type[Module]", value) for value in vars(code).values() if _is_module(value)]


def _is_module(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Module) and value is not Module


def _path(kind: type[Module]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _lines(error: StartFailed) -> list[str]:
    return cast("list[str]", error.fields["problems"])
