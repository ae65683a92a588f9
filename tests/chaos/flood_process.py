"""A replica of the flooded modules. What it handles it writes down, a line each, before it is acknowledged.

`python -m tests.chaos.flood_process --nats URL --name r1 --books FILE`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path

import msgspec

from jetloom.bus import Event, Retry
from jetloom.config import Settings
from jetloom.errors import InvalidInput
from jetloom.runtime import Host, Module, endpoint, on
from jetloom.transport import connect

EVENT = "chaos.thing.happened"
RETRY = Retry(max=12, initial=0.1, max_delay=1.0)
FAILURES = 2
"""How often a process fails a flaky event before it passes."""

WORK_SECONDS = 0.002
SLOW_SECONDS = 0.1
SLOW_CONCURRENCY = 4


class Thing(msgspec.Struct, frozen=True):
    key: str
    number: int
    kind: str = "good"


class Charge(msgspec.Struct, frozen=True):
    number: int


class Books:
    """A line below PIPE_BUF is appended whole, whoever else writes: the file's order is the order of the handling."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._process = os.getpid()

    def note(self, what: str, sequence: int, key: str, number: int) -> None:
        line = f"{what} {sequence} {key} {number} {self._process} {time.monotonic():.6f}\n"
        os.write(self._file, line.encode())


class Flooded(Module):
    """One handler of each kind, and endpoints of each kind."""

    id = "flooded"

    def __init__(self, books: Books) -> None:
        self._books = books
        self._failed: Counter[tuple[str, int]] = Counter()

    def _judge(self, handler: str, event: Event[Thing]) -> None:
        thing = event.payload
        if thing.kind == "terminal":
            raise InvalidInput("this one never passes")
        # Each process counts anew, so a later delivery passes whatever this one remembers.
        again = self._failed[handler, thing.number] < FAILURES and event.delivery <= FAILURES + 1
        if thing.kind == "flaky" and again:
            self._failed[handler, thing.number] += 1
            raise RuntimeError("this one passes later")

    @on(EVENT, concurrency=64, retry=RETRY, ack_wait=5.0)
    async def plain(self, event: Event[Thing]) -> None:
        self._judge("plain", event)
        await asyncio.sleep(WORK_SECONDS)
        self._books.note("plain", event.sequence, event.payload.key, event.payload.number)

    @on(EVENT, key="event.payload.key", concurrency=64, retry=RETRY)
    async def keyed(self, event: Event[Thing]) -> None:
        self._judge("keyed", event)
        await asyncio.sleep(WORK_SECONDS)
        self._books.note("keyed", event.sequence, event.payload.key, event.payload.number)

    @on(EVENT, batch=50, batch_wait=0.2, concurrency=4, retry=RETRY, ack_wait=5.0)
    async def many(self, events: list[Event[Thing]]) -> None:
        for event in events:
            self._judge("many", event)
        for event in events:
            self._books.note("many", event.sequence, event.payload.key, event.payload.number)


class Asked(Module):
    """Endpoints that keep a ledger."""

    id = "asked"

    def __init__(self, books: Books) -> None:
        self._books = books

    @endpoint(idempotent=True, concurrency=256)
    async def double(self, charge: Charge) -> int:
        await asyncio.sleep(WORK_SECONDS)
        self._books.note("double", 0, "-", charge.number)
        return charge.number * 2

    @endpoint(concurrency=256)
    async def charge(self, charge: Charge) -> int:
        self._books.note("charge", 0, "-", charge.number)
        await asyncio.sleep(WORK_SECONDS)
        return charge.number * 2

    @endpoint(concurrency=SLOW_CONCURRENCY)
    async def slow(self, charge: Charge) -> int:
        self._books.note("begin", 0, "-", charge.number)
        await asyncio.sleep(SLOW_SECONDS)
        self._books.note("end", 0, "-", charge.number)
        return charge.number * 2


async def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("nats", "name", "books", "module"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    transport = await connect(options.nats, name=options.name)
    books = Books(Path(options.books))
    module = Flooded(books) if options.module == "flooded" else Asked(books)
    host = Host([module], transport, Settings(nats_url=options.nats))
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await host.start()
    print("ready", flush=True)
    await stopped.wait()
    await host.drain(10.0)
    await host.stop()
    await transport.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
