"""What requests have on the wire beyond NATS micro services: headers, verbs, limits of an answer in parts."""

from __future__ import annotations

H_REQUEST_ID = "Jetloom-Request-Id"
"""Of a request whose caller may cancel it: `$SRV.CANCEL.<service>` with this id as its body ends the work."""

H_PARTS = "Jetloom-Parts"
"""Of a request: the subject that takes the parts, whose reader answers each part that has a reply subject."""

H_PART = "Jetloom-Part"
"""Of an answer: the part's number from 1, `end` for the empty message after the last one, 0 for `it begins`."""

PART_BEGINS = "0"
PART_END = "end"

CANCEL = "$SRV.CANCEL"
REQUEST_ID_CHARACTERS_MAX = 100
"""Of a foreign caller's id: longer ones are not remembered, so their requests can't be cancelled."""

PARTS_MAX = 1_000_000
"""Of one answer; a series that never ends would hold its place among `concurrency` for ever."""

PARTS_BYTES_MAX = 1 << 30
"""Of one answer, as above; what is larger belongs into an object store."""

WINDOW_PARTS = 64
WINDOW_BYTES = 1 << 20
"""A service asks whether the reader follows after so many parts or bytes: that much can lie in a reader's memory."""

READER_SECONDS = 30.0
"""How long a reader that answers may take for one window; above a pause of any healthy process."""

SILENT_SECONDS = 0.05
"""How long a service waits for a reader that never answers (`nats req --replies=0`): such a one gets a window each."""
