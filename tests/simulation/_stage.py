"""A universe that a scenario writes by hand: no chance but latency, and faults where the script says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from jetloom.engine import Client
from jetloom.types import JSON
from jetloom.workflows import Definition, Retry, Saga, Step, Wait
from tests.simulation._graphs import LOCAL
from tests.simulation._ledger import Truth
from tests.simulation._plan import Strike, Style
from tests.simulation._universe import Universe
from tests.simulation._world import World, live

GRAIN = 0.002
NEVER = 10_000.0

CALM = Style(engines=0, workers=0, runs=0)


class Stage(Universe):
    """`play` is the scenario; afterwards every run has to end, and every checker has its say."""

    def __init__(self, *steps: Step, style: Style = CALM, seed: int = 1) -> None:
        self.draw = Random(seed)
        self.style = style
        self.world = World(seed, style)
        self.definitions = [Definition(id="w", steps=steps)]
        self.deeds = {}
        self.client: Client

    async def run(self) -> None:
        await self.world.prepare(self.definitions)
        self.client = Client(self.world.server.connect("stage"), self.world.names, clock=self.world.clock)
        await self.play()
        self.world.note("the script ends")
        self.world.plan.calm()
        for process in sorted(self.world.engines):
            self.thaw(process)
        await self._calm()
        if not self.world.broken:
            self._at_rest()

    async def play(self) -> None:
        raise NotImplementedError

    def perform(self) -> Stage:
        """Plays it; raises the first broken invariant."""
        live(self.world, self.run())
        if self.world.violations:
            raise self.world.violations[0]
        return self

    # -- what scripts do
    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Waits, in virtual time, until a condition that is named holds."""
        deadline = self.world.loop.time() + seconds
        while not condition():
            if self.world.loop.time() > deadline or self.world.broken:
                self.world.violate("scenario", f"it never came that {what}")
                raise self.world.violations[0]
            await asyncio.sleep(GRAIN)

    def engine(self, base: str, local: tuple[str, ...] = LOCAL) -> str:
        return self.world.spawn_engine(base, local)

    def strike(
        self, what: str, when: str, process: str, kind: str, subject: str = "", seconds: float = 1.0
    ) -> None:
        self.world.plan.script.append(Strike(what, when, process, kind, subject, seconds))

    def struck(self) -> bool:
        return not self.world.plan.script

    def freeze(self, process: str) -> None:
        self.world.freeze(process, NEVER)

    def thaw(self, process: str) -> None:
        self.world._thaw(process)

    def truth(self, run: str = "r") -> Truth:
        return self.world.ledger.truth(run)

    def n(self, run: str = "r") -> int:
        return self.truth(run).state.n

    def ended(self, run: str = "r") -> bool:
        return self.truth(run).state.finished is not None

    def holder(self, ref: str, run: str = "r") -> str:
        """The base name of the engine that holds a cover."""
        cover = self.truth(run).state.covers.get(ref)
        return cover.holder.rpartition("-")[0] if cover is not None else ""

    def executions(self, unit: str, attempt: int = 1, run: str = "r") -> int:
        truth = self.truth(run)
        return len(self.world.books.executions.get((run, truth.state.inc, unit, attempt), []))


def step(
    step_id: str, uses: str, *after: str, saga: str = "", retries: int = 3, initial: float = 0.1, **plan: JSON
) -> Step:
    """A step that does what `plan` says: `d` durations, `f` failures, `e` events."""
    return Step(
        step_id,
        uses=uses,
        depends_on=after,
        with_=dict(plan),
        retry=Retry(max=retries, initial=initial, jitter=0.0),
        saga=Saga(saga) if saga else None,
    )


def sleep(step_id: str, seconds: float, *after: str) -> Step:
    return Step(step_id, depends_on=after, wait=Wait(for_=seconds))


def message(step_id: str, name: str, *after: str) -> Step:
    return Step(step_id, depends_on=after, wait=Wait(message=name))
