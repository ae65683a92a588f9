"""`jetloom validate`: every finding of every file, at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidInput
from ._common import Output
from ._emit import print_json, say
from ._exit import BAD_INPUT, OK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..workflows import Finding

SUFFIXES = (".yaml", ".yml")

_DEFAULT = Output()


def validate(files: tuple[Path, ...], /, *, output: Output = _DEFAULT) -> int:
    """Check workflow files without a server: file, line, column and a suggestion for every mistake.

    Exit 2 when there is a mistake. Nothing is registered.

    For example:

        jetloom validate workflows/order.yaml
        jetloom validate workflows/ --json

    Parameters
    ----------
    files
        Workflow files, or folders of them (*.yaml, *.yml).
    """
    from ..app import read_file
    from ..workflows import check_text

    names: list[str] = []
    findings: list[Finding] = []
    sources = collect_files(files)
    for path in sources:
        text, unreadable = read_file(path)
        if unreadable:
            findings.append(unreadable)
            continue
        definitions, found = check_text(text, source=str(path))
        names += [definition.id for definition in definitions]
        findings += found
    if output.json:
        print_json({"valid": not findings, "files": len(sources), "workflows": names, "findings": findings})
    else:
        for finding in findings:
            print(finding)
        summary = f"{len(sources)} file(s), {len(names)} workflow(s): {', '.join(names) or 'none'}"
        if findings:
            say(f"error: {len(findings)} finding(s) in {len(sources)} file(s); nothing was registered")
        else:
            print(f"valid: {summary}")
    return BAD_INPUT if findings else OK


def collect_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those of the folders named, sorted. Raises `InvalidInput` for what is not there."""
    if not paths:
        raise InvalidInput("nothing to check: name workflow files or folders")
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.suffix in SUFFIXES and each.is_file())
            if not inside:
                raise InvalidInput(
                    f"{path}: no workflow files ({', '.join(f'*{suffix}' for suffix in SUFFIXES)}) in it"
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InvalidInput(f"{path}: there is no such file or folder")
    return found
