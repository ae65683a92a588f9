"""Typed state on the transport.

Every conditional write has three ends: it is stored, another was first (`ConditionFailed`), or nobody can say
(`OutcomeUnknown`), and the last only after the subject was read back for this write's own nonce.
"""

from ._assets import dlq_asset, events_asset, kv_asset, markers_asset
from ._blobs import BlobStore
from ._index import IndexRow, IndexStore, IndexValue
from ._journal import JournalStore, Line, NewerVersion
from ._kv import Change, Entry, KeyValue

__all__ = [
    "BlobStore",
    "Change",
    "Entry",
    "IndexRow",
    "IndexStore",
    "IndexValue",
    "JournalStore",
    "KeyValue",
    "Line",
    "NewerVersion",
    "dlq_asset",
    "events_asset",
    "kv_asset",
    "markers_asset",
]
