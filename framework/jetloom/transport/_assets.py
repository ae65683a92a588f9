"""Creating assets and verifying them: what the server has is read back and compared, field by field.

An old server does not refuse the features that it lacks, it ignores them, so that a create which succeeded
proves nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from ..errors import AssetDrifted, Refused
from ._port import Asset, ConsumerAsset, StreamAsset

logger = logging.getLogger("jetloom.transport")

type Api = Callable[..., Awaitable[bytes]]

NANOSECONDS = 1_000_000_000
STREAM_IN_USE = 10058
CONSUMER_EXISTS = frozenset({10105, 10148, 10013})
CONSUMER_NOT_FOUND = 10014
STREAM_NOT_FOUND = 10059

GROWING = frozenset({"allow_msg_ttl", "allow_atomic"})
"""What a newer version may turn on for a stream that an older one made: the server allows it, and what is stored stays
as it is. It can't be turned off again."""

START_FIELDS = frozenset({"deliver_policy", "opt_start_seq", "opt_start_time"})
"""A consumer keeps these from when it was made: the server refuses to change them."""

CHANGEABLE = frozenset(
    {
        "ack_wait",
        "max_deliver",
        "max_ack_pending",
        "num_replicas",
        "description",
        "filter_subject",
        "filter_subjects",
        "backoff",
        "inactive_threshold",
    }
)
"""What a server changes on a consumer that exists."""

KEPT = START_FIELDS | {"max_waiting", "metadata"}
"""What an update repeats as it was found; the rest is what is declared."""


async def ensure_asset(api: Api, asset: Asset) -> None:
    """Creates the asset or verifies it. Raises `AssetDrifted`, `Refused`."""
    if isinstance(asset, StreamAsset):
        await _ensure_stream(api, asset)
    else:
        await _ensure_consumer(api, asset)


async def _ensure_stream(api: Api, asset: StreamAsset) -> None:
    declared = stream_config(asset)
    answer = await _ask(api, f"STREAM.INFO.{asset.name}", None)
    if _code(answer) == STREAM_NOT_FOUND:
        created = await _ask(api, f"STREAM.CREATE.{asset.name}", declared)
        if _code(created) not in (0, STREAM_IN_USE):
            raise _refused(f"stream {asset.name}", created)
        answer = await _ask(api, f"STREAM.INFO.{asset.name}", None)
    if _code(answer):
        raise _refused(f"stream {asset.name}", answer)
    found: dict[str, Any] = answer["config"]
    missing = {name for name in GROWING if declared.get(name) and not found.get(name)}
    if missing:
        grown = {**found, **dict.fromkeys(missing, True)}
        updated = await _ask(api, f"STREAM.UPDATE.{asset.name}", grown)
        if _code(updated):
            raise _refused(f"stream {asset.name}", updated)
        logger.info("stream updated", extra={"stream": asset.name, "fields": sorted(missing)})
        found = (await _ask(api, f"STREAM.INFO.{asset.name}", None))["config"]
    _compare(f"stream {asset.name}", declared, found)


async def _ensure_consumer(api: Api, asset: ConsumerAsset) -> None:
    declared = consumer_config(asset)
    what = f"consumer {asset.name} of {asset.stream}"
    answer = await _ask(api, f"CONSUMER.INFO.{asset.stream}.{asset.name}", None)
    if _code(answer) == CONSUMER_NOT_FOUND:
        body = {"stream_name": asset.stream, "config": declared, "action": "create"}
        created = await _ask(api, f"CONSUMER.CREATE.{asset.stream}.{asset.name}", body)
        if _code(created) and _code(created) not in CONSUMER_EXISTS:
            raise _refused(what, created)
        answer = await _ask(api, f"CONSUMER.INFO.{asset.stream}.{asset.name}", None)
    if _code(answer):
        raise _refused(what, answer)
    if asset.update:
        answer = await _update_consumer(api, asset, what, declared, answer)
        declared = {name: value for name, value in declared.items() if name not in START_FIELDS}
    _compare(what, declared, answer["config"])


async def _update_consumer(
    api: Api, asset: ConsumerAsset, what: str, declared: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    """What the server says after the update. Raises `AssetDrifted` for what it can't change, `Refused`."""
    found: dict[str, Any] = answer["config"]
    # A filter or a backoff that is declared no more is a difference as well.
    wanted = {**dict.fromkeys(CHANGEABLE & found.keys()), **declared}
    different = {name for name, value in wanted.items() if not _same(name, value, found.get(name))}
    if started := sorted(different & START_FIELDS):
        logger.warning(
            "a consumer keeps the start that it was made with",
            extra={
                "consumer": asset.name,
                "stream": asset.stream,
                "fields": {name: [found.get(name), declared.get(name)] for name in started},
                "hint": "subscribe under another name, or delete the consumer, to begin elsewhere",
            },
        )
    fixed = {name: declared.get(name) for name in different - START_FIELDS - CHANGEABLE}
    if found.get("deliver_subject"):
        fixed["deliver_subject"] = None
    if fixed:
        _compare(what, fixed, found)
    if not different & CHANGEABLE:
        return answer
    config = {name: found[name] for name in KEPT & found.keys()}
    config |= {name: value for name, value in declared.items() if name not in START_FIELDS}
    body = {"stream_name": asset.stream, "config": config, "action": "update"}
    updated = await _ask(api, f"CONSUMER.CREATE.{asset.stream}.{asset.name}", body)
    if _code(updated):
        raise _refused(what, updated)
    logger.info(
        "consumer updated",
        extra={"consumer": asset.name, "stream": asset.stream, "fields": sorted(different & CHANGEABLE)},
    )
    return await _ask(api, f"CONSUMER.INFO.{asset.stream}.{asset.name}", None)


async def list_streams(api: Api) -> list[str]:
    names: list[str] = []
    while True:
        answer = await _ask(api, "STREAM.NAMES", {"offset": len(names)})
        page: list[str] = answer.get("streams") or []
        names.extend(page)
        if not page or len(names) >= answer.get("total", 0):
            return names


async def remove_asset(api: Api, stream: str, consumer: str) -> bool:
    verb = f"CONSUMER.DELETE.{stream}.{consumer}" if consumer else f"STREAM.DELETE.{stream}"
    return bool((await _ask(api, verb, None)).get("success"))


def stream_config(asset: StreamAsset) -> dict[str, Any]:
    """The server's form of a declared stream."""
    config: dict[str, Any] = {
        "name": asset.name,
        "subjects": list(asset.subjects),
        "retention": asset.retention,
        "discard": asset.discard,
        "max_msgs_per_subject": asset.messages_per_subject_max,
        "max_bytes": asset.bytes_max,
        "max_age": round(asset.age_max * NANOSECONDS),
        "duplicate_window": round(_window(asset) * NANOSECONDS),
        "num_replicas": asset.replicas,
        "storage": asset.storage,
        # The server turns rollups on with schedules, by itself.
        "allow_rollup_hdrs": asset.rollup or asset.schedules,
        "allow_msg_ttl": asset.ttl,
        "allow_direct": asset.direct,
        "allow_msg_schedules": asset.schedules,
        "allow_atomic": asset.atomic,
        "deny_delete": asset.deny_delete,
        "description": asset.description,
    }
    if asset.sources:
        config["sources"] = [
            {
                "name": source.name,
                "subject_transforms": [
                    {"src": item.source, "dest": item.destination} for item in source.transforms
                ],
            }
            for source in asset.sources
        ]
    return config


def _window(asset: StreamAsset) -> float:
    # The server refuses a duplicate window above the age limit.
    return min(asset.duplicate_window, asset.age_max) if asset.age_max else asset.duplicate_window


def consumer_config(asset: ConsumerAsset) -> dict[str, Any]:
    """The server's form of a declared consumer."""
    config: dict[str, Any] = {
        "durable_name": asset.name,
        "name": asset.name,
        "ack_policy": "explicit",
        "ack_wait": round(asset.ack_wait * NANOSECONDS)
        if not asset.backoff
        else round(asset.backoff[0] * NANOSECONDS),
        "max_deliver": asset.deliveries_max,
        "max_ack_pending": asset.ack_pending_max,
        "replay_policy": "instant",
        "num_replicas": asset.replicas,
        "description": asset.description,
    }
    if len(asset.filters) == 1:
        config["filter_subject"] = asset.filters[0]
    elif asset.filters:
        config["filter_subjects"] = list(asset.filters)
    if asset.backoff:
        config["backoff"] = [round(pause * NANOSECONDS) for pause in asset.backoff]
    if asset.inactive_seconds:
        config["inactive_threshold"] = round(asset.inactive_seconds * NANOSECONDS)
        del config["durable_name"]
    match asset.start:
        case "all" | "new":
            config["deliver_policy"] = asset.start
        case int():
            config["deliver_policy"] = "by_start_sequence"
            config["opt_start_seq"] = asset.start
        case float():
            config["deliver_policy"] = "by_start_time"
            config["opt_start_time"] = (
                datetime.fromtimestamp(asset.start, UTC).isoformat().replace("+00:00", "Z")
            )
    return config


def _compare(what: str, declared: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    differences = [
        f"{field}: declared {value!r}, found {found.get(field)!r}"
        for field, value in declared.items()
        if not _same(field, value, found.get(field))
    ]
    if differences:
        raise AssetDrifted(what, differences)


def _same(field: str, declared: object, found: object) -> bool:
    if field in ("description", "opt_start_time"):
        return True
    if found is None:
        # The server leaves out what is off or empty.
        return not declared
    if field == "sources":
        ours, theirs = cast("list[dict[str, Any]]", declared), cast("list[dict[str, Any]]", found)
        return len(ours) == len(theirs) and all(
            all(there.get(key) == value for key, value in here.items())
            for here, there in zip(ours, theirs, strict=True)
        )
    if declared is None:
        return not found
    if field in ("subjects", "filter_subjects"):
        return sorted(cast("list[str]", declared)) == sorted(cast("list[str]", found))
    return declared == found


async def _ask(api: Api, verb: str, body: object) -> dict[str, Any]:
    return msgspec.json.decode(await api(verb, body), type=dict[str, Any])


def _code(answer: Mapping[str, Any]) -> int:
    error = answer.get("error")
    return int(error.get("err_code", error.get("code", 1))) if error else 0


def _refused(what: str, answer: Mapping[str, Any]) -> Refused:
    error: dict[str, Any] = answer.get("error") or {}
    return Refused(what, int(error.get("err_code", 0)), str(error.get("description", "")))
