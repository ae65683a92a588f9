"""Time, randomness and ids: the only file that may ask the real ones."""

from __future__ import annotations

import random as _random
import secrets
import time
from collections.abc import Callable
from functools import partial
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

    def __init__(self) -> None:
        # Asked dozens of times a run: the interpreter's own functions, without one of ours around them.
        self.now: Callable[[], float] = time.time
        source = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        self.monotonic: Callable[[], float] = partial(time.clock_gettime, source)

    def token(self) -> str:
        return secrets.token_hex(16)

    def random(self) -> float:
        return _random.random()


SYSTEM_CLOCK = SystemClock()
