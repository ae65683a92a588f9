"""`jetloom new`: what it makes is used as a newcomer would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from jetloom.cli import main

LINES_MAX = 150


def made(folder: Path, name: str = "flower-shop") -> Path:
    root = folder / name
    assert main(["new", name, "--folder", str(root)]) == 0
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JETLOOM_")}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_it_is_small_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Under 150 lines altogether; every file can be parsed; the entry point names the module."""
    root = made(tmp_path)
    files = [path for path in root.rglob("*") if path.is_file()]
    assert sum(len(path.read_text().splitlines()) for path in files) < LINES_MAX
    for path in files:
        assert str(path.relative_to(root)) in capsys.readouterr().out or path.exists()
        assert "$" not in path.read_text().replace("${input.name}", "").replace("${steps.compose}", "")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["jetloom.modules"] == {"greeter": "flower_shop.greeter:Greeter"}
    services = yaml.safe_load((root / "compose.yaml").read_text())["services"]
    assert set(services) == {"nats", "engine", "greeter"}


def test_its_test_passes(tmp_path: Path) -> None:
    """`pytest` in the new project runs its test, in virtual time."""
    done = run(made(tmp_path), "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_it_is_valid_and_described(tmp_path: Path) -> None:
    """The workflow validates and the module's document can be written, from inside the project."""
    root = made(tmp_path)
    done = run(root, "-m", "jetloom", "validate", "flower_shop/workflows", "--json")
    assert json.loads(done.stdout)["valid"], done.stdout
    done = run(root, "-m", "jetloom", "asyncapi", "flower_shop.greeter:Greeter")
    assert "rpc-greeter-visits" in json.loads(done.stdout)["operations"]


def test_bad_names_and_full_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that Python can't import is named; a folder with something in it is left alone."""
    for name in ("Shop", "class", "9lives", "a" * 33, "jetloom"):
        assert main(["new", name, "--folder", str(tmp_path / "x")]) == 2, name
    assert not (tmp_path / "x").exists()
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["new", "shop", "--folder", str(tmp_path)]) == 4
    assert "--folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
