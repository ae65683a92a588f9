"""Stand-ins for what a test does not run: an endpoint or a step that answers as it was told."""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import cast

import msgspec

from jetloom.clock import Clock
from jetloom.errors import InvalidInput
from jetloom.messages import through_codec
from jetloom.runtime import Module, StepContext, endpoint, step
from jetloom.telemetry import current
from jetloom.types import JSON, SYSTEM, Actor, Duration, seconds


class Delay:
    """An outcome that takes `duration` of virtual time, and then is `then`: a value, an error, a callable."""

    def __init__(self, duration: Duration, then: object = None) -> None:
        self.seconds = seconds(duration)
        self.then = then

    def __repr__(self) -> str:
        return f"Delay({self.seconds:g}, {self.then!r})"


class FakeCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a fake. `at` is in seconds since the epoch; `run`, `step`, `attempt` and `key` are a step's."""

    input: JSON
    actor: Actor | None
    at: float
    run: str = ""
    step: str = ""
    attempt: int = 0
    key: str = ""


class Fake:
    """Answers the first call with the first outcome, and so on; the last outcome answers every call after it.

    An outcome is a value (what is returned), an exception (what is raised), a callable (called with the input, may be
    async; what it gives is the outcome), or a `Delay`. Without outcomes the answer is None.
    """

    def __init__(self, name: str, outcomes: Sequence[object], clock: Clock) -> None:
        self.name = name
        self.calls: list[FakeCall] = []
        """In the order in which they began."""
        self._outcomes = list(outcomes) or [None]
        self._clock = clock

    @property
    def inputs(self) -> list[JSON]:
        return [each.input for each in self.calls]

    def will(self, *outcomes: object) -> None:
        """Sets the outcomes of the calls from now on."""
        self._outcomes = [*([None] * len(self.calls)), *(outcomes or (None,))]

    async def answer(self, value: JSON, ctx: StepContext | None = None) -> JSON:
        number = len(self.calls)
        now, actor = self._clock.now(), current().actor
        if ctx is None:
            self.calls.append(FakeCall(input=value, actor=actor, at=now))
        else:
            call = FakeCall(
                input=value,
                actor=ctx.actor,
                at=now,
                run=ctx.run,
                step=ctx.step,
                attempt=ctx.attempt,
                key=ctx.key,
            )
            self.calls.append(call)
        return await _settle(self._outcomes[min(number, len(self._outcomes) - 1)], value)


async def _settle(outcome: object, value: JSON) -> JSON:
    while True:
        if isinstance(outcome, Delay):
            await asyncio.sleep(outcome.seconds)
            outcome = outcome.then
        elif isinstance(outcome, BaseException):
            raise outcome
        elif isinstance(outcome, type) and issubclass(outcome, BaseException):
            raise outcome()
        elif callable(function := cast("Callable[[JSON], object]", outcome)):
            given = function(value)
            outcome = await cast("Awaitable[object]", given) if inspect.isawaitable(given) else given
        else:
            return through_codec(cast("object", outcome))


class FakeContext:
    """A step's context for calling its body alone: it remembers what was emitted, and runs nothing.

    `key` is what a run would give; `resume` is what an earlier attempt left with `heartbeat`.
    """

    def __init__(
        self, run: str = "run-1", step: str = "step", *, attempt: int = 1, resume: JSON = None
    ) -> None:
        self.run = run
        self.inc = 1
        self.step = step
        self.attempt = attempt
        self.key = f"{run}.1.{step}"
        self.deadline: datetime | None = None
        self.actor: Actor = SYSTEM
        self.logger = logging.LoggerAdapter(logging.getLogger(f"jetloom.step.{step}"), {})
        self.emitted: list[tuple[str, JSON, str]] = []
        """Type, payload and key of each event, in order."""
        self.details: JSON = resume
        """What the last `heartbeat` said."""

    def emit(self, event_type: str, payload: object = None, *, key: str = "") -> None:
        self.emitted.append((event_type, through_codec(payload), key))

    async def heartbeat(self, details: JSON = None) -> None:
        self.details = through_codec(details)

    async def resume_details(self) -> JSON:
        return self.details


def endpoint_module(service: str, name: str, fake: Fake) -> type[Module]:
    """A module that has this fake as its endpoint."""
    attributes: dict[str, object] = {
        "id": service,
        "description": "a fake",
        _method(name): endpoint(name)(_endpoint_body(fake)),
    }
    return _made(service, attributes)


def step_module(fake: Fake) -> type[Module]:
    """A module that has this fake as its step."""
    attributes: dict[str, object] = {
        "id": re.sub("[^a-z0-9_-]", "-", f"fake-{fake.name.lower()}")[:64],
        "description": "a fake",
        _method(fake.name): step(fake.name)(_step_body(fake)),
    }
    return _made(fake.name, attributes)


def _endpoint_body(fake: Fake) -> Callable[..., Awaitable[JSON]]:
    async def answer(_: Module, request: JSON) -> JSON:
        return await fake.answer(request)

    return answer


def _step_body(fake: Fake) -> Callable[..., Awaitable[JSON]]:
    async def answer(_: Module, ctx: StepContext, value: JSON) -> JSON:
        return await fake.answer(value, ctx)

    return answer


def _method(name: str) -> str:
    return "fake_" + re.sub(r"\W", "_", name)


def _made(name: str, attributes: dict[str, object]) -> type[Module]:
    if not name:
        raise InvalidInput(
            "a fake needs a name: the service and the endpoint, or the step that it stands for"
        )
    title = "".join(part.capitalize() for part in re.split(r"\W+", name))
    return type(f"Fake{title}", (Module,), attributes)
