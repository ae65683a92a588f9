"""Typed state on the transport.

Every conditional write has three ends: it is stored, another was first (`ConditionFailed`), or nobody can say
(`OutcomeUnknown`), and the last only after the subject was read back for this write's own nonce.
"""

from ._assets import (
    ACK_WAIT,
    TASK_ACK_WAIT,
    dlq_asset,
    events_asset,
    handled_asset,
    kv_asset,
    locks_asset,
    markers_asset,
    namespace_assets,
    schedule_assets,
    schedule_consumer,
    schedules_asset,
    task_consumer,
)
from ._blobs import BlobStore
from ._group import Grouping
from ._index import IndexRow, IndexStore, IndexValue
from ._journal import JournalStore, Line, NewerVersion
from ._kv import Change, Entry, KeyValue
from ._lease import LockInfo, find_lock, list_locks
from ._locks import Lock, Locks

__all__ = [
    "ACK_WAIT",
    "TASK_ACK_WAIT",
    "BlobStore",
    "Change",
    "Entry",
    "Grouping",
    "IndexRow",
    "IndexStore",
    "IndexValue",
    "JournalStore",
    "KeyValue",
    "Line",
    "Lock",
    "LockInfo",
    "Locks",
    "NewerVersion",
    "dlq_asset",
    "events_asset",
    "find_lock",
    "handled_asset",
    "kv_asset",
    "list_locks",
    "locks_asset",
    "markers_asset",
    "namespace_assets",
    "schedule_assets",
    "schedule_consumer",
    "schedules_asset",
    "task_consumer",
]
