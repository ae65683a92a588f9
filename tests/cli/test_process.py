"""Signals of a process that serves, with real processes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest


@contextlib.contextmanager
def process(folder: Path, mode: str, root: Path) -> Generator[subprocess.Popen[bytes]]:
    """The serving process of `tests.cli.serving`, gone at the end whatever happens."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cli.serving", str(folder), mode], cwd=root
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def wait_for_mark(folder: Path, name: str, process: subprocess.Popen[bytes]) -> None:
    """Waits until the process has marked it; fails after 20 s, or when the process ends first."""
    ends = time.monotonic() + 20
    while not (folder / name).exists():
        assert process.poll() is None, f"ended with {process.returncode} before {name}"
        assert time.monotonic() < ends, f"no {name}"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number: signal.Signals, tmp_path: Path, repo_root: Path) -> None:
    """The first signal stops what was started, and the process ends with 0."""
    with process(tmp_path, "calm", repo_root) as started:
        wait_for_mark(tmp_path, "ready", started)
        started.send_signal(number)
        assert started.wait(10) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"ready", number.name, "stopping", "stopped"}


def test_a_second_signal_stops_at_once(tmp_path: Path, repo_root: Path) -> None:
    """Even while something blocks the event loop; what would outlive the process is ended first."""
    with process(tmp_path, "stuck", repo_root) as started:
        wait_for_mark(tmp_path, "ready", started)
        started.send_signal(signal.SIGTERM)
        wait_for_mark(tmp_path, "stopping", started)
        started.send_signal(signal.SIGINT)
        assert started.wait(10) == 130
    assert (tmp_path / "killed").exists()
    assert not (tmp_path / "stopped").exists()


def test_a_signal_during_the_start_cancels_it(tmp_path: Path, repo_root: Path) -> None:
    """What the start began is stopped, and the process ends as interrupted."""
    with process(tmp_path, "slow", repo_root) as started:
        wait_for_mark(tmp_path, "starting", started)
        started.send_signal(signal.SIGINT)
        assert started.wait(10) == 130
    assert (tmp_path / "start-cancelled").exists()
    assert (tmp_path / "stopped").exists()


def test_a_failed_start_is_its_own_error(tmp_path: Path, repo_root: Path) -> None:
    """Not a group around it."""
    with process(tmp_path, "broken", repo_root) as started:
        assert started.wait(10) == 2
