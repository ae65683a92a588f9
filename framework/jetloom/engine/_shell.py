"""What every part of an engine's shell works with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..clock import Clock
from ..messages import Names
from ..stores import BlobStore, Grouping, IndexStore, JournalStore
from ..telemetry import Counter, Histogram, Metrics
from ..transport import Transport
from ._constants import HEADER_ROOM, HELD_TIMERS_MAX
from ._definitions import Definitions
from .core import Surroundings

if TYPE_CHECKING:
    from ..runtime import StepHandler
    from ._run import Run


class Shell:
    """One engine's identity, connection, stores and counts."""

    def __init__(
        self,
        transport: Transport,
        names: Names,
        clock: Clock,
        handlers: Mapping[str, StepHandler],
        name: str,
        metrics: Metrics | None,
        grouping: Grouping = "auto",
    ) -> None:
        self.transport = transport
        self.names = names
        self.clock = clock
        self.handlers = handlers
        self.id = f"{name}-{clock.token()[:12]}"
        """New at every process start: an id that comes back would be taken for the one that died."""
        self.blobs = BlobStore(transport, names)
        self.journals = JournalStore(transport, names, self.blobs, grouping=grouping)
        self.index = IndexStore(transport, names, lambda: self.journals.groups_pay)
        self.definitions = Definitions(transport, names, clock)
        self.metrics = metrics
        self._counters: dict[tuple[str, ...], Counter] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}
        self.held_timers = 0
        self._ticks = 0
        self._nonces = 0

    def tick(self) -> int:
        """The next number of this engine's own count of what it began and received."""
        self._ticks += 1
        return self._ticks

    def nonce(self) -> str:
        """What tells an entry of this engine from every other: its own id is new at every start."""
        self._nonces += 1
        return f"{self.id}.{self._nonces}"

    def surroundings(self, run: Run, now: float) -> Surroundings:
        return Surroundings(
            engine=self.id,
            now=now,
            holding=run.messages.__contains__,
            serves=self.handlers.__contains__,
            random=self.clock.random,
            hold_timers=self.held_timers < HELD_TIMERS_MAX,
            payload_max=self.transport.server.max_payload - HEADER_ROOM,
        )

    def count(self, name: str, **labels: str) -> None:
        if self.metrics is None:
            return
        key = (name, *labels.values())
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self.metrics.counter(name, **labels)
        counter.inc()

    def gauge(self, name: str, value: float) -> None:
        if self.metrics is not None:
            self.metrics.gauge(name).set(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        if self.metrics is None:
            return
        key = (name, *labels.values())
        histogram = self._histograms.get(key)
        if histogram is None:
            histogram = self._histograms[key] = self.metrics.histogram(name, **labels)
        histogram.observe(seconds)
