"""The rules of the layout that import-linter can't say, checked on the syntax tree of every file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
FRAMEWORK = ROOT / "framework"
PURE = (
    "jetloom.engine.core",
    "jetloom.expressions",
    "jetloom.messages",
    "jetloom.schedules",
    "jetloom.workflows",
)
IMPURE = frozenset(
    {
        "aiohttp",
        "asyncio",
        "logging",
        "nats",
        "os",
        "random",
        "secrets",
        "socket",
        "threading",
        "time",
        "uuid",
    }
)
REAL_CLOCK = frozenset({"random", "secrets", "time", "uuid"})
REAL_CLOCK_CALLS = frozenset(
    {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "os.urandom", "os.getrandom"}
)
LINES_MAX = 600


class Import(NamedTuple):
    """One imported module or name, absolute: `import a.b` is `a.b`, `from a.b import c` is `a.b.c`."""

    line: int
    target: str
    from_module: str
    """`a.b` of `from a.b import c`; empty for `import a.b`."""


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def sources(*folders: Path) -> list[Path]:
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def module_name(path: Path) -> str:
    base = FRAMEWORK if path.is_relative_to(FRAMEWORK) else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_name(path: Path) -> str:
    """The package whose private files this file may import: its own folder's."""
    name = module_name(path)
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def imports(path: Path) -> Iterator[Import]:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, "")
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package_name(path).split(".")
                kept = parents[: len(parents) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            for alias in node.names:
                yield Import(node.lineno, f"{base}.{alias.name}", base)


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def private_module_of(target: str) -> str:
    """The package that owns the first private module in the path, or nothing: `a.b` for `a.b._c.d`."""
    parts = target.split(".")
    for index, part in enumerate(parts[1:], start=1):
        if part.startswith("_") and not part.startswith("__"):
            folder = FRAMEWORK if parts[0] == "jetloom" else ROOT
            owner = folder.joinpath(*parts[:index])
            if (owner / f"{part}.py").exists() or (owner / part).is_dir():
                return ".".join(parts[:index])
    return ""


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def where(path: Path, line: int, what: str) -> str:
    return f"{path.relative_to(ROOT)}:{line}: {what}"


def purity_faults(path: Path) -> Iterator[str]:
    for found in imports(path):
        if found.target.partition(".")[0] in IMPURE:
            yield where(path, found.line, f"a pure unit imports {found.target}")


def clock_faults(path: Path) -> Iterator[str]:
    for found in imports(path):
        # A generator that is given its seed is no source of randomness.
        if found.target.partition(".")[0] in REAL_CLOCK and found.target != "random.Random":
            yield where(path, found.line, f"imports {found.target}; ask jetloom.clock")
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        if ".".join(called.split(".")[-2:]) in REAL_CLOCK_CALLS:
            yield where(path, node.lineno, f"calls {called}(); ask jetloom.clock")
        if called == "Random" and not node.args:
            yield where(path, node.lineno, "Random() without a seed")


def privacy_faults(path: Path) -> Iterator[str]:
    for found in imports(path):
        owner = private_module_of(found.target)
        if owner and not is_inside(package_name(path), owner):
            yield where(path, found.line, f"imports {found.target}, which is private to {owner}")


def test_layers_hold() -> None:
    """Units import downwards only: the contracts of pyproject.toml are kept."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command as run; run()",
            "--no-logo",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pure_units_import_nothing_impure() -> None:
    """Core, definitions, messages, schedules and expressions import nothing that does I/O or asks a clock."""
    files = [path for path in sources(FRAMEWORK) if any(is_inside(module_name(path), unit) for unit in PURE)]
    faults = [fault for path in files for fault in purity_faults(path)]
    assert not faults, "\n".join(faults)


def test_only_the_clock_asks_the_real_one() -> None:
    """Outside jetloom.clock nothing reads the real time, randomness or ids."""
    files = [path for path in sources(FRAMEWORK) if module_name(path) != "jetloom.clock"]
    faults = [fault for path in files for fault in clock_faults(path)]
    assert not faults, "\n".join(faults)


def test_private_files_stay_inside_their_package() -> None:
    """A file `_name.py` is imported only from inside its package; everyone else comes through `__init__`."""
    files = sources(FRAMEWORK, ROOT / "services")
    faults = [fault for path in files for fault in privacy_faults(path)]
    assert not faults, "\n".join(faults)


def test_nobody_imports_testing() -> None:
    """What users test with is imported by nothing else in the package and by no service."""
    faults = [
        where(path, found.line, f"imports {found.target}")
        for path in sources(FRAMEWORK, ROOT / "services")
        if not is_inside(module_name(path), "jetloom.testing")
        for found in imports(path)
        if is_inside(found.target, "jetloom.testing")
    ]
    assert not faults, "\n".join(faults)


def test_units_do_not_import_the_package_root() -> None:
    """Inside the package a name comes from its unit, not from the root, which stands above every unit."""
    faults = [
        where(path, found.line, f"imports {found.target}")
        for path in sources(FRAMEWORK)
        if module_name(path) != "jetloom"
        for found in imports(path)
        if found.from_module == "jetloom" and not is_unit(found.target)
    ]
    assert not faults, "\n".join(faults)


def is_unit(name: str) -> bool:
    base = FRAMEWORK.joinpath(*name.split("."))
    return base.is_dir() or base.with_suffix(".py").exists()


def test_files_stay_readable() -> None:
    """No file grows past what a reader holds: 600 lines, and 500 is the aim."""
    long = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path in sources(FRAMEWORK, ROOT / "services")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > LINES_MAX
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("import time\n", 1),
        ("from datetime import datetime, UTC\nx = datetime.now(UTC)\n", 1),
        ("import datetime\nx = datetime.datetime.utcnow()\n", 1),
        ("from random import Random\nx = Random(7)\n", 0),
        ("from random import Random\nx = Random()\n", 1),
        ("import os\nx = os.urandom(3)\n", 1),
        ("def f(loop):\n    return loop.time()\n", 0),
    ],
)
def test_the_clock_rule_sees(
    source: str, faults: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule about the clock finds what it is there to find."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "unit.py"
    path.write_text(source, encoding="utf-8")
    assert len(list(clock_faults(path))) == faults


@pytest.mark.parametrize(
    ("importer", "source", "faults"),
    [
        ("a/_one.py", "from ._two import x\n", 0),
        ("a/__init__.py", "from a._two import x\n", 0),
        ("b.py", "from a._two import x\n", 1),
        ("b.py", "from a import _two\n", 1),
        ("b.py", "import a._two as two\n", 1),
        ("b.py", "from a import two\n", 0),
        ("a/c/_inner.py", "from a._two import x\n", 0),
    ],
)
def test_the_privacy_rule_sees(
    importer: str, source: str, faults: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule about private files finds every form of import, and allows the package's own."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "FRAMEWORK", tmp_path / "framework")
    (tmp_path / "a" / "c").mkdir(parents=True)
    (tmp_path / "a" / "_two.py").touch()
    path = tmp_path / importer
    path.write_text(source, encoding="utf-8")
    assert len(list(privacy_faults(path))) == faults
