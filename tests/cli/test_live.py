"""The commands as processes, against `jetloom dev` and its own server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import msgspec
import pytest

from jetloom.runtime import JournalLine, RunView
from jetloom.types import JSON, RunStatus
from tests.cli.conftest import ErrorDocument
from tests.cli.live import COMMAND_SECONDS, GREET, STUCK, Live, environment, serve_dev

pytestmark = pytest.mark.xdist_group("cli-live")

MODULE = "tests.cli.greeter:Greeter"


class Finished(msgspec.Struct):
    run: str
    status: str
    output: dict[str, JSON]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Iterator[Live]:
    """One process for all tests of this file that don't stop it."""
    folder = tmp_path_factory.mktemp("dev")
    flows = folder / "flows"
    flows.mkdir()
    (flows / "greet.yaml").write_text(GREET)
    (flows / "stuck.yaml").write_text(STUCK)
    with serve_dev(folder, repo_root, MODULE, str(flows)) as started:
        yield started


def answers(url: str) -> bool:
    """Whether something listens there."""
    parts = urlsplit(url)
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((parts.hostname or "", parts.port or 0)) == 0


def test_dev_says_where_to_look(live: Live) -> None:
    """The summary names what runs, and its health server answers."""
    assert live.summary.own_server
    assert live.summary.engine
    assert live.summary.workflows == ("greet", "stuck")
    assert live.summary.modules == ("greeter",)
    with urlopen(f"{live.summary.http_url}/readyz", timeout=10) as answer:
        assert answer.status == 200
    with urlopen(f"{live.summary.http_url}/metrics", timeout=10) as answer:
        assert b"jetloom_" in answer.read()


def test_a_run_is_started_waited_for_and_shown(live: Live) -> None:
    """Output, status, steps, journal and events of one run."""
    ended = live.run(
        "start", "greet", "--input", '{"name": "Kim"}', "--id", "kim", "--wait", "--timeout", "30s", "--json"
    )
    assert ended.code == 0, ended.err
    assert ended.read(Finished).output == {"said": "Hello, Kim!"}
    view = live.run("runs", "show", "kim", "--json").read(RunView)
    assert (view.status, [step.attempt for step in view.steps]) == (RunStatus.COMPLETED, [1])
    journal = live.run("runs", "journal", "kim", "--json").read(list[JournalLine])
    assert [line.n for line in journal] == list(range(1, len(journal) + 1))
    tail = live.run("runs", "tail", "kim", "--json").out.splitlines()
    assert len(tail) == len(journal)
    assert "Hello, Kim!" in live.run("runs", "show", "kim").out
    assert live.run("runs", "result", "kim").out == '{"said":"Hello, Kim!"}\n'
    events = live.run(
        "events", "tail", "demo.greeting.composed", "--history", "--limit", "1", "--timeout", "20s", "--json"
    )
    assert msgspec.json.decode(events.out, type=dict[str, JSON])["payload"] == {"name": "Kim"}
    listed = live.run("runs", "list", "--workflow", "greet")
    assert "kim" in listed.out


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (("start", "greet", "--input", "{}"), 2, "schema.mismatch"),
        (("start", "gret"), 3, "workflow.not_found"),
        (("runs", "show", "lost"), 3, "run.not_found"),
        (("runs", "cancel", "lost"), 3, "run.not_found"),
        (("runs", "result", "lost"), 3, "run.not_found"),
        (("workflows", "show", "gret"), 3, "workflow.not_found"),
        (("start", "greet", "--input", '{"name": "nobody"}', "--wait", "--timeout", "30s"), 1, "run.failed"),
        (("start", "greet", "--input", '{"name": "a"}', "--id", "a.b"), 2, "name.invalid"),
        (("dlq", "show", "99"), 3, "not_found"),
    ],
)
def test_bad_input_is_an_exit_code_and_a_named_error(
    words: tuple[str, ...], code: int, error: str, live: Live
) -> None:
    """What a user did wrong has its code, in a document and as exit code."""
    ended = live.run(*words, "--json")
    assert ended.code == code, ended
    assert ended.read(ErrorDocument).error.code == error


def test_the_same_id_with_another_input_is_a_conflict(live: Live) -> None:
    """The same input is the same run."""
    assert live.run("start", "greet", "--input", '{"name": "A"}', "--id", "once").out == "run once started\n"
    assert (
        live.run("start", "greet", "--input", '{"name": "A"}', "--id", "once").out
        == "run once exists already\n"
    )
    assert live.run("start", "greet", "--input", '{"name": "B"}', "--id", "once").code == 4


def test_a_handler_that_nobody_serves_is_named(live: Live) -> None:
    """By the run's view and by doctor; a cancel ends the waiting."""
    assert live.run("start", "stuck", "--id", "stuck-1").code == 0
    ends = time.monotonic() + 30
    # A narrow terminal wraps the sentence.
    while "which nobody serves" not in (shown := " ".join(live.run("runs", "show", "stuck-1").out.split())):
        assert time.monotonic() < ends, shown
    assert "nobody.serves" in shown
    report = live.run("doctor")
    assert report.code == 0, report
    assert "wait for handler nobody.serves (of stuck), and nobody serves it" in report.out
    ended = live.run(
        "runs", "cancel", "stuck-1", "--reason", "enough", "--wait", "--timeout", "40s", "--json"
    )
    assert ended.read(dict[str, str]) == {"run": "stuck-1", "status": "cancelled"}


def test_a_changed_definition_needs_a_new_version(live: Live, tmp_path: Path) -> None:
    """The same version with other contents ends the start of a process with exit 4."""
    path = tmp_path / "greet.yaml"
    path.write_text(GREET.replace("max: 0", "max: 1"))
    ended = live.run("run", str(path), "--engine", "--json")
    assert ended.code == 4, ended
    assert ended.read(ErrorDocument).error.code == "workflow.version_conflict"


def test_a_broken_file_registers_nothing(live: Live, tmp_path: Path) -> None:
    """Beside a good file, too."""
    (tmp_path / "good.yaml").write_text(GREET.replace("id: greet", "id: fine"))
    (tmp_path / "bad.yaml").write_text("id: bad\nsteps:\n  - id: a\n    uses: x.y\n    depends_on: [b]\n")
    ended = live.run("run", str(tmp_path), "--engine")
    assert ended.code == 2
    assert "bad.yaml:5" in ended.err
    assert "fine" not in live.run("workflows", "list").out


def test_nats_away_ends_a_start_within_seconds(repo_root: Path) -> None:
    """Exit 5, with what was tried, for commands and for processes that serve."""
    for words in (["runs", "list"], ["run", MODULE], ["doctor"]):
        began = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "jetloom", *words, "--nats", "nats://127.0.0.1:1"],
            cwd=repo_root,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        assert ended.returncode == 5, ended
        assert "127.0.0.1:1" in ended.stderr + ended.stdout
        assert time.monotonic() - began < 30


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, repo_root: Path) -> None:
    """The process ends with 0, and its server with it."""
    with serve_dev(tmp_path, repo_root, MODULE) as started:
        assert answers(started.summary.nats_url)
        assert started.stop(signal.SIGINT) == 0
        assert not answers(started.summary.nats_url)


def test_a_killed_dev_goes_on_with_its_store(tmp_path: Path, repo_root: Path) -> None:
    """After SIGKILL a new one takes up what the store has."""
    flow = tmp_path / "greet.yaml"
    flow.write_text(GREET)
    with serve_dev(tmp_path, repo_root, str(flow)) as first:
        assert first.run("start", "greet", "--input", '{"name": "Sam"}', "--id", "sam").code == 0
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait(COMMAND_SECONDS)
    with serve_dev(tmp_path, repo_root, MODULE) as second:
        ended = second.run("runs", "result", "sam", "--timeout", "30s")
        assert ended.out == '{"said":"Hello, Sam!"}\n', ended


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "list"),
        ("runs", "show", "kim"),
        ("runs", "cancel", "kim"),
        ("start", "greet", "--input", "{}"),
        ("workflows", "show", "greet"),
    ],
)
def test_a_namespace_where_nothing_ran_is_named(words: tuple[str, ...], live: Live) -> None:
    """Whatever the command needed from it: exit 3, the namespace, and what to do."""
    ended = live.run(*words, "--namespace", "elsewhere")
    assert ended.code == 3
    assert "namespace 'elsewhere' has no streams" in ended.err


def test_wrong_options_are_named(live: Live) -> None:
    """An option's mistake is said of the option; nothing is connected to."""
    ended = live.run("runs", "list", "--namespace", "Shop!")
    assert (ended.code, "--namespace 'Shop!'" in ended.err) == (2, True)
