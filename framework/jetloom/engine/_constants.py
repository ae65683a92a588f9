"""The engine's times and limits, and what each must stay above or below. Seconds unless a name says otherwise."""

from __future__ import annotations

from ..stores import ACK_WAIT

BEAT = ACK_WAIT / 3
"""Two beats may be lost before a message comes again."""
SURE = ACK_WAIT * 3 / 4
"""Below ACK_WAIT by more than a clock drifts meanwhile: who is sure starts work before anybody else is told."""
PULL_EXPIRY = ACK_WAIT / 4
"""Well below SURE: a message that came at the end of a pull is still sure."""
ASK_WAIT = 1.0
PATIENCE = 5.0
LAZY = 0.03
"""How long the first entry of a run, and the index, may wait for something to travel with."""
INDEX_LAZY = 0.25
"""How long a run whose steps are under way elsewhere waits for their results before its row is written: most end
within it, and are written once. Well below SURE: the message that is kept meanwhile needs no beat."""
CHECK = 5.0
RETRY = 0.25
ADOPT_COUNT = 4
"""Deliveries of a message without a run before it is looked into: its start is probably under way."""
SWEEP = 30.0
RETENTION_MIN = 3600.0
"""Above the time after which the server drops a silent connection (6 min): nothing sent before a freeze arrives
later.
"""
RETENTION = 7 * 24 * 3600.0
PURGE_AFTER = 3600.0
SNAPSHOT_ENTRIES = 500
SNAPSHOT_BYTES = 1024 * 1024
HELD_TIMERS_MAX = 10_000
HEADER_ROOM = 16 * 1024
"""Bytes of a message that are left to its headers; above what a task or an event ever has."""
CACHED_RUNS_MAX = 1_000
OUTPUTS_AT_ONCE = 64
"""Outputs of one run in flight: a fan-out of 10,000 tasks must not fill the connection's buffer."""
PACING = 0.02
"""Whoever was refused this recently lets the others append first."""
