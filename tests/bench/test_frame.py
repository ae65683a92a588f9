"""Samples, results, ratios, the table, the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from jetloom.bench import MachineTooSmall, Options
from jetloom.bench.__main__ import main
from jetloom.bench._frame import Key, Rule, Samples, Scope, Workload
from jetloom.bench._load import closed_loop, figures_of, percentile
from jetloom.bench._machine import Usage, describe_machine, usage_of
from jetloom.bench._report import bar, number, render
from jetloom.bench._run import Report, check_machine
from jetloom.bench._workloads import find_workloads
from jetloom.errors import InvalidInput

RUNS, LIMIT, P50 = Key("w", "at 1", "runs"), Key("limits", "at 1", "plain"), Key("w", "at 1", "p50")


def samples_of(values: dict[Key, list[float]]) -> Samples:
    samples = Samples()
    for key, series in values.items():
        for value in series:
            samples.add(key, value, "1/s")
    return samples


def test_a_result_is_a_median_with_its_spread() -> None:
    """Repetitions become one figure and the distance of the extremes in percent of it."""
    runs, spread = samples_of({RUNS: [90.0, 100.0, 120.0]}).results({})
    assert (runs.value, runs.unit, runs.ratio, runs.target) == (100.0, "1/s", None, None)
    assert (spread.metric, spread.value, spread.unit) == ("runs spread", 30.0, "%")


def test_a_ratio_is_against_a_figure_of_the_same_run() -> None:
    """The target of a ratio is judged on the ratio, of a plain figure on the value."""
    rules = {RUNS: Rule(LIMIT, at_least=0.35), P50: Rule(at_most=1.5)}
    runs, _, p50 = samples_of({RUNS: [30.0], LIMIT: [100.0], P50: [1.4]}).results(rules)
    assert (runs.ratio, runs.of, runs.target, runs.met) == (0.3, "limits at 1 plain", "≥ 0.35", False)
    assert (p50.ratio, p50.of, p50.target, p50.met) == (None, None, "≤ 1.5", True)


def test_a_result_has_exactly_the_documented_keys() -> None:
    """Programs read these names."""
    [result] = samples_of({RUNS: [1.0]}).results({})
    assert list(msgspec.to_builtins(result)) == [
        *("workload", "case", "metric", "value", "unit", "ratio", "of", "target", "met")
    ]


def test_smaller_cases_are_named(tmp_path: Path) -> None:
    """A reduced case and a syncing server are part of the case's name, so that no target is about them."""
    samples = Samples()
    scope = Scope("w", Options(), samples, tmp_path, lambda _: None, always=True)
    scope.sample("10 steps", "p50", 1.0, "ms", reduced=True)
    assert samples.median(Key("w", "10 steps, reduced, sync always", "p50")) == 1.0


def test_a_failed_profile_takes_only_its_own_samples(tmp_path: Path) -> None:
    """What the other storage profile gave stays."""
    samples = Samples()
    for always in (False, True):
        scope = Scope("w", Options(), samples, tmp_path, lambda _: None, always=always)
        scope.sample("a", "p50", 1.0, "ms")
    samples.drop("w", always=True)
    assert [result.case for result in samples.results({})] == ["a"]


def test_percentiles() -> None:
    """Of an ordered series; nothing has none."""
    assert percentile([], 0.5) == 0.0
    series = [float(n) for n in range(100)]
    assert (percentile(series, 0.5), percentile(series, 0.99), percentile(series, 1.0)) == (50.0, 99.0, 99.0)
    found = figures_of([0.002, 0.001], 2.0)
    assert (found.count, found.rate, found.worst) == (2, 1.0, 2.0)


async def test_a_loop_without_an_end_is_no_rate() -> None:
    """Calls that take longer than the loop give an error, not a rate of zero."""
    import asyncio

    from jetloom.bench._load import NothingEnded

    with pytest.raises(NothingEnded):
        await closed_loop(lambda: asyncio.sleep(0.05), concurrency=1, seconds=0.01, warm=0.0)


def test_the_machine_is_described() -> None:
    """A reader learns what the figures were made on, and what this process has used."""
    found = describe_machine()
    assert found["cpus"]
    assert found["python"]
    if Path("/proc/self/stat").exists():
        assert usage_of(os.getpid()).peak > 1_000_000
    assert usage_of(2**22 + 1) == Usage()


def test_a_machine_that_is_too_small_is_named_before_anything_starts() -> None:
    """Memory and disk of the full size, with what is free; quick ones run."""
    huge = [Workload("w", "", _never, memory=10**16)]
    with pytest.raises(MachineTooSmall, match=r"w needs 10000000\.0 GB of memory"):
        check_machine(huge, Options())
    check_machine(huge, Options(size="quick"))


async def _never(scope: Scope) -> None:
    raise AssertionError(scope.workload)


def test_an_unknown_workload_is_named_with_what_is_near() -> None:
    """Nothing is started for it."""
    with pytest.raises(InvalidInput, match=r"'chian'.*did you mean chain"):
        find_workloads(["chain", "chian"])
    assert [workload.name for workload in find_workloads(["rpc", "limits"])] == ["limits", "rpc"]


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Bad input is exit 2 and one line."""
    assert main(["nothing"]) == 2
    assert main(["--repeat", "-1"]) == 2
    assert main(["--size", "huge"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("error: no workload 'nothing': there are limits, chain")
    assert errors[1] == "error: --repeat -1: expected 0 or more"


def test_the_command_lists_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for programs."""
    assert main(["list"]) == 0
    assert "chain         W1: " in capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workloads"][0]["workload"] == "limits"


def test_the_table_shows_ratios_and_bars() -> None:
    """A person sees figure, spread, ratio, target and what was not verified."""
    rules = {RUNS: Rule(LIMIT, at_least=0.35)}
    samples = samples_of({LIMIT: [100.0], RUNS: [30.0, 40.0]})
    samples.add(Key("w", "at 64", "runs"), 70.0, "1/s")
    report = Report({"cpus": 2, "failed": {"other": "two runs were lost"}}, samples.results(rules))
    console = Console(width=160, record=True, file=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    console.print(render(report))
    console.file.close()
    text = console.export_text()
    for part in ("35.0 1/s", "29 %", "0.35", "≥ 0.35 ✓", "█" * 20, "other: no figures: two runs were lost"):
        assert part in text
    assert (bar(0.5), bar(0.0), bar(7.0)) == ("█" * 10, "", "█" * 20)
    assert [number(each) for each in (12_345.6, 12.34, 0.1234, 0)] == ["12,346", "12.3", "0.123", "0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_servers_and_leaves_no_files(number: signal.Signals, tmp_path: Path) -> None:
    """In the middle of a workload: exit 130, no process of it runs, no file of it is left."""
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jetloom.bench", "chain"],
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            start_new_session=True,
            restore_signals=True,
            preexec_fn=_heed_interrupts,  # noqa: PLW1509
        )
    try:
        _until(lambda: bool(_processes(tmp_path)))
        process.send_signal(number)
        assert process.wait(30) == 130, log.read_text()
    finally:
        process.kill()
    assert _processes(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert tempfile.gettempdir() != str(tmp_path)


def _heed_interrupts() -> None:
    """A test run in the background ignores Ctrl-C, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _processes(folder: Path) -> list[str]:
    """Command lines that name the folder: servers, and the processes of a workload by their environment."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (path / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if f"TMPDIR={folder}" in environment and ("_child" in command or "nats-server" in command):
            found.append(command)
    return found


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "nothing was started"
        time.sleep(0.02)
