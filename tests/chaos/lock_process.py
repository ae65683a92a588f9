"""A process of the locks' chaos: tasks that take one lock, change one counter under its fence, and keep books.

`python -m tests.chaos.lock_process --nats URL --name p1 --books FILE --until 1000`

With `--stubborn` a section's write goes on in a task of its own when its lock is lost: only the fence protects the
counter then. With `--stop-at N` the process stops itself (SIGSTOP) between reading and writing its Nth section.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
from collections import Counter

from jetloom.clock import SYSTEM_CLOCK
from jetloom.errors import ConditionFailed, FencedOff, LockLost, OutcomeUnknown, Unavailable
from jetloom.messages import Names
from jetloom.stores import Entry, KeyValue, Locks, kv_asset
from jetloom.transport import connect

NAMES = Names("chaos-locks")
BUCKET = "counts"
LOCK = "the one"
TTL = 1.0


class Worker:
    def __init__(self, options: argparse.Namespace, locks: Locks, kv: KeyValue[int]) -> None:
        self._name: str = options.name
        self._file = os.open(options.books, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._until: int = options.until
        self._stubborn: bool = options.stubborn
        self._stop_at: int = options.stop_at
        self._writes: set[asyncio.Task[None]] = set()
        self._locks = locks
        self._kv = kv
        self.ends: Counter[str] = Counter()

    def note(self, what: str, **fields: object) -> None:
        """One line; below PIPE_BUF it is written whole, whoever else writes."""
        line = {"what": what, "process": self._name, **fields}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    async def work(self, task: int) -> None:
        done = False
        while not done:
            try:
                done = await self._section(task)
            except (LockLost, FencedOff, ConditionFailed, OutcomeUnknown, Unavailable) as error:
                self.ends[error.code] += 1
                self.note(error.code, at=SYSTEM_CLOCK.monotonic())

    async def _section(self, task: int) -> bool:
        """Whether the counter is where it should be."""
        async with self._locks.hold(LOCK, ttl=TTL) as lock:
            entered = SYSTEM_CLOCK.monotonic()
            self.note("entered", at=entered, fence=lock.fence)
            entry = await self._kv.claim("count", lock.fence)
            if entry is not None and entry.value >= self._until:
                return True
            self._stop_at -= 1
            if self._stop_at == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
            if self._stubborn:
                write = asyncio.create_task(self._insist(entry, lock.fence))
                self._writes.add(write)
                write.add_done_callback(self._writes.discard)
                await asyncio.shield(write)
            else:
                await self._write(entry, lock.fence)
            left = SYSTEM_CLOCK.monotonic()
        self.ends["ok"] += 1
        self.note("section", fence=lock.fence, entered=entered, left=left, task=task)
        return False

    async def _insist(self, entry: Entry[int] | None, fence: int) -> None:
        try:
            await self._write(entry, fence)
        except (FencedOff, ConditionFailed, OutcomeUnknown, Unavailable) as error:
            self.note(f"write.{error.code}", fence=fence)

    async def _write(self, entry: Entry[int] | None, fence: int) -> None:
        value = 1 if entry is None else entry.value + 1
        if entry is None:
            await self._kv.create("count", value, fence=fence)
        else:
            await self._kv.update("count", value, entry.revision, fence=fence)
        # Whatever the lock is worth by now, this write has passed.
        self.note("wrote", value=value, fence=fence)


async def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("nats", "name", "books"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--until", type=int, required=True)
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--stubborn", action="store_true")
    parser.add_argument("--stop-at", type=int, default=0)
    options = parser.parse_args()
    transport = await connect(options.nats, name=options.name)
    locks = Locks(transport, NAMES, SYSTEM_CLOCK, owner=options.name)
    kv = KeyValue[int](
        transport, NAMES.kv_bucket(BUCKET), int, asset=kv_asset(NAMES, BUCKET), clock=SYSTEM_CLOCK
    )
    worker = Worker(options, locks, kv)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    work = asyncio.gather(*(worker.work(number) for number in range(options.tasks)))
    print("ready", flush=True)
    await stopped.wait()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    worker.note("stats", refused=locks.refused, **worker.ends)
    await locks.stop()
    await transport.close()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main())
