"""What the handlers of a world's modules did: every call, with its input, its outcome and its time."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Literal, cast

import msgspec

from jetloom.clock import Clock
from jetloom.errors import TaskFailed
from jetloom.runtime import Module
from jetloom.telemetry import current
from jetloom.testing._clock import PROCESS
from jetloom.types import Actor

type HandledOutcome = Literal["running", "ok", "error", "cancelled", "killed"]
"""`cancelled`: by a timeout, a stop, or a caller who left. `killed`: its process was crashed while it ran."""

_DECLARATIONS = "__jetloom__"
"""Where `@on` and the others leave what they declare."""

_CALLED = frozenset({"OnMark", "EndpointMark", "StepMark", "EveryMark"})


class Handled(msgspec.Struct, kw_only=True):
    """One call of a handler. `input` is what it got: an `Event`, a list of them, a request, a step's input, a tick.

    `at` is in seconds since the epoch, `seconds` is how long it took, both in virtual time.
    """

    handler: str
    process: str
    input: object
    outcome: HandledOutcome = "running"
    output: object = None
    error: Exception | None = None
    at: float = 0
    seconds: float = 0
    actor: Actor | None = None

    @property
    def code(self) -> str:
        """The error's code, as runs and dead letters show it; empty without one."""
        if isinstance(self.error, TaskFailed):
            return self.error.info.code
        return str(getattr(self.error, "code", "")) if self.error is not None else ""


class Records:
    """Every call of every handler, in the order in which they began."""

    def __init__(self, clock: Clock) -> None:
        self.all: list[Handled] = []
        self._clock = clock

    def of(self, handler: str) -> list[Handled]:
        return [each for each in self.all if each.handler == handler]

    @property
    def running(self) -> int:
        return sum(each.outcome == "running" for each in self.all)

    def killed(self, process: str) -> None:
        for each in self.all:
            if each.process == process and each.outcome == "running":
                each.outcome = "killed"

    def watch(self, module: Module) -> None:
        """Records the calls of every declared method of this instance from now on."""
        for attribute, marks in _declared(type(module)):
            names = [_name(module, mark) for mark in marks if type(mark).__name__ in _CALLED]
            if names:
                if attribute in vars(module):
                    continue  # an instance that is started again
                method = cast("Callable[..., object]", getattr(module, attribute))
                # The signature is read off the class, the call goes through the instance.
                vars(module)[attribute] = self._recorded(names[0], method)

    def _recorded(self, name: str, method: Callable[..., object]) -> Callable[..., object]:
        if inspect.isasyncgenfunction(method):
            generate = cast("Callable[..., AsyncIterator[object]]", method)

            @functools.wraps(method)
            async def parts(*arguments: object) -> AsyncIterator[object]:
                with _Call(self, name, arguments, self._clock) as call:
                    given: list[object] = []
                    call.record.output = given
                    async for part in generate(*arguments):
                        given.append(part)
                        yield part

            return parts
        if inspect.iscoroutinefunction(method):
            body = cast("Callable[..., Awaitable[object]]", method)

            @functools.wraps(method)
            async def run(*arguments: object) -> object:
                with _Call(self, name, arguments, self._clock) as call:
                    call.record.output = output = await body(*arguments)
                    return output

            return run

        @functools.wraps(method)
        def run_sync(*arguments: object) -> object:
            with _Call(self, name, arguments, self._clock) as call:
                call.record.output = output = method(*arguments)
                return output

        return run_sync


class _Call:
    """One call, from its beginning to its end."""

    def __init__(self, records: Records, name: str, arguments: tuple[object, ...], clock: Clock) -> None:
        self._clock = clock
        self.record = Handled(
            handler=name,
            process=PROCESS.get(),
            # A step's context comes before its input.
            input=arguments[-1] if arguments else None,
            at=clock.now(),
            actor=current().actor,
        )
        records.all.append(self.record)

    def __enter__(self) -> _Call:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        record = self.record
        record.seconds = self._clock.now() - record.at
        if error is None:
            record.outcome = "ok"
        elif isinstance(error, Exception):
            record.outcome, record.error = "error", error
        else:
            record.outcome = "cancelled"


def names_of(kind: type[Module]) -> set[str]:
    """The steps (by their names) and the endpoints, handlers and schedules (`module.name`) that a class declares."""
    return {
        f"{kind.id}.{name}" if not step else name
        for _, marks in _declared(kind)
        for name, step in ((_plain_name(mark), type(mark).__name__ == "StepMark") for mark in marks)
        if name
    }


def _declared(kind: type[Module]) -> Iterator[tuple[str, tuple[object, ...]]]:
    seen: dict[str, object] = {}
    for base in reversed(kind.__mro__):
        seen.update(vars(base))
    for attribute, value in seen.items():
        function: object = getattr(value, "__func__", value)
        marks: object = getattr(function, _DECLARATIONS, ())
        if marks and isinstance(marks, tuple):
            yield attribute, cast("tuple[object, ...]", marks)


def _plain_name(mark: object) -> str:
    return str(getattr(mark, "name", "")) if type(mark).__name__ in _CALLED else ""


def _name(module: Module, mark: object) -> str:
    name = _plain_name(mark)
    return name if type(mark).__name__ == "StepMark" else f"{module.id}.{name}"
