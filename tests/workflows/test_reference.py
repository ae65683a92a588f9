"""The reference of definitions: what it shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jetloom.workflows import Definition, check_text, fingerprint, load_text
from jetloom.workflows._read import STEP_FIELDS, STEP_NOT_YET, WORKFLOW_FIELDS, WORKFLOW_NOT_YET

_BLOCK = re.compile(r"<!-- (\w+) -->\n```\w+\n(.*?)```", re.DOTALL)


@pytest.fixture
def text(repo_root: Path) -> str:
    return (repo_root / "docs/reference/workflows.md").read_text(encoding="utf-8")


def test_the_python_form_is_the_yaml_form(text: str) -> None:
    """Both examples build one definition."""
    blocks = dict(_BLOCK.findall(text))
    scope: dict[str, object] = {}
    exec(compile(blocks["builder"], "workflows.md", "exec"), scope)
    built = scope["definition"]
    assert isinstance(built, Definition)
    [loaded] = load_text(blocks["workflow"], "workflows.md")
    assert fingerprint(built) == fingerprint(loaded)
    assert built == loaded


def test_the_mistakes_are_found_as_shown(text: str) -> None:
    """The findings are those of the example, word for word."""
    blocks = dict(_BLOCK.findall(text))
    found = check_text(blocks["mistakes"], "order.yaml").findings
    assert [str(finding) for finding in found] == blocks["findings"].splitlines()


def test_every_field_is_described(text: str) -> None:
    """No field is accepted, or refused as not yet supported, without being named."""
    missing = [
        name
        for name in (*WORKFLOW_FIELDS, *STEP_FIELDS, *WORKFLOW_NOT_YET, *STEP_NOT_YET)
        if f"`{name}`" not in text
    ]
    assert missing == []


def test_the_examples_of_the_repository_are_valid(repo_root: Path) -> None:
    """Whole definitions in the documents and the services load without a finding."""
    texts = {str(path): path.read_text(encoding="utf-8") for path in (repo_root / "services").rglob("*.yaml")}
    for path in [repo_root / "README.md", *(repo_root / "docs").rglob("*.md")]:
        for index, block in enumerate(
            re.findall(r"```yaml\n(id: .*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
        ):
            if "verison" not in block:
                texts[f"{path}#{index}"] = block
    assert len(texts) > 2
    findings = [finding for name, text in texts.items() for finding in check_text(text, name).findings]
    assert findings == []
