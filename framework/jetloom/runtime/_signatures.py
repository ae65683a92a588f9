"""From decorated methods to handlers: annotations are read once, at the start, and a wrong one is named."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from typing import cast, get_args, get_origin, get_type_hints

import msgspec

from ..bus import Event, EventHandler, PayloadDecoder, check_pattern
from ..errors import InvalidInput, NameInvalid, TaskFailed
from ..messages import Names, check_handler, encode
from ..rpc import Endpoint
from ..types import JSON
from ._module import (
    BackgroundMark,
    EndpointMark,
    EveryMark,
    HealthMark,
    Mark,
    Module,
    OnMark,
    StepMark,
    marks_of,
)
from ._ports import StepContext, StepHandler

type Body = Callable[..., Awaitable[object]]


class Declared(msgspec.Struct):
    """What one module handles, and what is wrong with its declarations."""

    events: list[EventHandler[object]] = []
    endpoints: list[Endpoint] = []
    steps: list[StepHandler] = []
    undos: dict[str, str] = {}
    problems: list[str] = []


def declared_by(module: Module, names: Names) -> Declared:
    """Reads every decorated method of a module."""
    declared = Declared()
    for name, function, marks in _marked(type(module)):
        where = f"{type(module).__name__}.{name}"
        method = cast("Callable[..., object]", getattr(module, name))
        for mark in marks:
            try:
                signature = _Signature(where, function, method)
                _declare(declared, module, mark, signature, names)
            except (_Wrong, NameInvalid) as error:
                problem = str(error)
                declared.problems.append(problem if problem.startswith(where) else f"{where}: {problem}")
    for kind, found in (
        ("event handler", [each.name for each in declared.events]),
        ("endpoint", [each.name for each in declared.endpoints]),
        ("step", [each.name for each in declared.steps]),
    ):
        declared.problems.extend(
            f"module {module.id!r} has two of {kind} {name!r}"
            for name in sorted({name for name in found if found.count(name) > 1})
        )
    return declared


class _Wrong(Exception):
    """A signature that can't serve; the message is the problem."""


def _marked(kind: type[Module]) -> Iterator[tuple[str, object, tuple[Mark, ...]]]:
    attributes: dict[str, object] = {}
    for base in reversed(kind.__mro__):
        attributes.update(vars(base))
    for name, value in attributes.items():
        function: object = getattr(value, "__func__", value)
        marks = marks_of(function)
        if marks:
            yield name, function, marks


def _declare(declared: Declared, module: Module, mark: Mark, signature: _Signature, names: Names) -> None:
    if mark_limit := _limit_problem(mark):
        raise _Wrong(f"{signature.where}: {mark_limit}")
    match mark:
        case OnMark():
            declared.events.append(
                EventHandler(
                    module=module.id,
                    name=_token(mark.name, "event handler"),
                    pattern=check_pattern(mark.pattern),
                    function=cast("Callable[[Event[object]], Awaitable[None]]", signature.body),
                    decoder=signature.event_payload(),
                    retry=mark.retry,
                    mode=mark.mode,
                    start=mark.start,
                    where=mark.where,
                    key=mark.key,
                    batch=mark.batch,
                    batch_wait=mark.batch_wait,
                    dedupe=mark.dedupe,
                    timeout=mark.timeout,
                    concurrency=mark.concurrency,
                    ack_wait=mark.ack_wait,
                )
            )
        case EndpointMark():
            declared.endpoints.append(
                Endpoint(
                    name=_token(mark.name, "endpoint"),
                    subject=names.rpc(module.id, mark.name),
                    function=signature.endpoint(),
                    concurrency=mark.concurrency,
                    timeout=mark.timeout,
                    group=mark.group,
                    idempotent=mark.idempotent,
                    metadata={**signature.type_names(), **mark.metadata},
                )
            )
        case StepMark():
            declared.steps.append(
                StepHandler(
                    name=check_handler(mark.name),
                    function=signature.step(),
                    concurrency=mark.concurrency,
                )
            )
            if mark.undo is not None:
                declared.undos[mark.name] = check_handler(mark.undo)
        case EveryMark() | HealthMark() | BackgroundMark():
            raise _Wrong(f"{signature.where}: not served yet")


def _limit_problem(mark: Mark) -> str:
    if isinstance(mark, OnMark | EndpointMark | StepMark) and mark.concurrency < 1:
        return f"concurrency is {mark.concurrency}, expected 1 or more"
    if isinstance(mark, OnMark) and mark.ack_wait < 1:
        return f"ack_wait is {mark.ack_wait:g} s, expected 1 or more"
    return ""


def _token(name: str, what: str) -> str:
    if not name or not all(sign.isascii() and (sign.isalnum() or sign in "_-") for sign in name):
        raise NameInvalid(what, name, "A-Z a-z 0-9 _ -")
    return name


class _Signature:
    """One method's parameters and annotations. Raises `_Wrong`."""

    def __init__(self, where: str, function: object, method: Callable[..., object]) -> None:
        self.where = where
        self.body = _as_async(method)
        try:
            self._hints = cast("dict[str, object]", get_type_hints(function, include_extras=True))
        except (NameError, TypeError, AttributeError) as error:
            raise _Wrong(
                f"{where}: its annotations can't be read: {error} (types must be importable when the process "
                "starts: at module level, not under TYPE_CHECKING)"
            ) from error
        self._parameters = [
            each
            for each in inspect.signature(method).parameters.values()
            if each.default is inspect.Parameter.empty
            and each.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        ]
        keyword = [each.name for each in self._parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
        if keyword:
            raise _Wrong(f"{where}: nothing fills its keyword parameter {keyword[0]!r}")

    def type_names(self) -> dict[str, str]:
        """The types of request and answer, for readers of `$SRV.INFO`."""
        names = {"response": _type_name(self._hints.get("return", JSON))}
        if self._parameters:
            names["request"] = _type_name(self._hint(self._parameters[0]))
        return names

    def event_payload(self) -> PayloadDecoder[object]:
        if len(self._parameters) != 1:
            raise _Wrong(f"{self.where}: an event handler takes one Event, found {self._found()}")
        hint = self._hint(self._parameters[0])
        if hint is Event or hint is JSON:
            kind: object = JSON
        elif get_origin(hint) is Event:
            kind = get_args(hint)[0]
        else:
            raise _Wrong(f"{self.where}: an event handler takes an Event[Payload], found {_type_name(hint)}")
        return self._decoder(kind)

    def endpoint(self) -> Callable[[bytes], Awaitable[bytes]]:
        if len(self._parameters) > 1:
            raise _Wrong(f"{self.where}: an endpoint takes one argument or none, found {self._found()}")
        body, where = self.body, self.where
        decoder = self._decoder(self._hint(self._parameters[0])) if self._parameters else None

        async def serve(data: bytes) -> bytes:
            answer = await (body() if decoder is None else body(decoder.decode(data, "request")))
            try:
                return encode(answer)
            except TypeError as error:
                raise TaskFailed("answer.invalid", f"{where} gave what has no JSON form: {error}") from error

        return serve

    def step(self) -> Callable[[StepContext, JSON], Awaitable[JSON]]:
        hints = [self._hint(each) for each in self._parameters]
        with_context = bool(hints) and hints[0] is StepContext
        rest = hints[1:] if with_context else hints
        if len(rest) > 1:
            raise _Wrong(
                f"{self.where}: a step takes (ctx: StepContext, input), each of which may be missing; "
                f"found {self._found()}"
            )
        kind = rest[0] if rest else None
        if rest:
            self._decoder(kind)
        body, where, plain = self.body, self.where, not rest or kind is JSON

        async def run(ctx: StepContext, value: JSON) -> JSON:
            arguments: list[object] = [ctx] if with_context else []
            if rest:
                arguments.append(value if plain else _converted(value, kind, where))
            return _plain(await body(*arguments), where)

        return run

    def _hint(self, parameter: inspect.Parameter) -> object:
        return self._hints.get(parameter.name, JSON)

    def _found(self) -> str:
        names = ", ".join(each.name for each in self._parameters)
        return f"({names})"

    def _decoder(self, kind: object) -> PayloadDecoder[object]:
        try:
            return PayloadDecoder[object](kind)
        except TypeError as error:
            raise _Wrong(f"{self.where}: {_type_name(kind)} can't be read from JSON: {error}") from error


def _converted(value: JSON, kind: object, where: str) -> object:
    try:
        return cast("object", msgspec.convert(value, kind))
    except msgspec.ValidationError as error:
        raise InvalidInput(f"input of {where} does not fit {_type_name(kind)}: {error}") from error


def _plain(value: object, where: str) -> JSON:
    try:
        return cast("JSON", msgspec.to_builtins(value, str_keys=True))
    except TypeError as error:
        raise TaskFailed("output.invalid", f"{where} gave what has no JSON form: {error}") from error


def _as_async(method: Callable[..., object]) -> Body:
    """The method itself, or one that runs it in a thread: a sync body never blocks the loop."""
    if inspect.iscoroutinefunction(method):
        return method

    async def run(*arguments: object) -> object:
        return await asyncio.to_thread(method, *arguments)

    return run


def _type_name(kind: object) -> str:
    if kind is JSON:
        return "JSON"
    return (
        kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
    )
