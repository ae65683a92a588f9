"""The command line as a whole: usage errors, help, and errors as exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jetloom.cli._main import build_app
from tests.cli.conftest import ErrorDocument, Run


def commands() -> list[tuple[str, ...]]:
    """Every command that does something, as its words."""
    found: list[tuple[str, ...]] = []
    app = build_app()
    for name in app:
        if name.startswith("-"):
            continue
        inner = [each for each in app[name] if not each.startswith("-")]
        found += [(name, each) for each in inner] if inner else [(name,)]
    return found


def test_the_commands_are_those_that_are_documented() -> None:
    """The list of commands is a contract."""
    assert {" ".join(words) for words in commands()} == {
        *(
            "dev",
            "run",
            "validate",
            "start",
            "publish",
            "doctor",
            "bench",
            "asyncapi",
            "new",
            "workflows list",
            "workflows show",
        ),
        *(
            "runs list",
            "runs show",
            "runs journal",
            "runs tail",
            "runs cancel",
            "runs result",
            "runs message",
        ),
        *("runs action", "events tail", "dlq list", "dlq show", "dlq replay", "dlq drop"),
        *("modules list", "modules show", "call"),
        *("config show", "config check", "config schema"),
        *("locks list", "locks show"),
        *("schedules list", "schedules show", "schedules next"),
        *("schedules trigger", "schedules pause", "schedules resume"),
    }


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_teaches_itself(words: tuple[str, ...], run: Run) -> None:
    """`--help` has an example that is a call of the command, and `--json`."""
    ended = run(*words, "--help")
    assert ended.code == 0
    assert f"    jetloom {' '.join(words)}" in ended.out
    assert "--json" in ended.out


def test_a_mistyped_command_is_bad_input_with_a_suggestion(run: Run) -> None:
    """The error goes to stderr and says what is near."""
    ended = run("runs", "sho", "a")
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("error: ")
    assert 'Did you mean "show"?' in ended.err
    assert "hint: " in ended.err


@pytest.mark.parametrize(
    "words", [("runs", "show"), ("runs", "show", "a", "b"), ("runs", "list", "--status", "lost")]
)
def test_wrong_arguments_are_bad_input(words: tuple[str, ...], run: Run) -> None:
    """A missing, a surplus and an illegal argument."""
    assert run(*words).code == 2


def test_an_error_in_json_mode_is_one_document(run: Run) -> None:
    """A program gets the code, the message and the exit code on stdout."""
    ended = run("start", "order", "--input", "{", "--json")
    assert ended.code == 2
    document = ended.read(ErrorDocument)
    assert document.exit_code == 2
    assert document.error.code == "input.invalid"


def test_help_loads_nothing_heavy() -> None:
    """The help of the command and the load of the package need no NATS, HTTP, CEL or event loop."""
    code = (
        "import sys\nfrom jetloom.cli import main\nmain(['--help'])\n"
        "heavy = {'nats', 'aiohttp', 'cel', 'asyncio', 'jsonschema_rs', 'yaml', 'prometheus_client', 'uvloop'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stderr.strip() == "[]"
    assert "jetloom dev" in ended.stdout
