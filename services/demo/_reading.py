"""Reading the books: streams with plain nats-py, the provider's ledger with sqlite3. Imports nothing of jetloom."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
import zlib
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from .books import Books, Fact, Movement, Order, Run, Shelf

READ_SECONDS = 10.0

type Record = dict[str, Any]


async def read_books(url: str, ledger: Path, orders: list[Order], *, namespace: str = "jetloom") -> Books:
    """One reading of everything. Streams that don't exist are read as empty."""
    nc = Client()
    await nc.connect(url, name="bookkeeper", connect_timeout=5, max_reconnect_attempts=3)
    try:
        js = JetStreamContext(nc)
        events = await _read_stream(js, f"{namespace.upper()}_EVENTS")
        journals = await _read_stream(js, f"KV_{namespace}_runs")
        stock = await _read_bucket(js, f"{namespace}_kv_stock")
        letters = await _read_bucket(js, f"{namespace}_kv_letters")
    finally:
        await nc.close()
    prefix = f"{namespace}.events.shop.order."
    return Books(
        orders=orders,
        runs=_runs(journals),
        facts=[_fact(message, prefix) for message in events if message.subject.startswith(prefix)],
        movements=await asyncio.to_thread(read_ledger, ledger),
        shelves=_shelves(stock, _deliveries(events, f"{namespace}.events.shop.stock.delivered")),
        told=[(str(letter["order"]), str(letter["kind"])) for letter in letters.values()],
    )


def read_ledger(path: Path) -> list[Movement]:
    """Every movement of money, in order. The provider may be writing meanwhile."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT order_id, kind, amount_cents FROM movements ORDER BY id").fetchall()
    return [Movement(*row) for row in rows]


def read_entries(bodies: list[bytes]) -> list[Record]:
    """All entries of one journal, in order, from its messages as they are stored; snapshots are opened and left out.

    A finished run is one message: a snapshot that holds the earlier entries (base64 of deflated JSON lines), and what
    the last entry adds.
    """
    entries: dict[int, Record] = {}
    for body in bodies:
        _collect(cast("Record", json.loads(body)), entries)
    return [entries[n] for n in sorted(entries)]


def _collect(entry: Record, entries: dict[int, Record]) -> None:
    records = cast("list[Record]", entry.get("records", []))
    for record in records:
        if record["t"] == "snapshot" and record.get("history"):
            for line in zlib.decompress(base64.b64decode(record["history"])).splitlines():
                _collect(cast("Record", json.loads(line)), entries)
        elif record["t"] == "snapshot":
            for entry_before in cast("list[Record]", record.get("entries", [])):
                _collect(entry_before, entries)
    entries[int(entry["n"])] = {
        **entry,
        "records": [record for record in records if record["t"] != "snapshot"],
    }


def read_journal(bodies: list[bytes]) -> list[Record]:
    """All records of one journal, in order."""
    return [record for entry in read_entries(bodies) for record in cast("list[Record]", entry["records"])]


def _runs(messages: list[Msg]) -> list[Run]:
    journals: dict[str, list[bytes]] = defaultdict(list)
    for message in messages:
        run = message.subject.rpartition(".run.")[2]
        if message.data:
            journals[run].append(message.data)
    return [
        fold(run.removeprefix("order-"), read_journal(bodies)) for run, bodies in sorted(journals.items())
    ]


def fold(order: str, records: list[Record]) -> Run:
    """What the bookkeeper wants to know of a journal."""
    ends = [record for record in records if record["t"] == "finished"]
    end = ends[0] if ends else {}
    error = cast("Record", end.get("error") or {})
    return Run(
        order=order,
        status=str(end.get("status", "")),
        error=str(error.get("code", "")),
        ends=len(ends),
        done=tuple(str(each["step"]) for each in records if each["t"] in ("completed", "unknown")),
        undone=tuple(str(each["step"]) for each in records if each["t"] == "undo_completed"),
    )


def _fact(message: Msg, prefix: str) -> Fact:
    headers = {name.lower(): value for name, value in (message.headers or {}).items()}
    body = cast("Record", json.loads(message.data))
    return Fact(
        id=headers.get("ce-id") or f"EVENTS-{message.metadata.sequence.stream}",
        kind=message.subject.removeprefix(prefix),
        order=str(body.get("order") or body.get("id")),
    )


def _deliveries(events: list[Msg], subject: str) -> dict[str, int]:
    delivered: dict[str, int] = defaultdict(int)
    for message in events:
        if message.subject == subject:
            body = cast("Record", json.loads(message.data))
            delivered[str(body["product"])] += int(body["quantity"])
    return delivered


def _shelves(stock: dict[str, Record], delivered: dict[str, int]) -> dict[str, Shelf]:
    shelves: dict[str, Shelf] = {}
    for product in sorted(set(stock) | set(delivered)):
        found = stock.get(product, {})
        shelves[product] = Shelf(
            delivered=delivered.get(product, 0),
            available=int(found.get("available", 0)),
            sold=int(found.get("sold", 0)),
            held=cast("dict[str, int]", found.get("held", {})),
        )
    return shelves


async def _read_bucket(js: JetStreamContext, bucket: str) -> dict[str, Record]:
    """The last value of every key."""
    found: dict[str, Record] = {}
    for message in await _read_stream(js, f"KV_{bucket}"):
        key = message.subject.removeprefix(f"$KV.{bucket}.")
        if (message.headers or {}).get("KV-Operation"):
            found.pop(key, None)
        else:
            found[key] = cast("Record", json.loads(message.data))
    return found


async def _read_stream(js: JetStreamContext, stream: str) -> list[Msg]:
    """Every message that is stored now."""
    try:
        info = await js.stream_info(stream)
    except NotFoundError:
        return []
    if info.state.messages == 0:
        return []
    subscription = await js.subscribe(">", stream=stream, ordered_consumer=True)
    try:
        messages: list[Msg] = []
        async with asyncio.timeout(READ_SECONDS):
            while True:
                try:
                    message = await subscription.next_msg(timeout=1)
                except NatsTimeout:
                    # What was stored is deleted meanwhile (a journal that was rolled up).
                    return messages
                messages.append(message)
                if message.metadata.num_pending == 0:
                    return messages
    finally:
        await subscription.unsubscribe()
