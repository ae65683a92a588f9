"""What a world's server holds, for tests to look at."""

from __future__ import annotations

from datetime import UTC, datetime

from jetloom.bus import Event
from jetloom.engine import Client
from jetloom.errors import DecodeFailed, JetloomError
from jetloom.messages import Names, decode_plain, from_headers, is_structured, to_binary_mode
from jetloom.transport import MemoryServer
from jetloom.types import JSON

EVENTS_MAX = 1_000_000


def read_published(server: MemoryServer, names: Names, pattern: str) -> list[Event[JSON]]:
    """Every stored event whose type fits; a payload that is no JSON comes as its text."""
    stream = server.streams.get(names.events_stream)
    if stream is None:
        return []
    found: list[Event[JSON]] = []
    for stored in stream.read(names.event(pattern), 0, EVENTS_MAX):
        headers, data = stored.headers, stored.data
        if is_structured(headers):
            headers, data = to_binary_mode(headers, data)
        head = from_headers(
            headers,
            event_type=names.event_type(stored.subject),
            sequence=stored.sequence,
            stored_at=stored.at,
        )
        try:
            payload = decode_plain(data, "payload")
        except DecodeFailed:
            payload = data.decode(errors="replace")
        found.append(
            Event(
                id=head.id,
                type=head.type,
                source=head.source,
                time=datetime.fromtimestamp(head.time, UTC),
                payload=payload,
                sequence=stored.sequence,
                actor=head.actor,
                trace=head.trace,
                correlation=head.correlation,
                causation=head.causation,
            )
        )
    return found


async def open_runs(client: Client, limit: int) -> list[str]:
    """The runs that have not ended, at most `limit`, and what each waits for."""
    found: list[str] = []
    try:
        rows, _ = await client.list(limit=100)
        for row in rows:
            view = await client.show(row.run)
            if view.ended_at is None and len(found) < limit:
                what = ", ".join(view.waits_for) or "its next step"
                found.append(f"run {row.run} ({view.status}) for {what}")
    except JetloomError as error:
        found.append(f"runs that can't be read: {error}")
    return found
