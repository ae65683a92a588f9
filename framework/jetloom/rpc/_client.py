"""A module's endpoints as methods of an object."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, cast

from ..transport import REQUEST_SECONDS
from ._endpoint import EndpointSpec
from ._retry import CallRetry

if TYPE_CHECKING:
    from ._call import Rpc

type Method = Callable[..., Awaitable[object] | AsyncGenerator[object]]


def make_client(
    rpc: Rpc,
    module: str,
    specs: Mapping[str, EndpointSpec],
    timeout: float | None,
    instance: str,
    retry: CallRetry | None,
) -> object:
    """An object whose methods, named as the module's, call its endpoints."""
    methods = {name: _method(rpc, name, spec, timeout, instance, retry) for name, spec in specs.items()}
    return _Client(module, methods)


class _Client:
    """Has the endpoints and nothing else."""

    def __init__(self, module: str, methods: Mapping[str, Method]) -> None:
        self.__dict__.update(methods)
        self.__dict__["__module_name"] = module
        self.__dict__["__methods"] = tuple(methods)

    def __getattr__(self, name: str) -> object:
        module: str = self.__dict__["__module_name"]
        found = ", ".join(sorted(cast("tuple[str, ...]", self.__dict__["__methods"])))
        raise AttributeError(
            f"{name!r} is no endpoint of {module}: a client has its endpoints only: {found}",
            name=name,
            obj=self,
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a client has endpoints only: {name!r} can't be set", name=name, obj=self)

    def __repr__(self) -> str:
        return f"<client of {self.__dict__['__module_name']}>"


def _method(
    rpc: Rpc,
    name: str,
    spec: EndpointSpec,
    timeout: float | None,
    instance: str,
    retry: CallRetry | None,
) -> Method:
    limit = timeout if timeout is not None else spec.timeout if spec.timeout is not None else REQUEST_SECONDS
    kind = cast("type[object]", spec.response)

    def argument(given: tuple[object, ...], named: dict[str, object]) -> object:
        values = [*given, *named.values()]
        takes = 0 if spec.request is None else 1
        if len(values) > takes:
            raise TypeError(f"{name}() takes {takes} argument(s), {len(values)} were given")
        return values[0] if values else None

    if spec.parts:

        def stream(*given: object, **named: object) -> AsyncGenerator[object]:
            return rpc.stream(
                spec.service,
                spec.endpoint,
                argument(given, named),
                type=kind,
                timeout=limit,
                instance=instance,
                retry=retry,
            )

        return stream

    async def call(*given: object, **named: object) -> object:
        return await rpc.call(
            spec.service,
            spec.endpoint,
            argument(given, named),
            type=kind,
            timeout=limit,
            instance=instance,
            retry=retry,
            idempotent=spec.idempotent,
        )

    return call
