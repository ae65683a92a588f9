"""Definitions from files and folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetloom.errors import DefinitionInvalid, InvalidInput
from jetloom.workflows import load_file, load_folder

STEPS = "steps: [{id: a, uses: x.y}]\n"


def test_a_folder_gives_all_of_it(tmp_path: Path) -> None:
    """Files below it as well, by name; other files are none of it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "b.yaml").write_text(f"id: b\n{STEPS}")
    (tmp_path / "in" / "a.yml").write_text(f"id: a\n{STEPS}")
    (tmp_path / "readme.txt").write_text("no workflow")
    assert sorted(definition.id for definition in load_folder(tmp_path)) == ["a", "b"]


def test_mistakes_of_all_files_come_at_once(tmp_path: Path) -> None:
    """With the name of each."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"id: {name}\nnme: x\n{STEPS}")
    with pytest.raises(DefinitionInvalid) as caught:
        load_folder(tmp_path)
    assert "a.yaml:2:1: nme" in str(caught.value)
    assert "b.yaml:2:1: nme" in str(caught.value)


def test_one_version_stands_in_one_file(tmp_path: Path) -> None:
    """Two files can't both say what a version is."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"id: same\n{STEPS}")
    with pytest.raises(DefinitionInvalid, match=r"same version 1 is in .*a\.yaml too"):
        load_folder(tmp_path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    """No file, no folder, nothing in it, no UTF-8."""
    for load, path in (
        (load_file, tmp_path / "x.yaml"),
        (load_folder, tmp_path / "x"),
        (load_folder, tmp_path),
    ):
        with pytest.raises(InvalidInput):
            load(path)
    (tmp_path / "l.yaml").write_bytes(b"id: \xff\n")
    with pytest.raises(InvalidInput, match="not UTF-8 at byte 4"):
        load_file(tmp_path / "l.yaml")
