"""Which calls are made again, and when."""

from __future__ import annotations

import msgspec

from ..clock import Clock
from ..errors import Disconnected, JetloomError, NoResponders, RequestTimeout
from ._errors import Busy

IDEMPOTENT_SHARE = 3
"""An attempt of an idempotent call gets this part of the time: two more are possible after a silent one."""


class CallRetry(msgspec.Struct, frozen=True, kw_only=True):
    """How often a call is made, with growing pauses (seconds) between, all within its timeout.

    `attempt_timeout` limits one attempt; None: a third of the whole for an idempotent endpoint, else all of it.
    """

    attempts_max: int = 8
    initial: float = 0.05
    longest: float = 2.0
    attempt_timeout: float | None = None


CALL_RETRY = CallRetry()


def safe_to_repeat(error: JetloomError, *, sent: bool, idempotent: bool) -> bool:
    """Whether the request was surely not handled, or may be handled twice."""
    match error:
        case NoResponders() | Busy():
            return True
        case RequestTimeout() | Disconnected():
            return idempotent or not sent
        case _:
            return False


def pause_before(attempt: int, error: JetloomError, retry: CallRetry, clock: Clock) -> float:
    """Seconds before attempt number `attempt` (from 2): exponential, half of it random, never before it is welcome."""
    longest = min(retry.longest, retry.initial * 2 ** min(attempt - 2, 30))
    pause = longest * (0.5 + clock.random() / 2)
    welcome = (error.to_info().retry_after_ms or 0) / 1000 if isinstance(error, Busy) else 0.0
    return pause + welcome


def attempt_seconds(left: float, whole: float, retry: CallRetry | None, idempotent: bool) -> float:
    """How long the next attempt may wait for its answer."""
    if retry is None:
        return left
    if retry.attempt_timeout is not None:
        return min(left, retry.attempt_timeout)
    return min(left, whole / IDEMPOTENT_SHARE) if idempotent else left
