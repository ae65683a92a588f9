"""What the demo sees while it runs: every journal, as it is written."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from ._reading import Record, read_entries


@dataclass
class Seen:
    """One run, as far as it was seen."""

    status: str = "running"
    engines: set[str] = field(default_factory=set[str])
    bodies: list[bytes] = field(default_factory=list[bytes])

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


class Watch:
    """Follows the journals' stream. `ended` is how many runs have ended."""

    def __init__(self, nc: Client, namespace: str = "jetloom") -> None:
        self._js = JetStreamContext(nc)
        self._namespace = namespace
        self._subscription: JetStreamContext.PushSubscription | None = None
        self._changed = asyncio.Event()
        self.runs: dict[str, Seen] = {}

    async def start(self) -> None:
        stream = f"KV_{self._namespace}_runs"
        self._subscription = await self._js.subscribe(">", stream=stream, ordered_consumer=True, cb=self._see)

    async def stop(self) -> None:
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _see(self, message: Msg) -> None:
        if not message.data:
            return
        seen = self.runs.setdefault(message.subject.rpartition(".run.")[2], Seen())
        entry = cast("Record", json.loads(message.data))
        seen.engines.add(str(entry["by"]))
        records = cast("list[Record]", entry.get("records", []))
        if any(record["t"] == "snapshot" for record in records):
            seen.bodies.clear()
        seen.bodies.append(message.data)
        for record in records:
            if record["t"] == "undoing":
                seen.status = "rolling back"
            elif record["t"] == "finished":
                seen.status = str(record["status"])
        self._changed.set()

    @property
    def ended(self) -> int:
        return sum(seen.ended for seen in self.runs.values())

    def counts(self) -> Counter[str]:
        return Counter(seen.status for seen in self.runs.values())

    async def wait_ended(self, count: int, seconds: float) -> bool:
        """Waits until that many runs have ended; False when they have not in time."""
        end = time.monotonic() + seconds
        while self.ended < count:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), max(end - time.monotonic(), 0))
            except TimeoutError:
                return False
        return True

    def most_eventful(self) -> str:
        """The run that most engines worked on; among these the one with the longest journal."""

        def rank(run: str) -> tuple[int, int]:
            seen = self.runs[run]
            return len(seen.engines), sum(len(each["records"]) for each in read_entries(seen.bodies))

        return max(sorted(self.runs), key=rank, default="")

    def timeline(self, run: str) -> list[tuple[float, str, str]]:
        """Milliseconds since its start, engine, and what happened; a row per journal entry."""
        entries = read_entries(self.runs[run].bodies)
        rows: list[tuple[float, str, str]] = []
        holders: dict[str, str] = {}
        for entry in entries:
            said: list[str] = []
            for record in entry["records"]:
                before = holders.get(record.get("cover", ""))
                if "cover" in record:
                    holders[record["cover"]] = entry["by"]
                took_over = record["t"] == "held" and before not in (None, entry["by"])
                said += [
                    text for text in (f"taken over from {before}" if took_over else _say(record),) if text
                ]
            since = 1000 * (float(entry["at"]) - float(entries[0]["at"]))
            rows.append((since, str(entry["by"]), ", ".join(said) or "…"))
        return rows


def _say(record: dict[str, Any]) -> str:
    step, again = (
        record.get("step", ""),
        f" (try {record['attempt']})" if record.get("attempt", 1) > 1 else "",
    )
    match record["t"]:
        case "run_started":
            return "run started"
        case "started":
            return f"{step} starts{again}"
        case "completed" | "skipped":
            return f"{step} {record['t']}"
        case "failed":
            return f"{step} failed{again}: {record['error']['code']}, {record['next']}"
        case "undoing":
            return f"rolls back {', '.join(record['plan']) or 'nothing'}"
        case "undo_started":
            return f"undo of {step} starts{again}"
        case "undo_completed":
            return f"{step} undone"
        case "undo_failed":
            return f"undo of {step} failed{again}: {record['error']['code']}"
        case "emitted":
            return f"event {record['type']}"
        case "finished":
            return f"run {record['status']}"
        case _:
            return ""
