"""The streams and buckets that every process may need, declared once."""

from __future__ import annotations

import re

from ..errors import NameInvalid
from ..messages import Names, bucket_stream
from ..transport import SourceAsset, StreamAsset, Transform

DAY = 86_400.0
EVENTS_AGE = 7 * DAY
DLQ_AGE = 30 * DAY

_BUCKET = re.compile(r"[A-Za-z0-9_-]{1,64}")


def kv_asset(names: Names, bucket: str, *, replicas: int = 1) -> StreamAsset:
    """A bucket of modules: the last value of each key. No rollup, no TTL and so no markers: a writer of one key can't
    empty the others."""
    if not _BUCKET.fullmatch(bucket):
        raise NameInvalid("bucket", bucket, "1-64 characters of A-Z a-z 0-9 _ -")
    name = names.kv_bucket(bucket)
    return StreamAsset(
        name=bucket_stream(name),
        subjects=(f"$KV.{name}.>",),
        discard="new",
        messages_per_subject_max=1,
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
