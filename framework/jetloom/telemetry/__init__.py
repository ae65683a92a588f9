"""Metrics, logs and the context that travels: what every unit above may count, say and pass on.

One `Metrics` per process holds a registry of its own; every `jetloom_*` metric is declared in one table (`METRICS`)
and counted by name, so that a name or label that is not declared is refused at its first use. One context variable
carries actor, trace and deadline, and the module, run and step that log lines name.
"""

from ._context import (
    EMPTY,
    Context,
    context_from_headers,
    context_headers,
    current,
    remaining_seconds,
    use,
)
from ._lag import LoopLag
from ._logging import JsonFormatter, TextFormatter, get_logger, setup_logging
from ._metrics import Counter, Gauge, Histogram, Metrics
from ._table import METRICS, MetricSpec

__all__ = [
    "EMPTY",
    "METRICS",
    "Context",
    "Counter",
    "Gauge",
    "Histogram",
    "JsonFormatter",
    "LoopLag",
    "MetricSpec",
    "Metrics",
    "TextFormatter",
    "context_from_headers",
    "context_headers",
    "current",
    "get_logger",
    "remaining_seconds",
    "setup_logging",
    "use",
]
