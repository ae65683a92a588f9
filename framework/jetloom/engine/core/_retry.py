"""What policy makes of a failed attempt."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import ErrorClass, ErrorInfo
from ...workflows import Retry


def retries(policy: Retry, failures: int, error: ErrorInfo) -> bool:
    """Whether another attempt follows. `failures` counts the failed ones before this one."""
    return error.error_class is not ErrorClass.TERMINAL and failures < policy.max


def delay_seconds(policy: Retry, failures: int, error: ErrorInfo, random: Callable[[], float]) -> float:
    """Seconds until the next attempt: what a rate limit says, else backoff with its cap and jitter."""
    if error.retry_after_ms is not None:
        return error.retry_after_ms / 1000
    delay = policy.initial
    if policy.backoff == "exponential":
        # The exponent is bounded first: 2.0**1100 would overflow long before the cap is looked at.
        delay *= 2.0 ** min(failures, 60)
    delay = min(delay, policy.max_delay)
    return max(0.0, delay * (1 + policy.jitter * (2 * random() - 1)))
