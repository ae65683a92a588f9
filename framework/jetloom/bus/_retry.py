"""When a failed event is tried again."""

from __future__ import annotations

import msgspec

from ..errors import ErrorClass, ErrorInfo


class Retry(msgspec.Struct, frozen=True):
    """Tries after the first one. Retry k waits `initial * 2**(k-1)` seconds, at most `max_delay`, ± `jitter`.

    The delay is kept by the server, so it outlives the process. Tries are counted by deliveries: one that a stopping
    process gave back counts as well.
    """

    max: int = 5
    initial: float = 1.0
    max_delay: float = 60.0
    jitter: float = 0.2

    def delay(self, tries: int, random: float) -> float:
        """Seconds until the next try after `tries` failed ones; `random` is uniform in [0, 1)."""
        plain = min(self.initial * 2 ** min(tries - 1, 32), self.max_delay)
        return plain * (1 + self.jitter * (2 * random - 1))

    def next_delay(self, info: ErrorInfo, tries: int, random: float) -> float | None:
        """Seconds until the next try, None when there is none."""
        if info.error_class is ErrorClass.TERMINAL or tries > self.max:
            return None
        if info.retry_after_ms is not None:
            return info.retry_after_ms / 1000
        return self.delay(tries, random)
