"""Health: checks that run in the background, and what they come to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ..clock import Clock
from ..lifecycle import Supervisor
from ..telemetry import Metrics, get_logger
from ._calls import call_as
from ._module import HealthKind

DETAIL_CHARACTERS_MAX = 500
"""Of what a check says: a page of them stays readable."""

_logger = get_logger("runtime")


class CheckResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last outcome of one check. Without a module it is one of the host's own. `at` is seconds since the epoch."""

    name: str
    kind: HealthKind
    ok: bool
    module: str = ""
    detail: str = ""
    at: float = 0
    seconds: float = 0

    @property
    def title(self) -> str:
        return f"{self.module}.{self.name}" if self.module else self.name


class Health(msgspec.Struct, frozen=True):
    """`live`: worth keeping; `ready`: takes work. `problems` says why not, `checks` what was looked at."""

    live: bool
    ready: bool
    modules: dict[str, str]
    problems: list[str] = []
    checks: list[CheckResult] = []


class HealthCheck(msgspec.Struct, frozen=True):
    """A check that a module declares. `function` gives the problem; an empty text passes."""

    module: str
    name: str
    kind: HealthKind
    timeout: float
    interval: float
    function: Callable[[], Awaitable[str]]


class HealthChecks:
    """Calls the checks on their intervals and keeps the last result of each."""

    def __init__(self, checks: Sequence[HealthCheck], clock: Clock, metrics: Metrics) -> None:
        self._checks = list(checks)
        self._clock = clock
        self._metrics = metrics
        self._results: dict[tuple[str, str], CheckResult] = {}

    @property
    def results(self) -> list[CheckResult]:
        """One for each check; one that was never called does not pass."""
        return [
            self._results.get(
                (check.module, check.name),
                CheckResult(check.name, check.kind, False, check.module, "not checked yet"),
            )
            for check in self._checks
        ]

    async def start(self, supervisor: Supervisor) -> None:
        """Returns when each was called once."""
        async with asyncio.TaskGroup() as group:
            for check in self._checks:
                group.create_task(self.run_once(check))
        for check in self._checks:
            supervisor.run(f"health {check.module}.{check.name}", lambda check=check: self._repeat(check))

    async def run_once(self, check: HealthCheck) -> None:
        began = self._clock.monotonic()
        try:
            detail = await call_as(check.module, check.function, check.timeout)
        except Exception as error:  # user code: whatever it raises is the answer
            detail = f"{type(error).__name__}: {error}"
        key = (check.module, check.name)
        before = self._results.get(key)
        result = CheckResult(
            check.name,
            check.kind,
            not detail,
            check.module,
            detail[:DETAIL_CHARACTERS_MAX],
            self._clock.now(),
            self._clock.monotonic() - began,
        )
        self._results[key] = result
        self._metrics.gauge("jetloom_health_ratio", module=check.module, check=check.name).set(result.ok)
        if result.ok != (before is None or before.ok):
            level = _logger.info if result.ok else _logger.warning
            level(
                "a health check changed",
                extra={"check": result.title, "ok": result.ok, "detail": result.detail},
            )

    async def _repeat(self, check: HealthCheck) -> None:
        while True:
            await asyncio.sleep(check.interval)
            await self.run_once(check)


def passing(body: Callable[..., Awaitable[object]]) -> Callable[[], Awaitable[str]]:
    """A check's method as a function that gives the problem."""

    async def check() -> str:
        answer = await body()
        if answer is None or answer is True:
            return ""
        return "the check gave False" if answer is False else str(answer) or "failed"

    return check


def one_at_a_time(method: Callable[..., object]) -> Callable[..., object]:
    """A sync check that hangs in its thread is not called again: each call would take another thread."""
    running = threading.Lock()

    def call() -> object:
        if not running.acquire(blocking=False):
            return "the call before this one has not returned yet"
        try:
            return method()
        finally:
            running.release()

    return call
