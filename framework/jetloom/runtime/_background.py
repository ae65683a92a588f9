"""Background tasks of modules: started again when they fail, given up loudly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import InvalidInput
from ..lifecycle import RESTART, Supervisor
from ..telemetry import Metrics, get_logger
from ._calls import call_as

STEADY_SECONDS = 60.0
"""After a run this long the failures before it are forgotten."""

TASKS_MAX = 100
"""Of one module: a task per event or request belongs into a handler."""

_logger = get_logger("runtime")


class BackgroundTasks:
    """The tasks of all modules of a host. One that is added before its module is up starts when it is."""

    def __init__(self, supervisor: Supervisor, metrics: Metrics) -> None:
        self._supervisor = supervisor
        self._metrics = metrics
        self._waiting: dict[str, list[_Task]] = {}
        self._tasks: dict[str, dict[str, _Task]] = {}
        self._up: set[str] = set()

    def add(
        self, module: str, name: str, function: Callable[[], Awaitable[object]], restarts_max: int
    ) -> None:
        """Raises `InvalidInput` for a name that the module uses already, and for too many."""
        kept = {known: task for known, task in self._tasks.get(module, {}).items() if task.state != "ended"}
        mine = self._tasks[module] = kept
        if name in mine and mine[name].state != "given up":
            raise InvalidInput(f"module {module!r} has a background task {name!r} already")
        if len(mine) >= TASKS_MAX:
            raise InvalidInput(f"module {module!r} has {TASKS_MAX} background tasks: no more are taken")
        task = mine[name] = _Task(module, name, function, restarts_max, self._metrics)
        if module in self._up:
            self._supervisor.run(task.title, task.run, restart=None)
        else:
            self._waiting.setdefault(module, []).append(task)

    def start(self, module: str) -> None:
        """The module is up: its tasks run."""
        self._up.add(module)
        for task in self._waiting.pop(module, []):
            self._supervisor.run(task.title, task.run, restart=None)

    async def stop(self, module: str) -> None:
        """Cancels the module's tasks and waits for them."""
        self._up.discard(module)
        self._waiting.pop(module, None)
        for task in self._tasks.pop(module, {}).values():
            await self._supervisor.end(task.title)

    @property
    def running(self) -> list[str]:
        return [task.title for task in self._all() if task.state in ("running", "restarting")]

    @property
    def given_up(self) -> list[str]:
        """Why each task that was given up was."""
        return [
            f"background task {task.title} was given up after {task.failures} failures: {task.error}"
            for task in self._all()
            if task.state == "given up"
        ]

    @property
    def restarting(self) -> list[str]:
        return [f"{task.title}: {task.error}" for task in self._all() if task.state == "restarting"]

    def _all(self) -> list[_Task]:
        return [task for tasks in self._tasks.values() for task in tasks.values()]


class _Task:
    """One task: `waiting`, `running`, `restarting` (in its pause), `ended`, `given up`."""

    def __init__(
        self,
        module: str,
        name: str,
        function: Callable[[], Awaitable[object]],
        restarts_max: int,
        metrics: Metrics,
    ) -> None:
        self.title = f"{module}.{name}"
        self.state = "waiting"
        self.failures = 0
        self.error = ""
        self._module = module
        self._function = function
        self._restarts_max = restarts_max
        self._metrics = metrics

    async def run(self) -> None:
        loop, pause = asyncio.get_running_loop(), RESTART.initial
        while True:
            began, self.state = loop.time(), "running"
            error = await self._run_once()
            if error is None:
                self.state = "ended"
                return
            if loop.time() - began >= STEADY_SECONDS:
                self.failures, pause = 0, RESTART.initial
            self.failures += 1
            self.error = f"{type(error).__name__}: {error}"
            fields: dict[str, object] = {"task": self.title, "failures": self.failures}
            self._metrics.counter("jetloom_task_failures_total", task=self.title).inc()
            if self.failures > self._restarts_max:
                self.state = "given up"
                _logger.critical("a background task is given up", extra=fields, exc_info=error)
                return
            self.state = "restarting"
            fields["pause_seconds"] = pause
            _logger.error("a background task failed and is started again", extra=fields, exc_info=error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RESTART.longest)

    async def _run_once(self) -> Exception | None:
        """What it failed with; None when it returned."""
        try:
            await call_as(self._module, self._function)
        except Exception as error:  # the supervisor of user code: the caller logs, counts, decides
            return error
        return None
