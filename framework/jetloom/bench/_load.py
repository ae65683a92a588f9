"""Closed loops of callers, and what becomes of their latencies."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ..clock import SYSTEM_CLOCK

now = SYSTEM_CLOCK.monotonic
"""The same clock in every process of a machine."""


class Given(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process is asked to do. Each verb says which of these it reads."""

    url: str = ""
    name: str = ""
    concurrency: int = 1
    seconds: float = 1.0
    count: int = 0
    size: int = 100
    steps: int = 3
    remote: bool = False
    text: str = ""
    at: float = 0.0
    names: list[str] = []


class Figures(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process answers. Latencies in milliseconds, `rate` per second."""

    count: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    p50: float = 0.0
    p99: float = 0.0
    worst: float = 0.0
    more: dict[str, float] = {}
    names: list[str] = []
    text: str = ""


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of an ordered series; 0 of an empty one."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def figures_of(latencies: list[float], seconds: float, **more: float) -> Figures:
    """`latencies` in seconds, of everything that ended within `seconds`."""
    latencies.sort()
    return Figures(
        count=len(latencies),
        seconds=seconds,
        rate=len(latencies) / seconds if seconds > 0 else 0.0,
        p50=percentile(latencies, 0.5) * 1e3,
        p99=percentile(latencies, 0.99) * 1e3,
        worst=latencies[-1] * 1e3 if latencies else 0.0,
        more=more,
    )


class NothingEnded(Exception):
    """There is no rate and no latency: the calls take longer than the loop was told to run."""


async def closed_loop(
    call: Callable[[], Awaitable[object]], *, concurrency: int, seconds: float, warm: float = 0.3
) -> Figures:
    """`concurrency` callers, each calling again when it has its answer.

    What ends in the first `warm` seconds is not counted, nor what ends after the last of `seconds`.
    Raises `NothingEnded`.
    """
    latencies: list[float] = []
    begins = now() + warm
    ends = begins + seconds
    total = 0

    async def caller() -> None:
        nonlocal total
        while True:
            began = now()
            await call()
            ended = now()
            total += 1
            if ended > ends:
                return
            if ended >= begins:
                latencies.append(ended - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(caller())
    if not latencies:
        raise NothingEnded(f"none of {total} calls ended within the {seconds:g} s that count")
    return figures_of(latencies, seconds, total=total)
