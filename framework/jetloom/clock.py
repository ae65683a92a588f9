"""Time, randomness and ids: the only file that may ask the real ones."""

from __future__ import annotations

import random as _random
import secrets
import time
from typing import Protocol


class Clock(Protocol):
    """What the shell asks; simulation and tests give a virtual one."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that only grow and count the machine's suspension."""
        ...

    def token(self) -> str:
        """128 random bits, as 32 hexadecimal digits."""
        ...

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...


class SystemClock:
    """The real clock. CLOCK_BOOTTIME where the system has it, since CLOCK_MONOTONIC stops while suspended."""

    _source = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.clock_gettime(self._source)

    def token(self) -> str:
        return secrets.token_hex(16)

    def random(self) -> float:
        return _random.random()


SYSTEM_CLOCK = SystemClock()
