"""What a module gets from its host."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, overload

import msgspec

from ..bus import Bus
from ..clock import Clock
from ..errors import InvalidInput, Unavailable
from ..messages import Names
from ..rpc import Rpc
from ..stores import KeyValue, Locks, kv_asset
from ..telemetry import Metrics
from ..transport import Transport
from ..types import JSON

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from ._module import Module
    from ._ports import Workflows


class Runtime:
    """The services of one module. It is complete in `init`; its parts may be kept until `shutdown` has returned."""

    def __init__(
        self,
        module_id: str,
        *,
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
        bus: Bus,
        rpc: Rpc,
        locks: Locks,
        config: msgspec.Struct | None,
        workflows: Workflows | None,
        find_module: Callable[[str], Module],
        background: Callable[[str, Callable[[], Awaitable[object]], int], None],
        replicas: int = 1,
        version: str = "",
    ) -> None:
        self.id = module_id
        self.transport = transport
        self.names = names
        self.clock = clock
        self.metrics = metrics
        self.bus = bus
        self.rpc = rpc
        self.locks = locks
        self.config = config
        self.logger = logging.getLogger(f"jetloom.modules.{module_id}")
        self._workflows = workflows
        self._find_module = find_module
        self._background = background
        self._version = version
        self._replicas = replicas
        self._buckets: dict[tuple[str, object], object] = {}

    @property
    def workflows(self) -> Workflows:
        """Starts, steers and reads runs. Raises `Unavailable` in a process without a client for them."""
        if self._workflows is None:
            raise Unavailable("this process has no client for workflows")
        return self._workflows

    def config_as[C: msgspec.Struct](self, kind: type[C]) -> C:
        """The module's configuration as its own type. Raises `InvalidInput` when it is another one."""
        if not isinstance(self.config, kind):
            raise InvalidInput(f"module {self.id!r} declares no config of type {kind.__name__}")
        return self.config

    @overload
    def kv(self, bucket: str) -> KeyValue[JSON]: ...
    @overload
    def kv[T](self, bucket: str, value_type: type[T]) -> KeyValue[T]: ...

    def kv(self, bucket: str, value_type: object = JSON) -> object:
        """A bucket of values of one type, shared by all modules of the namespace; made at its first use."""
        key = (bucket, value_type)
        found = self._buckets.get(key)
        if found is None:
            asset = kv_asset(self.names, bucket, replicas=self._replicas)
            name = self.names.kv_bucket(bucket)
            found = KeyValue[object](self.transport, name, value_type, asset=asset, clock=self.clock)
            self._buckets[key] = found
        return found

    @property
    def tracer(self) -> Tracer:
        """OpenTelemetry's tracer of this module; its spans go where the process' SDK sends them, or nowhere."""
        from opentelemetry import trace  # 40 ms, so only for modules that make spans

        return trace.get_tracer(f"jetloom.modules.{self.id}", self._version or None)

    def background(
        self, name: str, function: Callable[[], Awaitable[object]], *, restarts_max: int = 10
    ) -> None:
        """Runs `function` beside the handlers, from the end of `init` until `shutdown`: as `@background` does.

        Raises `InvalidInput` while a task of that name runs, and for more than 100.
        """
        self._background(name, function, restarts_max)

    @overload
    def module(self, module_id: str) -> Module: ...
    @overload
    def module[M: Module](self, module_id: str, kind: type[M]) -> M: ...

    def module(self, module_id: str, kind: type[Module] | None = None) -> Module:
        """Another module of this process. Raises `ModuleNotLocal` for one that runs elsewhere: use `rpc`."""
        found = self._find_module(module_id)
        if kind is not None and not isinstance(found, kind):
            raise InvalidInput(f"module {module_id!r} is a {type(found).__name__}, not a {kind.__name__}")
        return found
