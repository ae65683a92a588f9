"""What `jetloom doctor` looks at. Each check reads and changes nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import msgspec

from ..errors import AssetDrifted, JetloomError, NoResponders

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..clock import Clock
    from ..messages import Names
    from ..transport import Asset, Transport

SOURCES_LAG_MAX = 100
"""Events not yet copied from the markers before doctor warns: a busy stream has a handful under way."""

STARTS_WAITING_MAX = 1_000
"""Starts that wait for an engine before doctor warns: full engines leave them in the mailbox."""

ENGINE_SECONDS = 2.0
"""How long doctor waits for an engine's answer; an engine that is alive answers within milliseconds."""

type CheckStatus = Literal["ok", "warn", "fail", "info"]


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """One finding. `fail` makes doctor exit 1; `warn` does not."""

    name: str
    status: CheckStatus
    text: str
    hint: str = ""


async def check_connection(transport: Transport, clock: Clock) -> list[Check]:
    begun = clock.monotonic()
    await transport.flush()
    milliseconds = (clock.monotonic() - begun) * 1000
    server = transport.server
    return [
        Check("connection", "ok", f"{server.url}, round trip {milliseconds:.1f} ms"),
        Check(
            "server",
            "ok",
            f"nats-server {server.version} ({server.name}), JetStream API level {server.api_level}, "
            f"max_payload {server.max_payload} bytes",
        ),
    ]


async def check_assets(transport: Transport, assets: Sequence[Asset]) -> list[Check]:
    """Missing assets and drifted ones, by name and field. Looks before it verifies, so that nothing is created."""
    missing: list[str] = []
    drifted: list[Check] = []
    present = 0
    for asset in assets:
        if not await _exists(transport, asset):
            missing.append(_name(asset))
            continue
        present += 1
        try:
            await transport.ensure(asset)
        except AssetDrifted as error:
            drifted.append(
                Check(
                    "assets", "fail", error.message, "an asset that differs may lose or repeat work silently"
                )
            )
    checks = drifted
    if missing and not present:
        text = f"none of the namespace's {len(missing)} streams and consumers exists"
        checks.append(Check("assets", "fail", text, "`jetloom dev` or `jetloom run` creates them at start"))
    elif missing:
        checks.append(
            Check(
                "assets",
                "warn",
                f"missing: {', '.join(missing)}",
                "the next engine or module creates them at start",
            )
        )
    if present and not drifted:
        checks.append(Check("assets", "ok", f"{present} streams and consumers are as declared"))
    return checks


async def check_engines(transport: Transport, names: Names) -> list[Check]:
    """Whether an engine answers, and how many starts wait."""
    from ..messages import SettledAnswer, SettledQuery, encode

    query = SettledQuery(run="doctor", inc=0, step="none", attempt=1)
    checks: list[Check] = []
    try:
        reply = await transport.request(names.settled(), encode(query), timeout=ENGINE_SECONDS)
        msgspec.json.decode(reply.data, type=SettledAnswer)
        checks.append(Check("engines", "ok", "an engine answers"))
    except NoResponders:
        checks.append(
            Check(
                "engines",
                "fail",
                "no engine runs in this namespace: runs do not move on",
                "start one: jetloom run FOLDER --engine",
            )
        )
    except (JetloomError, msgspec.DecodeError) as error:
        checks.append(
            Check(
                "engines", "fail", f"engines do not answer: {error}", "look at the engine's log and /readyz"
            )
        )
    for shard in range(names.shards):
        state = await transport.consumer_state(names.mailbox_stream(shard), "starts")
        if state is not None and state.pending > STARTS_WAITING_MAX:
            checks.append(
                Check(
                    "mailbox",
                    "warn",
                    f"shard {shard}: {state.pending} starts wait for an engine with free capacity",
                    "start another engine: jetloom run FOLDER --engine",
                )
            )
    return checks


async def unserved_handlers(transport: Transport, names: Names, handlers: Iterable[str]) -> dict[str, int]:
    """Those handlers whose tasks wait while nobody pulls them, with the number of tasks."""
    found: dict[str, int] = {}
    for handler in sorted(handlers):
        state = await transport.consumer_state(names.tasks_stream, names.task_consumer(handler))
        # A busy worker has no pull open, but tasks that it has not acknowledged.
        if state is not None and state.pending and not state.waiting and not state.unacknowledged:
            found[handler] = state.pending
    return found


async def check_handlers(transport: Transport, names: Names) -> list[Check]:
    """Handlers of registered workflows whose tasks wait for a worker."""
    from ._workflows import read_workflows

    rows = await read_workflows(transport, names)
    used: dict[str, set[str]] = {}
    for row in rows:
        for handler in row.handlers():
            used.setdefault(handler, set()).add(row.name)
    unserved = await unserved_handlers(transport, names, used)
    checks = [
        Check(
            "handlers",
            "warn",
            f"{count} task(s) wait for handler {handler} (of {', '.join(sorted(used[handler]))}), and nobody serves it",
            "start the module that has it: jetloom run PACKAGE.MODULE:CLASS",
        )
        for handler, count in unserved.items()
    ]
    if not checks:
        workflows = len({row.name for row in rows})
        checks.append(
            Check(
                "handlers", "ok", f"{workflows} workflow(s), {len(used)} handler(s), no task waits unserved"
            )
        )
    return checks


async def check_streams(transport: Transport, names: Names) -> list[Check]:
    """How far the events stream is behind the markers, and how many dead letters there are."""
    checks: list[Check] = []
    events = await transport.stream_state(names.events_stream)
    if events is not None:
        behind = events.sources_lag > SOURCES_LAG_MAX
        checks.append(
            Check(
                "events",
                "warn" if behind else "ok",
                f"{events.messages} stored, {events.sources_lag} emitted ones not copied yet",
                "after a server's restart this may take 10 s; when it stays, look at the server's log"
                if behind
                else "",
            )
        )
    letters = await transport.stream_state(names.dlq_stream)
    if letters is not None:
        some = letters.messages > 0
        checks.append(
            Check(
                "dead letters",
                "warn" if some else "ok",
                f"{letters.messages}",
                "`jetloom dlq list` says why" if some else "",
            )
        )
    return checks


async def run_checks(
    transport: Transport, names: Names, assets: Sequence[Asset], clock: Clock
) -> list[Check]:
    """All checks of a connection, in the order in which they are read."""
    checks = await check_connection(transport, clock)
    async with asyncio.timeout(60):
        checks += await check_assets(transport, assets)
        checks += await check_engines(transport, names)
        checks += await check_handlers(transport, names)
        checks += await check_streams(transport, names)
    return checks


def _name(asset: Asset) -> str:
    from ..transport import StreamAsset

    return asset.name if isinstance(asset, StreamAsset) else f"{asset.stream}/{asset.name}"


async def _exists(transport: Transport, asset: Asset) -> bool:
    from ..transport import StreamAsset

    if isinstance(asset, StreamAsset):
        return await transport.stream_state(asset.name) is not None
    return await transport.consumer_state(asset.stream, asset.name) is not None
