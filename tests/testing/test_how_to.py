"""What the page about testing shows is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

_FILE = re.compile(r"<!-- file: (?P<name>\S+) -->\n```\w*\n(?P<text>.*?)```", re.DOTALL)


def test_examples_pass(pytester: pytest.Pytester, repo_root: Path) -> None:
    """Every file of the page, in one folder, is a suite that passes, with and without pytest-asyncio."""
    page = (repo_root / "docs/how-to/testing.md").read_text(encoding="utf-8")
    for each in _FILE.finditer(page):
        (pytester.path / each["name"]).write_text(each["text"], encoding="utf-8")
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    (pytester.path / "conftest.py").write_text("", encoding="utf-8")
    tests = page.count("def test_")
    assert tests > 8
    result = pytester.runpytest_subprocess(
        "-p", "no:asyncio", "-p", "no:anyio", "-p", "no:xdist", "-q", "--jetloom-seed", "7"
    )
    result.assert_outcomes(passed=tests)
