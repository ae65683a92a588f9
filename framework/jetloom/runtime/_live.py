"""The live configuration: read at the start, watched for changes that the next start will see."""

from __future__ import annotations

from collections.abc import Collection

from ..config import LiveConfig
from ..errors import DecodeFailed
from ..messages import H_KV_OPERATION, Names, bucket_key, decode_plain
from ..stores import namespace_assets
from ..telemetry import get_logger
from ..transport import Stored, StreamAsset, Subscription, Transport

MODULES_MAX = 1_000
"""Keys that are read: above the modules of any namespace."""

_logger = get_logger("runtime")


def config_asset(names: Names, *, replicas: int = 1) -> StreamAsset:
    """The bucket's stream."""
    [asset] = [
        each
        for each in namespace_assets(names, replicas=replicas)
        if isinstance(each, StreamAsset) and each.name == names.config_stream
    ]
    return asset


async def read_live_config(transport: Transport, names: Names) -> LiveConfig:
    """What the bucket holds now; nothing when there is none. A value that is no JSON comes as its text."""
    live = LiveConfig(names.config_bucket)
    if await transport.stream_state(names.config_stream) is None:
        return live
    prefix = bucket_key(names.config_bucket, "")
    for stored in await transport.read(names.config_stream, f"{prefix}*", limit=MODULES_MAX):
        if H_KV_OPERATION in stored.headers or not stored.data:
            continue
        module = stored.subject.removeprefix(prefix)
        try:
            live.values[module] = decode_plain(stored.data, f"key {module}")
        except DecodeFailed:
            live.values[module] = stored.data.decode(errors="replace")
        live.revisions[module] = stored.sequence
    return live


async def watch_live_config(
    transport: Transport, names: Names, live: LiveConfig, modules: Collection[str]
) -> Subscription:
    """Says in the log when a module's configuration changes: this process keeps what it started with."""
    prefix = bucket_key(names.config_bucket, "")

    def changed(stored: Stored) -> None:
        module = stored.subject.removeprefix(prefix)
        if module in modules:
            _logger.warning(
                "live configuration changed: it takes effect at the next start",
                extra={"of_module": module, "revision": stored.sequence},
            )

    after = max(live.revisions.values(), default=0)
    return await transport.follow(names.config_stream, f"{prefix}*", changed, after=after)
