"""`jetloom asyncapi` as scripts call it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jetloom.cli import main

MODULE = """
from jetloom import Module, endpoint


class Asked(Module):
    id = "asked"

    @endpoint()
    async def now(self) -> int:
        return 1
"""


def test_json_is_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json stdout is one JSON document, whatever --format says, and names the file with --out."""
    (tmp_path / "asked_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    target = "asked_module:Asked"
    assert main(["asyncapi", target, "--format", "yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["asyncapi"] == "3.0.0"
    assert main(["asyncapi", target, "--out", "a.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"written": "a.json", "format": "json"}
