"""Replicas of a module as processes, and the lines that they write."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import NamedTuple

from tests.chaos.world import READY_SECONDS, ROOT, Child


class Replica(Child):
    """A process of `flood_process`."""

    def __init__(self, module: str, name: str, url: str, books: Path) -> None:
        super().__init__(module, name, url, books)
        self._arguments = ["--nats", url, "--name", name, "--books", str(books), "--module", module]

    async def start(self) -> None:
        log = self._books.with_name(f"{self.name}.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.flood_process",
            *self._arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
        )
        log.close()
        assert self.process.stdout is not None
        async with asyncio.timeout(READY_SECONDS):
            line = await self.process.stdout.readline()
        assert line == b"ready\n", f"{self.name} did not start: {line!r}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def roll(self) -> None:
        """SIGTERM, its end awaited, and started again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(READY_SECONDS):
            assert await self.process.wait() == 0
        await self.start()

    def memory(self) -> int:
        """Resident bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0


class Line(NamedTuple):
    what: str
    sequence: int
    key: str
    number: int
    process: int
    at: float


class Lines:
    """What the processes wrote, read on from where the last look ended."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        self.all: list[Line] = []

    def read(self) -> list[Line]:
        whole, _, self._rest = (self._rest + self._file.read()).rpartition(b"\n")
        for text in whole.decode().splitlines():
            what, sequence, key, number, process, at = text.split()
            self.all.append(Line(what, int(sequence), key, int(number), int(process), float(at)))
        return self.all

    def close(self) -> None:
        self._file.close()

    async def until(self, count: int, seconds: float) -> None:
        """Returns when so many lines are there."""
        async with asyncio.timeout(seconds):
            while len(self.read()) < count:
                await asyncio.sleep(0.02)
