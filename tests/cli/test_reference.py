"""The documents about the command line say what the command line has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_main import commands

PAGES = (
    "docs/tutorial/first-run.md",
    "docs/how-to/first-module.md",
    "docs/how-to/first-workflow.md",
    "docs/how-to/run-in-containers.md",
    "docs/how-to/operate.md",
    "docs/how-to/requests.md",
    "docs/how-to/events.md",
    "docs/how-to/locks.md",
    "docs/how-to/schedules.md",
    "docs/how-to/shared-state.md",
    "docs/how-to/modules.md",
    "docs/how-to/configuration.md",
    "docs/reference/cli.md",
)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_the_reference_has_every_command_and_option(
    words: tuple[str, ...], run: Run, repo_root: Path
) -> None:
    """Each command has a row, which names each option that is its own."""
    reference = (repo_root / "docs/reference/cli.md").read_text()
    command = f"`jetloom {' '.join(words)}"
    row = next((line for line in reference.splitlines() if line.startswith(f"| {command}")), None)
    assert row is not None, f"no row for {command}"
    options = set(
        re.findall(r"^│ [* ]\s*(--[a-z-]+)|^│ (--[a-z-]+)", run(*words, "--help").out, re.MULTILINE)
    )
    own = {one or other for one, other in options} - {"--json", "--nats", "--namespace"}
    missing = sorted(option for option in own if option not in row)
    assert not missing, f"{command}: {missing}"


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_only_commands_that_exist(page: str, repo_root: Path) -> None:
    """A command in a page is a command of the tree."""
    text = (repo_root / page).read_text()
    known = {words[0] for words in commands()} | {" ".join(words) for words in commands()}
    for found in re.findall(r"(?:`|^)jetloom ([a-z]+(?: [a-z]+)?)", text, re.MULTILINE):
        first = found.split()[0]
        assert found in known or first in known, f"{page}: jetloom {found}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str, repo_root: Path) -> None:
    """A relative link names a file of the repository."""
    source = repo_root / page
    for link in re.findall(r"\]\(([^)#:]+)\)", source.read_text()):
        assert (source.parent / link).exists(), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_code_of_the_pages_is_good(page: str, repo_root: Path, tmp_path: Path, run: Run) -> None:
    """Python blocks run, and define modules that a host accepts; workflow files are valid."""
    from jetloom.config import Settings
    from jetloom.messages import Names
    from jetloom.runtime import Module
    from jetloom.runtime._plan import make_plan

    text = (repo_root / page).read_text()
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
        scope: dict[str, object] = {"__name__": f"page_{number}"}
        exec(compile(code, page, "exec", dont_inherit=True), scope)
        modules = [
            value
            for value in scope.values()
            if isinstance(value, type) and issubclass(value, Module) and value is not Module
        ]
        assert make_plan(modules, Settings(), Names(), {}).problems == []
    for number, code in enumerate(re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)):
        path = tmp_path / f"{number}.yaml"
        path.write_text(code)
        ended = run("validate", str(path))
        assert ended.code == 0, ended.out
