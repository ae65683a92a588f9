"""Metrics are declared, documented and bounded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jetloom.errors import InvalidInput, InvariantBroken
from jetloom.telemetry import METRICS, Metrics, MetricSpec

_ROW = re.compile(r"^\| `(jetloom_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", re.MULTILINE)


def test_the_document_is_the_table(repo_root: Path) -> None:
    """The reference page names every metric with its type, labels and meaning, and none that doesn't exist."""
    text = (repo_root / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    documented = {
        name: (kind, "" if labels == "–" else labels.replace("`", ""), meaning)
        for name, kind, labels, meaning in _ROW.findall(text)
    }
    declared = {spec.name: (spec.kind, ", ".join(spec.labels), spec.help) for spec in METRICS}
    assert documented == declared


def test_names_end_in_units() -> None:
    """Every metric is ours by name and has no label that could be a run."""
    for spec in METRICS:
        assert spec.name.startswith("jetloom_"), spec.name
        assert not {"run", "run_id", "id", "event", "key"} & set(spec.labels), spec.name
        assert spec.help.endswith("."), spec.name


def test_counting_renders() -> None:
    """What is counted appears in the text that Prometheus reads, beside the process' own metrics."""
    metrics = Metrics()
    metrics.counter("jetloom_runs_started_total", workflow="order").inc()
    metrics.counter("jetloom_runs_started_total", workflow="order").inc(2)
    metrics.histogram("jetloom_step_duration_seconds", handler="orders.reserve").observe(0.2)
    text, content_type = metrics.render()
    assert b'jetloom_runs_started_total{workflow="order"} 3.0' in text
    assert b'jetloom_step_duration_seconds_count{handler="orders.reserve"} 1.0' in text
    assert b"process_resident_memory_bytes" in text
    assert content_type.startswith("text/plain")
    assert metrics.value("jetloom_runs_started_total", workflow="order") == 3


def test_what_is_not_declared_is_refused() -> None:
    """An unknown name, another kind and other labels are bugs that show at once."""
    metrics = Metrics(process=False)
    with pytest.raises(InvariantBroken):
        metrics.counter("jetloom_surprises_total")
    with pytest.raises(InvariantBroken):
        metrics.gauge("jetloom_runs_started_total", workflow="order")
    with pytest.raises(InvariantBroken):
        metrics.counter("jetloom_runs_started_total", run="order-1")


def test_a_module_declares_its_own() -> None:
    """A module adds metrics with names that end in a unit; the same twice is one."""
    metrics = Metrics(process=False)
    spec = MetricSpec("shop_charges_total", "counter", "Charges.", ("outcome",))
    metrics.declare(spec)
    metrics.declare(spec)
    metrics.counter("shop_charges_total", outcome="declined").inc()
    assert metrics.value("shop_charges_total", outcome="declined") == 1
    for wrong in (
        MetricSpec("shop_charges", "gauge", "No unit."),
        MetricSpec("shop_charges_seconds", "counter", "A counter without _total."),
        MetricSpec("shop_charges_total", "counter", "Other labels.", ("card",)),
    ):
        with pytest.raises(InvalidInput):
            metrics.declare(wrong)


def test_labels_are_bounded() -> None:
    """A label that takes ever new values ends as `other` and can't fill the memory."""
    metrics = Metrics(process=False)
    for number in range(2_100):
        metrics.counter("jetloom_events_published_total", type=f"shop.n{number}").inc()
    assert metrics.value("jetloom_events_published_total", type="shop.n0") == 1
    assert metrics.value("jetloom_events_published_total", type="other") == 100
