"""Each workload runs small, and its outcome is checked in the streams: what it can't verify is no figure."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from jetloom.bench import Options, run_bench
from jetloom.bench._events import installed
from jetloom.bench._frame import Rule, Samples
from jetloom.bench._rules import RULES
from jetloom.bench._workloads import WORKLOADS

EXPECTED = {
    "limits": ("hot path", "plain"),
    "chain": ("runs", "p50", "p99"),
    "chain-remote": ("runs", "p50"),
    "fanout": ("p50", "steps"),
    "payload": ("runs",),
    "recovery": ("all done since the kill", "bodies run twice", "runs lost"),
    "sleep": ("lateness p50", "lateness p99"),
    "message": ("p50", "p99"),
    "events": ("jetloom", "jetloom p50"),
    "rpc": ("jetloom", "plain"),
    "cold": ("since process start", "time"),
    "history": ("step of the last tenth", "start p50"),
    "engines": ("runs", "time", "appends refused"),
}


def test_every_workload_is_tried() -> None:
    """A workload that is added is added here too."""
    assert [workload.name for workload in WORKLOADS] == list(EXPECTED)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", EXPECTED)
def test_a_workload_gives_its_figures(name: str) -> None:
    """Run small, a workload ends with the figures that it is for, and without a failure."""
    said: list[str] = []
    report = run_bench(Options(workloads=(name,), size="smoke"), said.append)
    assert report.failed == {}
    assert {result.workload for result in report.results} == {name}
    assert set(EXPECTED[name]) <= {result.metric for result in report.results}
    assert all(result.value >= 0 for result in report.results if not result.metric.startswith("lateness"))
    assert said, "it tells what it does"
    smaller = [result for result in report.results if ", reduced" in result.case]
    assert all(result.target is None and result.ratio is None for result in smaller)


@pytest.mark.timeout(180)
def test_peers_run_the_same_events() -> None:
    """FastStream handles what it is given, by push and by pull, and answers requests."""
    if not installed("faststream"):
        pytest.skip("FastStream is not installed")
    report = run_bench(Options(workloads=("events", "rpc"), size="smoke", peers=True), lambda _: None)
    assert report.failed == {}
    found = {result.metric for result in report.results}
    assert {"faststream push", "faststream pull", "faststream"} <= found


@pytest.mark.timeout(180)
def test_a_server_that_syncs_is_named() -> None:
    """With `sync_always` each case runs twice, and the second one says so."""
    report = run_bench(Options(workloads=("message",), size="smoke", sync_always=True), lambda _: None)
    assert report.failed == {}
    assert {result.case for result in report.results} == {"at 1", "at 1, sync always"}


def test_an_unverified_outcome_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload whose outcome is wrong is an error in the header, its samples are gone, the others stay."""
    from jetloom.bench import BenchFailed, _run
    from jetloom.bench._frame import Scope, Workload

    async def good(scope: Scope) -> None:
        scope.sample("a", "speed", 1.0, "1/s")

    async def bad(scope: Scope) -> None:
        scope.sample("a", "speed", 1.0, "1/s")
        raise BenchFailed("two runs were lost")

    async def slow(scope: Scope) -> None:
        scope.sample("a", "speed", 1.0, "1/s")
        await asyncio.Event().wait()

    chosen = [
        Workload("good", "", good),
        Workload("bad", "", bad),
        Workload("slow", "", slow, seconds_max=0.01),
    ]
    monkeypatch.setattr(_run, "find_workloads", lambda _: chosen)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    report = run_bench(Options(repeat=2), lambda _: None)
    assert {result.workload for result in report.results} == {"good"}
    assert report.failed == {"bad": "two runs were lost", "slow": "did not end within 0.01 s"}


def test_every_rule_is_about_a_figure_of_a_workload() -> None:
    """Targets name workloads that exist, and compare with figures that can be there."""
    names = {workload.name for workload in WORKLOADS}
    for key, rule in RULES.items():
        assert key.workload in names
        assert rule.of is None or rule.of.workload in names
        assert rule.of is not None or rule.at_least is not None or rule.at_most is not None


def test_nothing_is_compared_without_its_base() -> None:
    """A target about a ratio is no target when the figure it is about was not measured in this run."""
    from jetloom.bench._frame import Key

    samples = Samples()
    samples.add(Key("chain", "at 256", "runs"), 100.0, "1/s")
    rule = Rule(Key("limits", "publish at 256", "plain"), at_least=0.35)
    [result] = samples.results({Key("chain", "at 256", "runs"): rule})
    assert (result.ratio, result.of, result.target, result.met) == (None, None, None, None)


def test_leftovers_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stores and logs of a run are in one folder, which is gone afterwards."""
    # A folder for temporary files that only this test uses: others run beside it.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: set[str] = set()
    run_bench(
        Options(workloads=("message",), size="smoke"),
        lambda _: seen.update(each.name for each in tmp_path.iterdir()),
    )
    assert any(each.startswith("jetloom-bench-") for each in seen)
    assert not list(tmp_path.iterdir())
