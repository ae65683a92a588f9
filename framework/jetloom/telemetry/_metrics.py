"""Counting by name in a registry of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from ..errors import InvalidInput, InvariantBroken, invariant
from ._families import Family
from ._table import METRICS, UNITS, MetricSpec

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

LABEL_SETS_MAX = 2_000
"""Of one metric: what comes later is counted under `other`, so that a bad label can't fill the memory."""

OTHER = "other"


class Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...


class Gauge(Protocol):
    def set(self, value: float) -> None: ...
    def inc(self, amount: float = 1) -> None: ...
    def dec(self, amount: float = 1) -> None: ...


class Histogram(Protocol):
    def observe(self, amount: float) -> None: ...


class Metrics:
    """The metrics of one process. Names and labels must be declared: in `METRICS`, or by `declare`."""

    def __init__(self, specs: tuple[MetricSpec, ...] = METRICS, *, process: bool = True) -> None:
        # prometheus_client takes 0.1 s to import (its HTTP server): only processes that count pay for it.
        from prometheus_client import CollectorRegistry as Registry
        from prometheus_client import GCCollector, PlatformCollector, ProcessCollector

        self._registry: CollectorRegistry = Registry(auto_describe=False)
        self._specs: dict[str, MetricSpec] = {}
        self._families: dict[str, Family] = {}
        self._children: dict[tuple[str, tuple[tuple[str, str], ...]], object] = {}
        self._sets: dict[str, int] = {}
        if process:
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
            GCCollector(registry=self._registry)
        for spec in specs:
            self.declare(spec)

    def declare(self, spec: MetricSpec) -> None:
        """Adds a metric, such as a module's own. The same one again is fine; another of that name is not."""
        known = self._specs.get(spec.name)
        if known == spec:
            return
        if known is not None:
            raise InvalidInput(f"metric {spec.name} is declared already, with other fields")
        if not spec.name.endswith(UNITS):
            raise InvalidInput(f"metric {spec.name} must end in one of {', '.join(UNITS)}")
        if (spec.kind == "counter") != spec.name.endswith("_total"):
            raise InvalidInput(f"metric {spec.name}: counters, and only they, end in _total")
        made = Family(spec)
        self._registry.register(made)
        self._specs[spec.name] = spec
        self._families[spec.name] = made

    def specs(self) -> tuple[MetricSpec, ...]:
        """Everything declared, in order."""
        return tuple(self._specs.values())

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter of one set of labels; keep it where it is used often."""
        return cast("Counter", self._child("counter", name, labels))

    def gauge(self, name: str, **labels: str) -> Gauge:
        return cast("Gauge", self._child("gauge", name, labels))

    def histogram(self, name: str, **labels: str) -> Histogram:
        return cast("Histogram", self._child("histogram", name, labels))

    def value(self, name: str, **labels: str) -> float:
        """The present value of a counter or gauge (`_count`, `_sum` of a histogram); 0 for what was never counted."""
        found = self._registry.get_sample_value(name, labels)
        return 0.0 if found is None else found

    def render(self) -> tuple[bytes, str]:
        """The text that Prometheus scrapes, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def _child(self, kind: str, name: str, labels: dict[str, str]) -> object:
        key = (name, tuple(labels.items()))
        found = self._children.get(key)
        if found is not None:
            return found
        spec = self._specs.get(name)
        if spec is None:
            raise InvariantBroken(f"metric {name} is not declared")
        invariant(spec.kind == kind, f"metric {name} is a {spec.kind}, not a {kind}")
        invariant(
            set(labels) == set(spec.labels), f"metric {name} has labels {spec.labels}, not {tuple(labels)}"
        )
        family = self._families[name]
        if spec.labels:
            sets = self._sets[name] = self._sets.get(name, 0) + 1
            if sets > LABEL_SETS_MAX:
                # Not remembered: the number of keys stays bounded as well.
                return family.child((OTHER,) * len(spec.labels))
        child = family.child(tuple(labels[label] for label in spec.labels))
        self._children[key] = child
        return child
