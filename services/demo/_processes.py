"""Processes of the demo: started with a log file each, watched, killed, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parent.parent.parent
READY_SECONDS = 30.0
STOP_SECONDS = 6.0
POLL_SECONDS = 0.05
TAIL_LINES = 15

_PR_SET_PDEATHSIG = 1


class ChildFailed(Exception):
    """A process ended, or never became ready; the end of its log is in the message."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_leash() -> Callable[[], None] | None:
    """What a child runs before its program: on Linux it then dies with this process, even by SIGKILL."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """One process that can be started again. `ready` is a URL that answers 200, or a line of its log."""

    def __init__(
        self, name: str, arguments: list[str], *, logs: Path, environment: dict[str, str], ready: str
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.ready_url = ready
        self.killed = False
        """From the kill until it is started again: its end is no surprise."""
        self._arguments = arguments
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C reaches only the demo, which then stops the others in order.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                cwd=ROOT,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=make_leash(),
            )
        self.killed = False

    async def wait_ready(self, http: aiohttp.ClientSession) -> None:
        """Raises `ChildFailed` when it ends instead, or takes longer than `READY_SECONDS`."""
        end = time.monotonic() + READY_SECONDS
        while not await self._is_ready(http):
            if not self.alive:
                raise ChildFailed(f"{self.name} ended while starting\n{self.tail()}")
            if time.monotonic() > end:
                raise ChildFailed(f"{self.name} is not ready after {READY_SECONDS:g} s\n{self.tail()}")
            await asyncio.sleep(POLL_SECONDS)

    async def _is_ready(self, http: aiohttp.ClientSession) -> bool:
        if not self.ready_url.startswith("http"):
            return self.ready_url in self.log.read_text(encoding="utf-8", errors="replace")
        try:
            async with http.get(self.ready_url) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def kill(self) -> None:
        """SIGKILL; returns when it is dead. Raises `ChildFailed` when it had ended by itself before."""
        if self._process is None or not self.alive:
            raise ChildFailed(f"{self.name} was to be killed and is dead already\n{self.tail()}")
        # Before the signal: the end may be seen by others before we hear of it.
        self.killed = True
        os.killpg(self._process.pid, signal.SIGKILL)
        code = await self._process.wait()
        if code != -signal.SIGKILL:
            raise ChildFailed(f"{self.name} ended with {code} instead of SIGKILL\n{self.tail()}")

    def signal(self, number: signal.Signals) -> None:
        """To its whole process group; a dead one is left alone."""
        if self._process is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def wait(self) -> None:
        if self._process is not None:
            await self._process.wait()

    def complains(self) -> bool:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "ERROR" in text or "Traceback" in text

    def tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"--- {self.log}", *lines])


async def stop_all(children: Iterable[Child]) -> list[str]:
    """SIGTERM to all, SIGKILL to what is left after `STOP_SECONDS`; the names of these."""
    children = [child for child in children if child.alive]
    for child in children:
        child.signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await asyncio.gather(*(child.wait() for child in children))
    except TimeoutError:
        stubborn = [child for child in children if child.alive]
        for child in stubborn:
            child.signal(signal.SIGKILL)
        await asyncio.gather(*(child.wait() for child in stubborn))
        return [child.name for child in stubborn]
    return []
