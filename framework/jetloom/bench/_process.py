"""The benchmark's end of its processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import msgspec

from ._child import LINE_BYTES_MAX, Answer, Order
from ._frame import BenchFailed
from ._load import Figures, Given

START_SECONDS = 30.0
ASK_SECONDS = 300.0
"""Above the longest order of any workload that names no time of its own."""
STOP_SECONDS = 15.0
TAIL_CHARACTERS = 1_500

NOTHING = Given()

_answers = msgspec.json.Decoder(Answer)


class Child:
    """One process. `ask` gives it an order and waits for the answer; one order at a time."""

    def __init__(self, role: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.role = role
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, verb: str, given: Given = NOTHING, *, seconds: float = ASK_SECONDS) -> Figures:
        """Raises `BenchFailed` with what the process says, or when it says nothing within `seconds`."""
        self.tell(verb, given)
        return await self.answer(verb, seconds)

    def tell(self, verb: str, given: Given = NOTHING) -> None:
        """An order whose answer is read later, with `answer`."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(msgspec.json.encode(Order(verb, given)) + b"\n")

    async def answer(self, verb: str, seconds: float = ASK_SECONDS) -> Figures:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = await stdout.readline()
        except TimeoutError:
            raise BenchFailed(f"{self.role}: {verb} did not end within {seconds:g} s{self._tail()}") from None
        if not line:
            raise BenchFailed(f"{self.role} ended during {verb}{self._tail()}")
        answer = _answers.decode(line)
        if answer.error:
            raise BenchFailed(f"{self.role}: {verb}: {answer.error}")
        return answer.figures

    async def kill(self) -> None:
        """SIGKILL; returns when it is dead."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> None:
        """Ends it: it stops what it serves when its stdin ends. May be called twice."""
        if self._process.returncode is not None:
            return
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    def _tail(self) -> str:
        text = self._log.read_text(errors="replace").strip()
        return f"; its log ends: {text[-TAIL_CHARACTERS:]}" if text else ""


@contextlib.asynccontextmanager
async def open_child(
    role: str, config: Given, log: Path, environment: Mapping[str, str]
) -> AsyncGenerator[Child]:
    """A process that has started what it serves; it is gone after the block, whatever happened in it."""
    child = await start_child(role, config, log, environment)
    try:
        yield child
        await child.stop()
    finally:
        # Nothing after a failure or Ctrl-C may take long, and nothing may be left.
        await asyncio.shield(child.kill())


async def start_child(role: str, config: Given, log: Path, environment: Mapping[str, str]) -> Child:
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "jetloom.bench._child",
            role,
            msgspec.json.encode(config).decode(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            env={**os.environ, **environment},
            limit=LINE_BYTES_MAX,
            # Ctrl-C is the bench's; it ends its processes itself.
            start_new_session=True,
        )
    child = Child(role, process, log)
    try:
        await child.answer("start", START_SECONDS)
    except BaseException:
        await asyncio.shield(child.kill())
        raise
    return child
