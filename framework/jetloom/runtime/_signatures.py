"""What a method takes and gives, by its annotations: read once, at the start; what can't serve is named."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from types import UnionType
from typing import Union, cast, get_args, get_origin, get_type_hints

import msgspec

from ..bus import Event, PayloadDecoder
from ..types import JSON
from ._ports import StepContext

type Body = Callable[..., Awaitable[object]]

NONE = type(None)

_STREAMS: tuple[object, ...] = (AsyncIterator, AsyncIterable, AsyncGenerator)


class Wrong(Exception):
    """A declaration that can't serve; the message is the problem."""


class Signature:
    """One method's parameters and annotations, without its instance. Raises `Wrong`."""

    def __init__(self, where: str, function: object, *, static: bool = False) -> None:
        self.where = where
        self.function = cast("Callable[..., object]", function)
        try:
            self._hints = cast("dict[str, object]", get_type_hints(function, include_extras=True))
        except (NameError, TypeError, AttributeError) as error:
            raise Wrong(
                f"{where}: its annotations can't be read: {error} (types must be importable when the process "
                "starts: at module level, not under TYPE_CHECKING)"
            ) from error
        given = list(inspect.signature(self.function).parameters.values())
        self._parameters = [
            each
            for each in (given if static else given[1:])
            if each.default is inspect.Parameter.empty
            and each.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        ]
        keyword = [each.name for each in self._parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
        if keyword:
            raise Wrong(f"{where}: nothing fills its keyword parameter {keyword[0]!r}")
        if inspect.isgeneratorfunction(function):
            raise Wrong(f"{where}: is a generator; an endpoint that answers in parts is an async one")

    @property
    def is_parts(self) -> bool:
        """Whether it gives a series of values."""
        return inspect.isasyncgenfunction(self.function)

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.function)

    def body(self, method: Callable[..., object]) -> Body:
        """The bound method, or one that runs it in a thread: a sync body never blocks the loop."""
        if self.is_parts:
            raise Wrong(f"{self.where}: is an async generator; only an endpoint answers in parts")
        if self.is_async:
            return cast("Body", method)

        async def run(*arguments: object) -> object:
            return await asyncio.to_thread(method, *arguments)

        return run

    # -- by what it declares
    def event(self, batch: int) -> object:
        """The payload's type. A list of events goes with `batch`, and only with it."""
        if len(self._parameters) != 1:
            raise Wrong(f"{self.where}: an event handler takes one Event, found {self.found()}")
        hint = whole = self.hint(0)
        many = get_origin(hint) is list
        if many:
            hint = get_args(hint)[0]
        if hint is Event or (hint is JSON and not many):
            payload: object = JSON
        elif get_origin(hint) is Event:
            payload = get_args(hint)[0]
        else:
            raise Wrong(
                f"{self.where}: an event handler takes an Event[Payload], or a list[Event[Payload]] with batch=…; "
                f"found {type_name(whole)}"
            )
        if many and batch < 1:
            raise Wrong(f"{self.where}: takes a list: set batch=…, how many events one call gets at most")
        if batch and not many:
            raise Wrong(f"{self.where}: batch={batch} needs a list[Event[Payload]], found {type_name(whole)}")
        return payload

    def request(self) -> object:
        """The request's type; None for an endpoint that takes nothing."""
        if len(self._parameters) > 1:
            raise Wrong(f"{self.where}: an endpoint takes one argument or none, found {self.found()}")
        return self.hint(0) if self._parameters else None

    def response(self) -> object:
        """The answer's type; of a series, that of one part."""
        hint = self._hints.get("return", JSON)
        stream = get_origin(hint) in _STREAMS or hint in _STREAMS
        if stream and not self.is_parts:
            raise Wrong(
                f"{self.where}: gives {type_name(hint)} and yields nothing: write it as an async generator"
            )
        if self.is_parts and stream:
            return get_args(hint)[0] if get_args(hint) else JSON
        if self.is_parts and hint is not JSON:
            raise Wrong(f"{self.where}: yields, so it gives an AsyncIterator[Part]; found {type_name(hint)}")
        return hint

    def step(self) -> tuple[bool, list[object]]:
        """Whether it takes the context, and the input's type, in a list that may be empty."""
        hints = [self.hint(index) for index in range(len(self._parameters))]
        with_context = bool(hints) and hints[0] is StepContext
        rest = hints[1:] if with_context else hints
        if len(rest) > 1:
            raise Wrong(
                f"{self.where}: a step takes (ctx: StepContext, input), each of which may be missing; "
                f"found {self.found()}"
            )
        return with_context, rest

    def tick(self, kind: type) -> bool:
        """Whether it takes the tick, of type `kind`, or nothing."""
        if len(self._parameters) > 1 or (self._parameters and self.hint(0) not in (kind, JSON)):
            raise Wrong(
                f"{self.where}: a scheduled method takes a {kind.__name__} or nothing, found {self.found()}"
            )
        return bool(self._parameters)

    def nothing(self, what: str) -> None:
        if self._parameters:
            raise Wrong(f"{self.where}: {what} takes no argument, found {self.found()}")

    # -- types
    def hint(self, index: int) -> object:
        return self._hints.get(self._parameters[index].name, JSON)

    def found(self) -> str:
        names = ", ".join(each.name for each in self._parameters)
        return f"({names})"

    def decoder(self, kind: object) -> PayloadDecoder[object]:
        try:
            return PayloadDecoder[object](kind)
        except TypeError as error:
            raise Wrong(f"{self.where}: {type_name(kind)} can't be read from JSON: {error}") from error


def schema_of(kind: object) -> dict[str, JSON] | None:
    """The JSON Schema of a type; empty for what may be anything, None for what has none."""
    if kind is JSON or kind is object:
        return {}
    try:
        return cast("dict[str, JSON]", msgspec.json.schema(kind, schema_hook=_any))
    except (TypeError, NotImplementedError):
        return None


def type_name(kind: object) -> str:
    if kind is JSON:
        return "JSON"
    if kind is NONE:
        return "None"
    arguments = [type_name(each) for each in get_args(kind)]
    origin = cast("object", get_origin(kind))
    if origin is Union or origin is UnionType:
        return " | ".join(arguments)
    if arguments and isinstance(origin, type):
        return f"{origin.__name__}[{', '.join(arguments)}]"
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")


def _any(kind: type) -> dict[str, object]:
    if kind is object:
        return {"description": "anything"}
    raise NotImplementedError(kind)
