"""Counting without locks: one event loop counts, and a scrape reads what is there.

`prometheus_client` renders; its own values take a lock at every count, which a run pays thirty times.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ._table import MetricSpec

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class Value:
    """A counter or a gauge. A thread that counts beside the loop may lose a count, never corrupt one."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def set(self, value: float) -> None:
        self.value = value


class Buckets:
    """A histogram: how many were at most each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, amount: float) -> None:
        self.counts[bisect_left(self.bounds, amount)] += 1
        self.sum += amount


class Family:
    """One metric with all of its sets of labels; a collector for `prometheus_client`."""

    def __init__(self, spec: MetricSpec) -> None:
        self.spec = spec
        self.values: dict[tuple[str, ...], Value] = {}
        self.buckets: dict[tuple[str, ...], Buckets] = {}
        if not spec.labels:
            self.child(())

    def child(self, labels: tuple[str, ...]) -> Value | Buckets:
        """What counts under these values of the labels, in their declared order."""
        if self.spec.kind == "histogram":
            return self.buckets.setdefault(labels, Buckets(self.spec.buckets))
        return self.values.setdefault(labels, Value())

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        name, text, labels = self.spec.name, self.spec.help, list(self.spec.labels)
        if self.spec.kind == "histogram":
            histograms = HistogramMetricFamily(name, text, labels=labels)
            for key, found in list(self.buckets.items()):
                histograms.add_metric(list(key), _cumulated(found), found.sum)
            yield histograms
            return
        counter = self.spec.kind == "counter"
        made = (CounterMetricFamily if counter else GaugeMetricFamily)(name, text, labels=labels)
        for key, value in list(self.values.items()):
            made.add_metric(list(key), value.value)
        yield made


def _cumulated(found: Buckets) -> list[tuple[str, float]]:
    total, rows = 0, list[tuple[str, float]]()
    for bound, count in zip((*found.bounds, float("inf")), list(found.counts), strict=True):
        total += count
        rows.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(total)))
    return rows
