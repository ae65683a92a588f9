"""What the package shows: `__all__` of every package, and an import that stays light."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FRAMEWORK = Path(__file__).resolve().parent.parent / "framework"
HEAVY = ("aiohttp", "cel", "cyclopts", "mcp", "rich")
PACKAGES = sorted(
    ".".join(path.parent.relative_to(FRAMEWORK).parts) for path in FRAMEWORK.rglob("__init__.py")
)


def exported(module: ModuleType) -> list[str]:
    names: object = getattr(module, "__all__", None)
    assert isinstance(names, list | tuple), f"{module.__name__} has no __all__"
    return [str(name) for name in names]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]


@pytest.mark.parametrize("name", PACKAGES)
def test_package_has_what_it_names(name: str) -> None:
    """Every package says in `__all__` what is public, each name once, and each exists."""
    module = importlib.import_module(name)
    names = exported(module)
    assert sorted(set(names)) == sorted(names), "a name stands in __all__ twice"
    missing = [each for each in names if not hasattr(module, each)]
    assert not missing, f"{name}.__all__ names what is not there: {missing}"


def test_every_folder_of_code_is_a_package() -> None:
    """A folder with Python files has an `__init__`, so that no unit is found by accident."""
    folders = {path.parent for path in (FRAMEWORK / "jetloom").rglob("*.py")}
    bare = sorted(
        str(folder.relative_to(FRAMEWORK)) for folder in folders if not (folder / "__init__.py").exists()
    )
    assert not bare, f"no __init__.py in {bare}"


def test_import_is_light() -> None:
    """`import jetloom` loads none of the heavy libraries; they load where they are used."""
    code = f"import sys, jetloom; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
