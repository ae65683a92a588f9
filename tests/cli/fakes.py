"""Runs in memory: what the commands see of an engine's client, without an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from jetloom.errors import (
    ErrorInfo,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    SchemaMismatch,
    WaitTimeout,
    WorkflowNotFound,
)
from jetloom.messages import ActionVerb
from jetloom.runtime import JournalLine, RunSummary, RunView, Started, StepView
from jetloom.types import JSON, Actor, RunStatus, StepStatus
from jetloom.workflows import Definition

NOW = 1_800_000_000.0


class FakeClock:
    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 1.0

    def token(self) -> str:
        return "0123456789abcdef" * 2

    def random(self) -> float:
        return 0.5


def order_view(status: RunStatus = RunStatus.WAITING) -> RunView:
    return RunView(
        run="order-17",
        inc=12,
        workflow="order",
        status=status,
        n=5,
        version="1",
        fingerprint="ab" * 32,
        started_at=NOW - 75,
        input={"id": 17},
        waits_for=["message payment"],
        steps=[
            StepView("reserve", StepStatus.COMPLETED, 1, "inventory.reserve", "here", NOW - 75, NOW - 74.5),
            StepView(
                "charge",
                StepStatus.RUNNING,
                3,
                "payments.charge",
                "task",
                NOW - 70,
                error=ErrorInfo("card.slow", "the bank [did] not answer"),
            ),
        ],
    )


LINES = [
    JournalLine(1, NOW - 75, "engine-ab12", [{"t": "run_started", "workflow": "order", "input": {"id": 17}}]),
    JournalLine(
        2,
        NOW - 74,
        "engine-ab12",
        [
            {"t": "started", "step": "reserve", "attempt": 1, "where": "here"},
            {"t": "completed", "step": "reserve", "output": {"ok": True}},
        ],
    ),
]


class FakeWorkflows:
    """One workflow, `order`, whose input needs an `id`; run `order-17` waits, the others end as their name says."""

    def __init__(self) -> None:
        self.runs: dict[str, JSON] = {"order-17": {"id": 17}}
        self.asked: list[tuple[str, ...]] = []

    async def start(
        self,
        workflow: str | Definition,
        input: JSON = None,
        *,
        id: str | None = None,
        token: str | None = None,
        labels: Mapping[str, str] | None = None,
        not_before: datetime | None = None,
        timeout: timedelta | None = None,
        actor: Actor | None = None,
    ) -> Started:
        if workflow != "order":
            raise WorkflowNotFound(workflow if isinstance(workflow, str) else workflow.id, ["order"])
        if not isinstance(input, dict) or "id" not in input:
            raise SchemaMismatch("the input of order", ["/: id is required"])
        run = id or "generated"
        if run in self.runs and self.runs[run] != input:
            raise RunConflict(run)
        known = run in self.runs
        self.runs[run] = input
        return Started(run, 12, not known)

    async def result(self, run: str, *, timeout: timedelta | None = None) -> JSON:
        self._check(run)
        if run.startswith("failed"):
            raise RunFailed(run, ErrorInfo("card.declined", "the bank said no"))
        if run.startswith("cancelled"):
            raise RunCancelled(run, "customer called")
        if run == "order-17":
            raise WaitTimeout(f"run {run}", timeout.total_seconds() if timeout else 0)
        return {"total": 42}

    async def message(
        self, run: str, name: str, payload: JSON = None, *, id: str | None = None, actor: Actor | None = None
    ) -> None:
        self._check(run)
        self.asked.append(("message", run, name, msgspec.json.encode(payload).decode()))

    async def cancel(
        self, run: str, *, reason: str = "", compensate: bool | None = None, actor: Actor | None = None
    ) -> None:
        self._check(run)
        self.asked.append(("cancel", run, reason, str(compensate)))

    async def action(
        self, run: str, verb: ActionVerb, *, step: str = "", reason: str = "", actor: Actor | None = None
    ) -> None:
        self._check(run)
        self.asked.append(("action", run, verb, step))

    async def show(self, run: str) -> RunView:
        self._check(run)
        view = order_view(RunStatus.COMPLETED) if run.startswith("completed") else order_view()
        return msgspec.structs.replace(view, run=run)

    async def journal(self, run: str, *, after: int = 0) -> Sequence[JournalLine]:
        self._check(run)
        return [line for line in LINES if line.n > after]

    async def tail(self, run: str, *, after: int = 0) -> AsyncIterator[JournalLine]:
        self._check(run)
        for line in LINES:
            if line.n > after:
                yield line

    async def list(
        self, *, status: RunStatus | None = None, workflow: str | None = None, limit: int = 50, after: int = 0
    ) -> tuple[Sequence[RunSummary], int]:
        rows = [RunSummary(run, "order", RunStatus.WAITING, 12, NOW - 60) for run in self.runs]
        kept = [row for row in rows if status in (None, row.status) and workflow in (None, row.workflow)]
        return kept[after : after + limit], after + limit if len(kept) > after + limit else 0

    async def register(self, text: str, *, source: str = "") -> Sequence[str]:
        return []

    def _check(self, run: str) -> None:
        if run not in self.runs:
            raise RunNotFound(run)
