"""`jetloom validate`."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from jetloom.cli._validate import collect_files
from jetloom.errors import InvalidInput
from tests.cli.conftest import Run

TEN_MISTAKES = """\
id: Order Number
versoin: "1"
steps:
  - id: reserve
    uses: Inventory Reserve
    retry: { max: many }
  - id: reserve
    uses: inventory.reserve
  - id: charge
    uses: payments.charge
    depends_on: [reserv]
    on_error: ignore
  - id: ship
    uses: shipping.create
    timeout: soon
    with: { order: "${input.}" }
    depends_on: [ship]
  - id: label
    usess: labels.print
    depends_on: [charge]
"""


class Report(msgspec.Struct):
    valid: bool
    files: int
    workflows: list[str]


def test_ten_mistakes_are_ten_findings(run: Run, tmp_path: Path) -> None:
    """Each with file, line and column; exit 2."""
    path = tmp_path / "order.yaml"
    path.write_text(TEN_MISTAKES)
    ended = run("validate", str(path))
    assert ended.code == 2
    positions = re.findall(rf"^{re.escape(str(path))}:\d+:\d+", ended.out, re.MULTILINE)
    assert len(positions) >= 10, ended.out
    assert "nothing was registered" in ended.err


def test_a_good_file_is_valid(run: Run, tmp_path: Path) -> None:
    """In JSON mode one document with the workflows' names."""
    path = tmp_path / "a.yaml"
    path.write_text("id: greet\nsteps:\n  - id: compose\n    uses: greeter.compose\n")
    assert run("validate", str(tmp_path)).out == "valid: 1 file(s), 1 workflow(s): greet\n"
    report = run("validate", str(path), "--json").read(Report)
    assert (report.valid, report.files, report.workflows) == (True, 1, ["greet"])


def test_folders_stand_for_their_files(tmp_path: Path) -> None:
    """Sorted; other files are left out."""
    for name in ("b.yml", "a.yaml", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in collect_files([tmp_path])] == ["a.yaml", "b.yml"]


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder without workflows, and nothing at all."""
    with pytest.raises(InvalidInput, match="no such file"):
        collect_files([tmp_path / "none.yaml"])
    with pytest.raises(InvalidInput, match="no workflow files"):
        collect_files([tmp_path])
    with pytest.raises(InvalidInput, match="nothing to check"):
        collect_files([])


def test_a_file_that_is_no_text_hides_nothing(run: Run, tmp_path: Path) -> None:
    """It is a finding beside those of the other files."""
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "b.yaml").write_text("id: B\n")
    ended = run("validate", str(tmp_path))
    assert ended.code == 2
    assert "a.yaml:1:1: not UTF-8 at byte 0 (save it as UTF-8)" in ended.out
    assert "b.yaml:1:5" in ended.out
