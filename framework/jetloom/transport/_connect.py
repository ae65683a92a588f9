"""Getting connected: where to, as whom, and to a server that is new enough."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, cast

import msgspec
from nats.aio.client import Client

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ConfigInvalid, NatsUnavailable, ServerTooOld
from ._beater import ThreadBeater
from ._fastpath import FastLink
from ._link import GuardedClient, Link
from ._nats import NatsTransport
from ._plain import PlainLink
from ._port import Beater, ServerInfo
from ._wire import denied_subject

logger = logging.getLogger("jetloom.transport")

VERSION_NEEDED = (2, 14)
WHY_NEEDED = (
    "schedules, per-message TTL and reliable sourcing came with it, and an older server ignores them silently"
)
CONNECT_SECONDS = 3.0
"""How long a start waits for a first connection. Later ones are tried for ever."""
RECONNECT_SECONDS = 0.25
PING_SECONDS = 10
URL_DEFAULT = "nats://127.0.0.1:4222"
HOT_PATH_VARIABLE = "JETLOOM_HOT_PATH"


async def connect(
    url: str | None = None,
    *,
    name: str = "jetloom",
    creds: str | None = None,
    nkey: str | None = None,
    context: str | None = None,
    clock: Clock = SYSTEM_CLOCK,
    timeout: float = CONNECT_SECONDS,
    hot_path: bool | None = None,
) -> NatsTransport:
    """A connection. What is not given comes from NATS_URL, NATS_CREDS, NATS_NKEY and NATS_CONTEXT.

    `hot_path`: False sends and receives through nats-py's public interface instead of jetloom's own reading and
    writing on its connection; None: as JETLOOM_HOT_PATH says (`on`, `off`), which is on.

    Raises `NatsUnavailable` within `timeout` seconds, `ServerTooOld`, `ConfigInvalid`.
    """
    where = _resolve(url, creds, nkey, context)
    hot = _hot_path() if hot_path is None else hot_path
    holder: list[NatsTransport] = []
    link = await _open(where, name, timeout, holder, hot)
    info = _server_info(link, where.url)
    try:
        check_version(info.version)
    except ServerTooOld:
        link.closing = True
        await link.close()
        raise

    async def open_beater() -> Beater:
        beater = ThreadBeater(lambda: _open(where, f"{name}-beats", timeout, [], hot))
        await beater.start()
        return beater

    transport = NatsTransport(link, info, clock, open_beater)
    holder.append(transport)
    return transport


def _hot_path() -> bool:
    said = os.environ.get(HOT_PATH_VARIABLE, "on").strip().lower()
    if said not in ("on", "off"):
        raise ConfigInvalid([f"{HOT_PATH_VARIABLE}: {said!r} is neither `on` nor `off`"])
    return said == "on"


def check_version(found: str) -> None:
    """Raises `ServerTooOld`."""
    numbers = tuple(int(part) for part in found.partition("-")[0].split(".")[:2] if part.isdigit())
    if numbers < VERSION_NEEDED:
        raise ServerTooOld(found, ".".join(str(part) for part in VERSION_NEEDED), WHY_NEEDED)


class Where(msgspec.Struct, frozen=True):
    """Where to connect, and as whom."""

    url: str
    creds: str = ""
    nkey: str = ""
    user: str = ""
    password: str = ""
    token: str = ""


def _resolve(url: str | None, creds: str | None, nkey: str | None, context: str | None) -> Where:
    context = context or os.environ.get("NATS_CONTEXT")
    base = _context(context) if context else Where(URL_DEFAULT)
    return msgspec.structs.replace(
        base,
        url=url or os.environ.get("NATS_URL") or base.url,
        creds=creds or os.environ.get("NATS_CREDS") or base.creds,
        nkey=nkey or os.environ.get("NATS_NKEY") or base.nkey,
    )


def _context(name: str) -> Where:
    """A context of the nats command line tool."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = home / "nats" / "context" / f"{name}.json"
    try:
        known = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigInvalid([f"NATS context {name!r}: {path} can't be read ({error})"]) from error
    return Where(
        str(known.get("url") or URL_DEFAULT),
        creds=str(known.get("creds") or ""),
        nkey=str(known.get("nkey") or ""),
        user=str(known.get("user") or ""),
        password=str(known.get("password") or ""),
        token=str(known.get("token") or ""),
    )


async def _open(
    where: Where, name: str, timeout: float, holder: list[NatsTransport], hot: bool
) -> FastLink | PlainLink:
    last = ["no answer"]
    client: Client
    if hot:
        link = client = FastLink()
    else:
        client = GuardedClient()
        link = PlainLink(client)

    async def on_error(error: Exception) -> None:
        last[0] = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        logger.debug("connection", extra={"error": last[0]})
        if not hot and (subject := denied_subject(str(error))):
            # The hot path hears of it earlier, and with the subject as it was written.
            link.answers.deny(subject, str(error))

    async def on_disconnect() -> None:
        if not link.closing:
            logger.info("disconnected from NATS", extra={"url": _shown(where.url)})
            link.lose()

    async def on_reconnect() -> None:
        logger.info("reconnected to NATS", extra={"url": _shown(where.url)})
        for transport in holder:
            transport.restored(_server_info(link, where.url))

    async def on_leaving() -> None:
        logger.info("the server is about to stop and asks to leave", extra={"url": _shown(where.url)})

    options: dict[str, Any] = {}
    if where.creds:
        options["user_credentials"] = where.creds
    if where.nkey:
        options["nkeys_seed"] = where.nkey
    if where.user:
        options |= {"user": where.user, "password": where.password}
    if where.token:
        options["token"] = where.token
    try:
        async with asyncio.timeout(timeout):
            await client.connect(
                servers=[part.strip() for part in where.url.split(",")],
                name=name,
                error_cb=on_error,
                disconnected_cb=on_disconnect,
                reconnected_cb=on_reconnect,
                lame_duck_mode_cb=on_leaving,
                max_reconnect_attempts=-1,
                reconnect_time_wait=cast("int", RECONNECT_SECONDS),
                connect_timeout=cast("int", min(2.0, timeout)),
                ping_interval=PING_SECONDS,
                max_outstanding_pings=2,
                allow_reconnect=True,
                **options,
            )
    except (TimeoutError, OSError) as error:
        reason = last[0] if isinstance(error, TimeoutError) else str(error)
        link.closing = True
        await link.close()
        raise NatsUnavailable([f"{_shown(where.url)} ({reason})"]) from error
    return link


def _shown(url: str) -> str:
    """A URL without what may be secret in it."""
    return ",".join(part.strip().rpartition("@")[2].removeprefix("nats://") for part in url.split(","))


def _server_info(link: Link, url: str) -> ServerInfo:
    known = link.server_info()
    return ServerInfo(
        name=str(known.get("server_name", "")),
        version=str(known.get("version", "0.0.0")),
        max_payload=int(known.get("max_payload", 1024 * 1024)),
        api_level=int(known.get("api_lvl", 0)),
        url=_shown(url),
    )
