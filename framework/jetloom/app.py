"""The composition root: the only place that knows all units.

An `App` is one process. It starts, in this order: its own server (`embedded`), the connection, the namespace's
assets, the health server, the definitions of its workflow files, its modules, and then either an engine, which runs
the steps of these modules itself, or a worker for them. It stops in the opposite order, within one deadline: what
comes last takes what time is left. A start that fails or is cancelled has stopped what it began.

Nothing is started before every target is known to be good: a file with a mistake registers nothing.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .clock import SYSTEM_CLOCK, Clock
from .errors import DefinitionInvalid, StartFailed
from .lifecycle import Supervisor
from .messages import Names
from .telemetry import Metrics, get_logger

if TYPE_CHECKING:
    from .config import Settings
    from .engine import Client, Engine, Worker
    from .runtime import Health, Host, Module, StepHandler
    from .transport import EmbeddedServer, Transport
    from .workflows import Finding

_logger = get_logger("app")

STORE = Path(".jetloom")
"""Where an embedded server keeps its streams, in the working folder."""

WORKFLOW_SUFFIXES = (".yaml", ".yml")

SERVER_LOOK_SECONDS = 0.5
"""Between two looks at the own server: a look is one system call."""

STOP_SECONDS_MIN = 0.5
"""What every part gets at the stop, even when those before it used up the deadline: time to close a socket."""


_PYTHON_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Targets(msgspec.Struct, frozen=True):
    """What a process was asked to run."""

    modules: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


class Summary(msgspec.Struct, frozen=True):
    """What a started process says of itself. `seconds`: how long the start took."""

    nats_url: str
    own_server: bool
    server_version: str
    namespace: str
    engine: bool
    workflows: tuple[str, ...]
    modules: tuple[str, ...]
    http_url: str
    seconds: float


def read_targets(targets: Sequence[str]) -> Targets:
    """Sorts targets into modules and workflow files. Raises `StartFailed` with everything that is neither."""
    found, problems = sort_targets(targets)
    if problems:
        raise StartFailed(problems)
    return found


def sort_targets(targets: Sequence[str]) -> tuple[Targets, list[str]]:
    """The modules (`package.module:Class`, `package.module`, `@installed`) and the workflow files among targets, and
    what is wrong with the rest."""
    modules: list[str] = []
    files: list[Path] = []
    problems: list[str] = []
    for target in targets:
        path = Path(target)
        if path.is_dir():
            inside = sorted(
                each for each in path.rglob("*") if each.suffix in WORKFLOW_SUFFIXES and each.is_file()
            )
            if not inside:
                problems.append(f"{target}: the folder holds no workflow files (*.yaml, *.yml)")
            files += inside
        elif path.is_file():
            files.append(path)
        elif _names_modules(target):
            modules.append(target)
        else:
            problems.append(
                f"{target}: no file or folder, and not of the form package.module:Class{_suggest(path)}"
            )
    return Targets(tuple(dict.fromkeys(modules)), tuple(dict.fromkeys(files))), problems


def _names_modules(target: str) -> bool:
    if target.startswith("@") or ":" in target:
        return not any(sign in target for sign in "/\\ ")
    return _PYTHON_NAME.fullmatch(target) is not None and Path(target).suffix not in WORKFLOW_SUFFIXES


def _suggest(path: Path) -> str:
    folder = path.parent
    names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {folder / close[0]}?" if close else ""


def read_file(path: Path) -> tuple[str, Finding | None]:
    """Its text, or why there is none, as a finding: one bad file must not hide what is wrong with the others."""
    from .workflows import Finding

    try:
        return path.read_text(encoding="utf-8"), None
    except UnicodeDecodeError as error:
        return "", Finding(str(path), 1, 1, "", f"not UTF-8 at byte {error.start}", "save it as UTF-8")
    except OSError as error:
        return "", Finding(str(path), 1, 1, "", f"can't be read: {error.strerror}", "check its permissions")


def read_definitions(files: Sequence[Path]) -> list[tuple[Path, str]]:
    """The texts of workflow files, all checked. Raises `DefinitionInvalid` with the findings of all of them."""
    from .workflows import check_text

    texts: list[tuple[Path, str]] = []
    findings: list[str] = []
    for path in files:
        text, unreadable = read_file(path)
        found = [unreadable] if unreadable else check_text(text, source=str(path))[1]
        findings += [str(finding) for finding in found]
        texts.append((path, text))
    if findings:
        raise DefinitionInvalid(", ".join(str(path) for path in files), findings)
    return texts


class App:
    """One process of jetloom. `start()` returns when it serves; both methods may be called twice."""

    def __init__(
        self,
        settings: Settings,
        targets: Sequence[str] = (),
        *,
        engine: bool = False,
        embedded: bool = False,
        store: Path | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._settings = settings
        self._targets = targets
        self._with_engine = engine
        self._embedded = embedded
        self._store = store
        self._clock = clock
        self._names = Names(settings.namespace, settings.shards)
        self._metrics = Metrics()
        self._metrics.gauge("jetloom_build_info", version=version("jetloom")).set(1)
        self._parts: list[tuple[str, Callable[[float], Awaitable[None]]]] = []
        self._kill: Callable[[], None] | None = None
        self._summary: Summary | None = None

    async def start(self) -> None:
        """Returns when everything serves. Raises what stands in the way: `StartFailed`, `DefinitionInvalid`,
        `VersionConflict`, `NatsUnavailable`, `ServerTooOld`, `AssetDrifted`."""
        if self._parts:
            return
        began = self._clock.monotonic()
        try:
            await self._start(began)
        except BaseException:
            await asyncio.shield(self.stop(STOP_SECONDS_MIN))
            raise

    async def _start(self, began: float) -> None:
        texts, modules = self._read()
        transport, url, own = await self._connect()
        await self._ensure_assets(transport)
        client = self._make_client(transport)
        host = await self._make_host(modules, transport, client)
        http_port = await self._serve_health(host)
        workflows = [name for path, text in texts for name in await client.register(text, source=str(path))]
        await self._start_work(transport, host)
        self._summary = Summary(
            nats_url=url,
            own_server=own,
            server_version=transport.server.version,
            namespace=self._settings.namespace,
            engine=self._with_engine,
            workflows=tuple(sorted(workflows)),
            modules=tuple(module.id for module in host.modules),
            http_url=f"http://127.0.0.1:{http_port}",
            seconds=self._clock.monotonic() - began,
        )
        _logger.info(
            "started",
            extra={
                "engine": self._with_engine,
                "modules": list(self._summary.modules),
                "workflows": list(self._summary.workflows),
                "server": f"{url} {transport.server.version}",
                "profile": self._settings.profile,
            },
        )

    def _read(self) -> tuple[list[tuple[Path, str]], list[type[Module]]]:
        """Everything that was asked for, read and checked as far as that needs no server: all problems at once."""
        from .runtime import make_plan, try_modules

        targets, problems = sort_targets(self._targets)
        modules, missing = try_modules(targets.modules)
        problems += missing
        if problems:
            plan = make_plan(modules, self._settings, self._names, os.environ, complete=False)
            problems += plan.problems
        texts: list[tuple[Path, str]] = []
        try:
            texts = read_definitions(targets.files)
        except DefinitionInvalid as error:
            if not problems:
                raise
            problems.append(error.message)
        if problems:
            raise StartFailed(problems)
        return texts, modules

    async def stop(self, deadline: float = 10.0) -> None:
        """Drains: takes nothing new, lets work under way end within `deadline` seconds, hands the rest back."""
        self._summary = None
        ends = self._clock.monotonic() + deadline
        while self._parts:
            name, stop = self._parts.pop()
            left = max(ends - self._clock.monotonic(), STOP_SECONDS_MIN)
            try:
                await stop(left)
            except Exception as error:  # the supervisor of the stop: what is below must still be stopped
                _logger.error("a part did not stop", extra={"part": name}, exc_info=error)

    def kill(self) -> None:
        """Ends what would outlive this process. Safe to call from a signal handler."""
        if self._kill is not None:
            self._kill()

    def summary(self) -> Summary:
        """Raises `StartFailed` unless the app is started."""
        if self._summary is None:
            raise StartFailed(["the app is not started"])
        return self._summary

    def health(self, host: Host) -> Health:
        """The host's health; not ready before the engine or worker serves, and while it drains."""
        found = host.health()
        if self._summary is not None:
            return found
        return msgspec.structs.replace(found, ready=False, problems=[*found.problems, "starting or stopping"])

    # -- parts, in their start order
    async def _connect(self) -> tuple[Transport, str, bool]:
        from .transport import connect

        settings, url, own = self._settings, self._settings.nats_url, False
        if not url and not settings.nats_context and self._embedded:
            url, own = await self._start_server(), True
        transport = await connect(
            url or None,
            name=self._connection_name(),
            creds=settings.nats_creds or None,
            nkey=settings.nats_nkey or None,
            context=settings.nats_context or None,
            clock=self._clock,
            hot_path=settings.hot_path == "on",
        )
        self._add("connection", lambda _: transport.close())
        # The server's own word has no password in it.
        return transport, f"nats://{transport.server.url}", own

    async def _start_server(self) -> str:
        from .transport import EmbeddedServer

        server = EmbeddedServer(self._store or STORE)
        self._kill = server.kill
        self._add("server", lambda _: server.stop())
        await server.start()
        self._keep_server(server)
        return server.url

    def _keep_server(self, server: EmbeddedServer) -> None:
        """Whoever kills the server of `jetloom dev` sees what happens in production: it comes back, work resumes."""
        keeper = Supervisor(self._metrics)

        async def look() -> None:
            while server.running:
                await asyncio.sleep(SERVER_LOOK_SECONDS)
            _logger.warning("the own server ended; it is started again", extra={"server": server.url})
            await server.restart()

        keeper.run("own-server", look)
        self._add("server's keeper", lambda _: keeper.stop())

    async def _ensure_assets(self, transport: Transport) -> None:
        from .stores import namespace_assets

        for asset in namespace_assets(self._names, replicas=self._settings.replicas):
            await transport.ensure(asset)

    def _make_client(self, transport: Transport) -> Client:
        from .engine import Client

        client = Client(transport, self._names, clock=self._clock)
        self._add("client", lambda _: client.stop())
        return client

    async def _make_host(self, modules: Sequence[type[Module]], transport: Transport, client: Client) -> Host:
        from .runtime import Host, read_live_config

        host = Host(
            modules,
            transport,
            self._settings,
            clock=self._clock,
            metrics=self._metrics,
            workflows=client,
            live=await read_live_config(transport, self._names),
        )
        if host.problems:
            raise StartFailed(host.problems)
        return host

    async def _serve_health(self, host: Host) -> int:
        from .http import HealthServer

        # Nobody but this machine looks at a process that is tried out.
        address = self._settings.http_host or ("127.0.0.1" if self._embedded else "0.0.0.0")
        server = HealthServer(
            self._metrics, lambda: self.health(host), port=self._settings.http_port, host=address
        )
        await server.start()
        self._add("health", lambda _: server.stop())
        return server.port

    async def _start_work(self, transport: Transport, host: Host) -> None:
        """Modules first, then what runs their steps; both drain side by side, and modules shut down after it."""
        self._add("modules", lambda _: host.stop())
        await host.start()
        work = self._make_work(transport, host.steps)

        async def drain(seconds: float) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(host.drain(seconds))
                if work is not None:
                    group.create_task(work.stop(seconds))

        self._add("work", drain)
        if work is not None:
            await work.start()

    def _make_work(self, transport: Transport, steps: Mapping[str, StepHandler]) -> Engine | Worker | None:
        from .engine import Engine, Worker

        if self._with_engine:
            return Engine(transport, self._names, clock=self._clock, handlers=steps, metrics=self._metrics)
        if steps:
            return Worker(transport, self._names, clock=self._clock, handlers=steps, metrics=self._metrics)
        return None

    def _connection_name(self) -> str:
        return "jetloom-engine" if self._with_engine else "jetloom-modules"

    def _add(self, name: str, stop: Callable[[float], Awaitable[None]]) -> None:
        self._parts.append((name, stop))
