"""The streams and buckets that every process may need, declared once."""

from __future__ import annotations

import re

from ..errors import NameInvalid
from ..messages import Names, bucket_stream
from ..transport import Asset, ConsumerAsset, SourceAsset, StreamAsset, Transform

DAY = 86_400.0
EVENTS_AGE = 7 * DAY
DLQ_AGE = 30 * DAY
ACK_WAIT = 2.0
"""Of the engines' consumers: after this long without an acknowledgement or beat a message is delivered again."""
TASK_ACK_WAIT = 10.0
DEDUPE = 30.0
"""How long a consumed task's id is remembered: late copies within it are refused."""

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,64}")


def kv_asset(names: Names, bucket: str, *, replicas: int = 1) -> StreamAsset:
    """A bucket of modules: the last value of each key. No rollup and no markers: a writer of one key can't empty the
    others."""
    if not _BUCKET.fullmatch(bucket):
        raise NameInvalid("bucket", bucket, "1-64 characters of A-Z a-z 0-9 _ -")
    name = names.kv_bucket(bucket)
    return StreamAsset(
        name=bucket_stream(name),
        subjects=(f"$KV.{name}.>",),
        discard="new",
        messages_per_subject_max=1,
        ttl=True,
        replicas=replicas,
        description=f"bucket {bucket}",
    )


def markers_asset(names: Names, *, replicas: int = 1) -> StreamAsset:
    """Emitted events, effects and notes of runs, each once under its name."""
    return StreamAsset(
        name=names.markers_stream,
        subjects=(f"$KV.{names.markers_bucket}.>",),
        discard="new",
        messages_per_subject_max=1,
        replicas=replicas,
        description="markers of runs",
    )


def events_asset(names: Names, *, replicas: int = 1) -> StreamAsset:
    """Domain events: published on their subjects, or copied from the markers of runs."""
    return StreamAsset(
        name=names.events_stream,
        subjects=(names.event(">"),),
        age_max=EVENTS_AGE,
        ttl=True,
        replicas=replicas,
        sources=(
            SourceAsset(
                name=names.markers_stream,
                transforms=(Transform(f"$KV.{names.markers_bucket}.emit.*.*.*.>", names.event(">")),),
            ),
        ),
        description="domain events",
    )


def dlq_asset(names: Names, *, replicas: int = 1) -> StreamAsset:
    """What could not be processed."""
    return StreamAsset(
        name=names.dlq_stream,
        subjects=(f"{names.namespace}.dlq.*.*",),
        age_max=DLQ_AGE,
        replicas=replicas,
        description="dead letters",
    )


def handled_asset(names: Names, *, replicas: int = 1) -> StreamAsset:
    """Which events were handled, for handlers that ask for it. Made by the first of them."""
    return StreamAsset(
        name=names.handled_stream,
        subjects=(f"$KV.{names.handled_bucket}.>",),
        discard="new",
        messages_per_subject_max=1,
        ttl=True,
        replicas=replicas,
        description="events that were handled",
    )


def locks_asset(names: Names, *, replicas: int = 1) -> StreamAsset:
    """Locks: one message for each, gone with its TTL. No rollup and so no markers: a holder can't free the others'."""
    return StreamAsset(
        name=names.locks_stream,
        subjects=(f"$KV.{names.locks_bucket}.>",),
        discard="new",
        messages_per_subject_max=1,
        ttl=True,
        replicas=replicas,
        description="locks",
    )


# -- modules' schedules
def schedule_assets(names: Names, *, replicas: int = 1) -> list[Asset]:
    """What modules with schedules need besides a consumer for each: the timers, the bucket of states, the dead letters.

    The engines' consumer of ticks is among them: one of an older jetloom matches those of modules, and a work queue
    lets no two consumers match the same.
    """
    return [
        _timers(names, 0, replicas),
        _ticks(names, replicas),
        schedules_asset(names, replicas=replicas),
        dlq_asset(names, replicas=replicas),
    ]


def schedules_asset(names: Names, *, replicas: int = 1) -> StreamAsset:
    """Where each schedule of a module is."""
    return _bucket(names.schedules_bucket, replicas, "schedules of modules")


def schedule_consumer(names: Names, module: str, name: str, *, replicas: int = 0) -> ConsumerAsset:
    """What the replicas of a module share for one schedule. One tick is in work at a time, over all of them."""
    return ConsumerAsset(
        stream=names.timers_stream(0),
        name=names.schedule_consumer(module, name),
        filters=(names.schedule_tick(module, name),),
        ack_wait=TASK_ACK_WAIT,
        ack_pending_max=1,
        replicas=replicas,
        description=f"schedule {module}.{name}",
    )


# -- runs
def namespace_assets(names: Names, *, replicas: int = 1) -> list[Asset]:
    """Everything that a namespace needs, streams before the consumers on them.

    Buckets of modules come with the modules.
    """
    assets: list[Asset] = [
        markers_asset(names, replicas=replicas),
        events_asset(names, replicas=replicas),
        dlq_asset(names, replicas=replicas),
        _tasks(names, replicas),
        locks_asset(names, replicas=replicas),
        _bucket(names.workflows_bucket, replicas, "workflow definitions"),
        _bucket(names.config_bucket, replicas, "live configuration"),
        _index(names, replicas),
        _blobs(names, replicas),
    ]
    for shard in range(names.shards):
        assets += [
            _runs(names, shard, replicas),
            _mailbox(names, shard, replicas),
            _timers(names, shard, replicas),
        ]
        assets += _engine_consumers(names, shard, replicas)
    return assets


def task_consumer(names: Names, handler: str, *, replicas: int = 0) -> ConsumerAsset:
    """What the workers of one handler share. Made by whoever registers a definition that names the handler."""
    return ConsumerAsset(
        stream=names.tasks_stream,
        name=names.task_consumer(handler),
        filters=(names.task_filter(handler),),
        ack_wait=TASK_ACK_WAIT,
        replicas=replicas,
        description=f"tasks of {handler}",
    )


def _runs(names: Names, shard: int, replicas: int) -> StreamAsset:
    # Only engines write here: rollup lets one writer empty the bucket. No delete markers: they would hide a
    # journal's end.
    return StreamAsset(
        name=names.runs_stream(shard),
        subjects=(f"$KV.{names.runs_bucket(shard)}.>",),
        discard="new",
        rollup=True,
        ttl=True,
        atomic=True,
        replicas=replicas,
        description="journals of runs",
    )


def _mailbox(names: Names, shard: int, replicas: int) -> StreamAsset:
    return StreamAsset(
        name=names.mailbox_stream(shard),
        # A subject per kind: an unknown kind is refused, instead of being stored for ever without a consumer.
        subjects=names.mailbox_filters(shard, "start", "result", "message", "cancel", "action", "poke"),
        retention="workqueue",
        discard="new",
        replicas=replicas,
        description="what runs still have to process",
    )


def _timers(names: Names, shard: int, replicas: int) -> StreamAsset:
    subjects = [names.timer_filter(shard), names.wake_filter(shard)]
    if shard == 0:
        subjects += [names.cron(">"), names.tick(">")]
    return StreamAsset(
        name=names.timers_stream(shard),
        subjects=tuple(subjects),
        retention="workqueue",
        schedules=True,
        replicas=replicas,
        description="timers and schedules",
    )


def _tasks(names: Names, replicas: int) -> StreamAsset:
    return StreamAsset(
        name=names.tasks_stream,
        subjects=(names.tasks_filter(),),
        retention="workqueue",
        discard="new",
        duplicate_window=DEDUPE,
        replicas=replicas,
        description="steps for handlers in other processes",
    )


def _index(names: Names, replicas: int) -> StreamAsset:
    return StreamAsset(
        name=names.index_stream,
        subjects=(f"$KV.{names.index_bucket}.>",),
        discard="new",
        messages_per_subject_max=1,
        ttl=True,
        atomic=True,
        replicas=replicas,
        description="where each run is",
    )


def _blobs(names: Names, replicas: int) -> StreamAsset:
    return StreamAsset(
        name=names.blobs_stream,
        subjects=(f"{names.namespace}.blob.>",),
        discard="new",
        replicas=replicas,
        description="large payloads of runs",
    )


def _bucket(bucket: str, replicas: int, description: str) -> StreamAsset:
    return StreamAsset(
        name=bucket_stream(bucket),
        subjects=(f"$KV.{bucket}.>",),
        discard="new",
        messages_per_subject_max=1,
        replicas=replicas,
        description=description,
    )


def _engine_consumers(names: Names, shard: int, replicas: int) -> list[Asset]:
    mailbox, timers = names.mailbox_stream(shard), names.timers_stream(shard)
    consumers = [
        (mailbox, "starts", names.mailbox_filters(shard, "start")),
        (mailbox, "inbox", names.mailbox_filters(shard, "result", "message")),
        (mailbox, "control", names.mailbox_filters(shard, "cancel", "action", "poke")),
        (timers, "wakes", (names.wake_filter(shard),)),
    ]
    ticks: list[Asset] = [_ticks(names, replicas)] if shard == 0 else []
    return ticks + [
        # Without a limit on what is pending: the default of 1,000 lets 1,000 long bodies stop the namespace.
        ConsumerAsset(
            stream=stream,
            name=name,
            filters=filters,
            ack_wait=ACK_WAIT,
            ack_pending_max=-1,
            replicas=replicas,
        )
        for stream, name, filters in consumers
    ]


def _ticks(names: Names, replicas: int) -> ConsumerAsset:
    return ConsumerAsset(
        stream=names.timers_stream(0),
        name="ticks",
        filters=(names.tick("*"),),
        ack_wait=ACK_WAIT,
        ack_pending_max=-1,
        replicas=replicas,
        # It used to match the ticks of modules too.
        update=True,
    )
