"""Definitions from files and folders."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import DefinitionInvalid, InvalidInput
from ._finding import Finding
from ._load import Checked, check_text
from ._model import Definition

SUFFIXES = (".yaml", ".yml")
"""Of workflow files in a folder."""


def load_file(path: Path | str) -> list[Definition]:
    """The definitions of a file. Raises `DefinitionInvalid` with all findings, `InvalidInput` when it can't be read."""
    return _load([Path(path)], str(path))


def load_folder(path: Path | str) -> list[Definition]:
    """The definitions of all `*.yaml` and `*.yml` files below a folder, by the files' names.

    Raises `DefinitionInvalid` with the findings of every file, `InvalidInput` when there is no folder or nothing in it.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: there is no such folder")
    files = sorted(each for each in folder.rglob("*") if each.suffix in SUFFIXES and each.is_file())
    if not files:
        raise InvalidInput(
            f"{folder}: no workflow files ({', '.join(f'*{suffix}' for suffix in SUFFIXES)}) in it"
        )
    return _load(files, str(folder))


def _load(files: Iterable[Path], source: str) -> list[Definition]:
    definitions: list[Definition] = []
    findings: list[Finding] = []
    places: dict[tuple[str, str], str] = {}
    for file in files:
        checked = _check_file(file)
        findings += checked.findings
        for definition in checked.definitions:
            first = places.setdefault((definition.id, definition.version), str(file))
            if first != str(file):
                findings.append(
                    Finding(
                        str(file),
                        1,
                        1,
                        "id",
                        f"workflow {definition.id} version {definition.version} is in {first} too",
                        "give one of them another id or version",
                    )
                )
        definitions += checked.definitions
    if findings:
        raise DefinitionInvalid(source, [str(finding) for finding in findings])
    return definitions


def _check_file(path: Path) -> Checked:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path}: not UTF-8 at byte {error.start}: save it as UTF-8") from error
    except OSError as error:
        raise InvalidInput(f"{path}: can't be read: {error.strerror}") from error
    return check_text(text, str(path))
