"""From decorated methods to what is served; and to what a typed client calls."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import cast

import msgspec

from ..bus import Event, EventHandler, PayloadDecoder, Retry, check_event_handler
from ..errors import InvalidInput, NameInvalid, TaskFailed
from ..messages import Names, check_handler, encode
from ..rpc import Endpoint, EndpointSpec
from ..telemetry import current, use
from ..types import JSON
from ._every import ScheduleHandler, schedule_handler
from ._health import HealthCheck, one_at_a_time, passing
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
from ._signatures import Signature, Wrong, schema_of, type_name

HOOKS = ("init", "ready", "drain", "shutdown")


class BackgroundTask(msgspec.Struct, frozen=True):
    """A task that a module declares."""

    name: str
    function: Callable[[], Awaitable[object]]
    restarts_max: int


class Declared(msgspec.Struct):
    """What one module handles, and what is wrong with its declarations."""

    events: list[EventHandler[object]] = []
    endpoints: list[Endpoint] = []
    steps: list[StepHandler] = []
    undos: dict[str, str] = {}
    every: list[ScheduleHandler] = []
    health: list[HealthCheck] = []
    background: list[BackgroundTask] = []
    problems: list[str] = []


def declared_by(module: Module, names: Names) -> Declared:
    """Reads every decorated method of a module."""
    declared = Declared()
    for name, function, static, marks in _marked(type(module)):
        where = f"{type(module).__name__}.{name}"
        if name in HOOKS:
            declared.problems.append(f"{where}: {name} is called by the host and can't be declared as well")
            continue
        method = cast("Callable[..., object]", getattr(module, name))
        for mark in marks:
            try:
                signature = Signature(where, function, static=static)
                _check_limits(mark)
                _declare(declared, module, mark, signature, method, names)
            except (Wrong, InvalidInput) as error:
                problem = str(error)
                declared.problems.append(problem if problem.startswith(where) else f"{where}: {problem}")
    shared = {each.name for each in declared.events} & {each.name for each in declared.every}
    declared.problems.extend(
        f"module {module.id!r} has an event handler and a schedule {name!r}: their dead letters need two names"
        for name in sorted(shared)
    )
    for kind, found in (
        ("event handler", [each.name for each in declared.events]),
        ("endpoint", [each.name for each in declared.endpoints]),
        ("step", [each.name for each in declared.steps]),
        ("schedule", [each.name for each in declared.every]),
        ("health check", [each.name for each in declared.health]),
        ("background task", [each.name for each in declared.background]),
    ):
        declared.problems.extend(
            f"module {module.id!r} has two of {kind} {name!r}"
            for name in sorted({name for name in found if found.count(name) > 1})
        )
    return declared


def describe(kind: type) -> dict[str, EndpointSpec]:
    """A module class's endpoints by the name of the method, for typed clients. No instance is made.

    Raises `InvalidInput` for a class that is no module, and for a signature that can't serve.
    """
    if not issubclass(kind, Module) or not kind.id:
        raise InvalidInput(f"{kind.__name__} is no module with an id")
    found: dict[str, EndpointSpec] = {}
    for name, function, static, marks in _marked(kind):
        for mark in marks:
            if not isinstance(mark, EndpointMark):
                continue
            try:
                signature = Signature(f"{kind.__name__}.{name}", function, static=static)
                found[name] = EndpointSpec(
                    service=kind.id,
                    endpoint=mark.name,
                    request=signature.request(),
                    response=signature.response(),
                    parts=signature.is_parts,
                    idempotent=mark.idempotent,
                    timeout=mark.timeout,
                )
            except Wrong as error:
                raise InvalidInput(str(error)) from error
    return found


def _marked(kind: type[Module]) -> Iterator[tuple[str, object, bool, tuple[Mark, ...]]]:
    attributes: dict[str, object] = {}
    for base in reversed(kind.__mro__):
        attributes.update(vars(base))
    for name, value in attributes.items():
        function: object = getattr(value, "__func__", value)
        marks = marks_of(function) or marks_of(value)
        if marks:
            yield name, function, isinstance(value, staticmethod), marks


def _declare(
    declared: Declared,
    module: Module,
    mark: Mark,
    signature: Signature,
    method: Callable[..., object],
    names: Names,
) -> None:
    match mark:
        case OnMark():
            declared.events.append(_event_handler(module, mark, signature, method))
        case EndpointMark():
            declared.endpoints.append(_endpoint(module, mark, signature, method, names))
        case StepMark():
            function = _step(module, signature, method)
            declared.steps.append(StepHandler(check_handler(mark.name), function, mark.concurrency))
            if mark.undo is not None:
                declared.undos[mark.name] = check_handler(mark.undo)
        case EveryMark():
            _token(mark.name, "schedule")
            declared.every.append(schedule_handler(module.id, mark, signature, method))
        case HealthMark():
            signature.nothing("a health check")
            check = passing(signature.body(method if signature.is_async else one_at_a_time(method)))
            name = _token(mark.name, "health check")
            declared.health.append(
                HealthCheck(module.id, name, mark.kind, mark.timeout, mark.interval, check)
            )
        case BackgroundMark():
            signature.nothing("a background task")
            if not signature.is_async:
                raise Wrong(f"{signature.where}: a background task is async: a thread can't be stopped")
            name = _token(mark.name, "background task")
            body = signature.body(method)
            declared.background.append(BackgroundTask(name, body, mark.restarts_max))


def _check_limits(mark: Mark) -> None:
    match mark:
        case OnMark():
            # The rest is checked where it is served: `check_event_handler`.
            _at_least("batch", mark.batch, 0)
            _at_least("dedupe", mark.dedupe, 0, " s")
            _above_zero("batch_wait", mark.batch_wait)
        case EndpointMark():
            _at_least("concurrency", mark.concurrency, 1)
            _above_zero("timeout", mark.timeout)
            _token(mark.group, "queue group")
        case StepMark():
            _at_least("concurrency", mark.concurrency, 1)
        case EveryMark():
            _at_least("missed_max", mark.missed_max, 1)
            _above_zero("timeout", mark.timeout)
        case HealthMark():
            _above_zero("timeout", mark.timeout)
            _at_least("interval", mark.interval, 0.1, " s")
        case BackgroundMark():
            _at_least("restarts_max", mark.restarts_max, 0)


def _at_least(name: str, value: float, least: float, unit: str = "") -> None:
    if not value >= least:
        raise Wrong(f"{name} is {value:g}{unit}, expected {least:g} or more")


def _above_zero(name: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise Wrong(f"{name} is {value:g} s, expected more than 0")


def _token(name: str, what: str) -> str:
    if not name or not all(sign.isascii() and (sign.isalnum() or sign in "_-") for sign in name):
        raise NameInvalid(what, name, "A-Z a-z 0-9 _ -")
    return name


def _event_handler(
    module: Module, mark: OnMark, signature: Signature, method: Callable[..., object]
) -> EventHandler[object]:
    payload = signature.event(mark.batch)
    body = signature.body(method)
    handler: EventHandler[object] = EventHandler(
        module=module.id,
        name=_token(mark.name, "event handler"),
        pattern=mark.pattern,
        decoder=signature.decoder(payload),
        function=None if mark.batch else cast("Callable[[Event[object]], Awaitable[None]]", body),
        many=cast("Callable[[list[Event[object]]], Awaitable[None]]", body) if mark.batch else None,
        mode=mark.mode,
        start=mark.start,
        where=mark.where,
        key=mark.key,
        batch=mark.batch,
        batch_wait=mark.batch_wait,
        dedupe=mark.dedupe,
        timeout=mark.timeout,
        retry=mark.retry or Retry(),
        concurrency=mark.concurrency,
        ack_wait=mark.ack_wait,
        schema=schema_of(payload),
    )
    check_event_handler(handler)
    return handler


def _endpoint(
    module: Module, mark: EndpointMark, signature: Signature, method: Callable[..., object], names: Names
) -> Endpoint:
    request, response = signature.request(), signature.response()
    decoder = None if request is None else signature.decoder(request)
    types = {"response": type_name(response)}
    if request is not None:
        types["request"] = type_name(request)
    parts = signature.is_parts
    answers = _Answers(response, signature.where)
    return Endpoint(
        name=_token(mark.name, "endpoint"),
        subject=names.rpc(module.id, mark.name),
        function=None if parts else _answering(signature, decoder, method, answers),
        parts=_answering_in_parts(signature, decoder, method, answers) if parts else None,
        concurrency=mark.concurrency,
        timeout=mark.timeout,
        group=mark.group,
        idempotent=mark.idempotent,
        metadata={**types, **mark.metadata},
        request_schema=None if request is None else schema_of(request),
        response_schema=schema_of(response),
    )


def _answering(
    signature: Signature,
    decoder: PayloadDecoder[object] | None,
    method: Callable[..., object],
    answers: _Answers,
) -> Callable[[bytes], Awaitable[bytes]]:
    body = signature.body(method)
    what = f"the request of {signature.where}"

    async def serve(data: bytes) -> bytes:
        return answers.encode(await (body() if decoder is None else body(decoder.decode(data, what))))

    return serve


def _answering_in_parts(
    signature: Signature,
    decoder: PayloadDecoder[object] | None,
    method: Callable[..., object],
    answers: _Answers,
) -> Callable[[bytes], AsyncIterator[bytes]]:
    generate = cast("Callable[..., AsyncIterator[object]]", method)
    what = f"the request of {signature.where}"

    async def serve(data: bytes) -> AsyncIterator[bytes]:
        arguments = () if decoder is None else (decoder.decode(data, what),)
        async for part in generate(*arguments):
            yield answers.encode(part)

    return serve


class _Answers:
    """Encodes what an endpoint gives. What its declared type can't be read back from is the service's mistake, and is
    named here: a caller in another language would take it for an answer.
    """

    def __init__(self, kind: object, where: str) -> None:
        self._kind = kind
        self._where = where
        self._decoder: msgspec.json.Decoder[object] | None = None
        if kind is not JSON and kind is not object:
            # A type that can be written and not read back is the caller's to read.
            with contextlib.suppress(TypeError):
                self._decoder = msgspec.json.Decoder(kind)

    def encode(self, answer: object) -> bytes:
        try:
            data = encode(answer)
        except TypeError as error:
            raise TaskFailed(
                "answer.invalid", f"{self._where} gave what has no JSON form: {error}"
            ) from error
        if self._decoder is not None:
            try:
                self._decoder.decode(data)
            except msgspec.ValidationError as error:
                raise TaskFailed(
                    "answer.invalid",
                    f"{self._where} gave what does not fit {type_name(self._kind)}: {error}; mend the method or the "
                    "type that it declares",
                ) from error
        return data


def _step(
    module: Module, signature: Signature, method: Callable[..., object]
) -> Callable[[StepContext, JSON], Awaitable[JSON]]:
    with_context, rest = signature.step()
    kind = rest[0] if rest else None
    if rest:
        signature.decoder(kind)
    body, where, plain = signature.body(method), signature.where, not rest or kind is JSON

    async def run(ctx: StepContext, value: JSON) -> JSON:
        arguments: list[object] = [ctx] if with_context else []
        if rest:
            arguments.append(value if plain else _converted(value, kind, where))
        deadline = ctx.deadline
        context = msgspec.structs.replace(
            current(),
            actor=ctx.actor,
            deadline=None if deadline is None else deadline.timestamp(),
            module=module.id,
            run=ctx.run,
            step=ctx.step,
        )
        with use(context):
            return _plain(await body(*arguments), where)

    return run


def _converted(value: JSON, kind: object, where: str) -> object:
    try:
        return cast("object", msgspec.convert(value, kind))
    except msgspec.ValidationError as error:
        raise InvalidInput(f"input of {where} does not fit {type_name(kind)}: {error}") from error


def _plain(value: object, where: str) -> JSON:
    try:
        return cast("JSON", msgspec.to_builtins(value, str_keys=True))
    except TypeError as error:
        raise TaskFailed("output.invalid", f"{where} gave what has no JSON form: {error}") from error
