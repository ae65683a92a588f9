"""Faults from a seed: latencies that reorder connections, lost answers, cut connections, stale reads."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Literal

import msgspec

from jetloom.transport import Calm, Fate, Op

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class FaultRates(msgspec.Struct, frozen=True, kw_only=True):
    """How often what happens: probabilities per operation (or per delivery), times in seconds."""

    latency: float = 0.002
    """Of most operations, each way: uniform from 0 to this."""
    slow: float = 0.02
    """Probability that an operation or a delivery takes up to `slow_seconds`."""
    slow_seconds: float = 0.5
    lost: float = 0.0
    muted: float = 0.0
    cut_before: float = 0.0
    cut_after: float = 0.0
    down_seconds: float = 1.0
    stale: float = 0.0
    stale_changes_max: int = 20
    split: float = 0.0
    repeat: float = 0.0
    late_redelivery: float = 0.0
    late_redelivery_seconds: float = 2.0
    lateness: float = 0.25


CALM_RATES = FaultRates(slow=0.0)

_WRITES = frozenset({"append", "delete", "purge", "publish", "request", "beat_confirmed"})


class SeededFaults(Calm):
    """A plan whose every answer comes from `seed`; `rates` may be replaced while it is in use.

    `on_before`, `on_applied` and `on_after` are the crash points: called with each operation before it is sent, when
    the server has applied it, and when the caller has its answer. A crash there kills the process of `op.connection`
    and, in the first and the last, returns an awaitable that never ends (`loop.never()`).
    `separate(a, b)` cuts two connections from each other in core NATS until `join`.
    """

    def __init__(self, seed: int, rates: FaultRates = CALM_RATES) -> None:
        self.rates = rates
        self.on_before: Callable[[Op], Awaitable[None] | None] | None = None
        self.on_applied: Callable[[Op], None] | None = None
        self.on_after: Callable[[Op], Awaitable[None] | None] | None = None
        self._draw = Random(seed).random
        self._separated: set[frozenset[str]] = set()

    def calm(self) -> None:
        """Ends every fault but latency."""
        self.rates = CALM_RATES
        self.on_before = self.on_applied = self.on_after = None
        self._separated.clear()

    def separate(self, one: str, other: str) -> None:
        self._separated.add(frozenset((one, other)))

    def join(self, one: str, other: str) -> None:
        self._separated.discard(frozenset((one, other)))

    # -- the plan

    def before(self, op: Op) -> Awaitable[None] | None:
        return None if self.on_before is None else self.on_before(op)

    def applied(self, op: Op) -> None:
        if self.on_applied is not None:
            self.on_applied(op)

    def after(self, op: Op) -> Awaitable[None] | None:
        return None if self.on_after is None else self.on_after(op)

    def fate(self, op: Op) -> Fate:
        rates, draw = self.rates, self._draw
        there, back, think = draw() * rates.latency, draw() * rates.latency, 0.0
        if rates.slow and draw() < rates.slow:
            way = draw()
            if way < 1 / 3:
                there += draw() * rates.slow_seconds
            elif way < 2 / 3:
                back += draw() * rates.slow_seconds
            elif op.kind not in _WRITES:
                # The server answers reads apart from what it stores; writes it takes in their order.
                think = draw() * rates.slow_seconds
        chance = draw()
        if (chance := chance - rates.cut_after) < 0:
            return Fate(there, back, 0.0, "cut_after", draw() * rates.down_seconds)
        if (chance := chance - rates.cut_before) < 0:
            return Fate(there, back, 0.0, "cut_before", draw() * rates.down_seconds)
        if op.kind in _WRITES:
            if (chance := chance - rates.muted) < 0:
                return Fate(there, back, 0.0, "muted")
            if (chance := chance - rates.lost) < 0:
                return Fate(there, back, 0.0, "lost")
        return Fate(there, back, think)

    def transit(self, connection: str) -> float:
        rates, draw = self.rates, self._draw
        if rates.slow and draw() < rates.slow:
            return draw() * rates.slow_seconds
        return draw() * rates.latency

    def stale(self, op: Op) -> int:
        rates = self.rates
        if not rates.stale or self._draw() >= rates.stale:
            return 0
        return 1 + int(self._draw() * rates.stale_changes_max)

    def split(self, op: Op) -> int:
        rates = self.rates
        return 1 + int(self._draw() * 8) if rates.split and self._draw() < rates.split else 0

    def separated(self, sender: str, receiver: str) -> bool:
        return bool(self._separated) and frozenset((sender, receiver)) in self._separated

    def repeat(self, stream: str, consumer: str, sequence: int) -> bool:
        return bool(self.rates.repeat) and self._draw() < self.rates.repeat

    def redelivery_delay(self, stream: str, consumer: str, sequence: int) -> float:
        rates = self.rates
        if not rates.late_redelivery or self._draw() >= rates.late_redelivery:
            return 0.0
        return self._draw() * rates.late_redelivery_seconds

    def lateness(self, what: Literal["schedule", "expiry", "source"]) -> float:
        return self._draw() * (self.rates.lateness if what != "source" else self.rates.latency)
