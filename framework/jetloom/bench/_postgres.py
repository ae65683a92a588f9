"""A PostgreSQL of the benchmark's own, where its programs are installed: for engines that need a database."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path

from ._frame import BenchFailed, Scope

START_SECONDS = 20.0
POLL_SECONDS = 0.05
USER = "postgres"
CONNECTIONS = 200
"""Above the pool of any client that is measured."""
INITDB = ("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale")
SERVER = ("postgres", "-h", "127.0.0.1", "-k", "", "-c", f"max_connections={CONNECTIONS}")


def postgres_installed() -> bool:
    return shutil.which("postgres") is not None and shutil.which("initdb") is not None


@contextlib.asynccontextmanager
async def open_postgres(scope: Scope) -> AsyncGenerator[str]:
    """Its URL. With its own defaults (a commit is synced), on the loopback, in a folder that leaves with it."""
    folder = scope.folder / f"postgres-{scope.next()}"
    data, log = folder / "data", scope.folder / f"{folder.name}.log"
    folder.mkdir()
    # PostgreSQL refuses to run as root; its own account has to reach the folder.
    user = USER if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)
        scope.folder.chmod(0o755)
    process: subprocess.Popen[bytes] | None = None
    try:
        await _initialise(data, log, user)
        port = _free_port()
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: ASYNC220 - a fork of a millisecond; uvloop can't change the user
                [*SERVER, "-D", str(data), "-p", str(port)],
                stdout=output,
                stderr=output,
                start_new_session=True,
                user=user,
                cwd=folder,
            )
        await _wait(port, log)
        yield f"postgresql://{USER}@127.0.0.1:{port}/bench"
    finally:
        if process is not None:
            # SIGQUIT: at once, its children too.
            process.send_signal(signal.SIGQUIT)
            await asyncio.shield(asyncio.to_thread(process.wait))
        shutil.rmtree(folder, ignore_errors=True)


async def _initialise(data: Path, log: Path, user: str | None) -> None:
    def run() -> int:
        with log.open("ab") as output:
            done = subprocess.run(
                [*INITDB, "-D", str(data)],
                stdout=output,
                stderr=output,
                user=user,
                cwd=data.parent,
                check=False,
            )
        return done.returncode

    if await asyncio.to_thread(run):
        raise BenchFailed(f"initdb failed: {_tail(log)}")


async def _wait(port: int, log: Path) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        ready = await asyncio.to_thread(_answers, port)
        if ready:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise BenchFailed(f"PostgreSQL did not start: {_tail(log)}")
        await asyncio.sleep(POLL_SECONDS)


def _answers(port: int) -> bool:
    program = shutil.which("pg_isready")
    if program is not None:
        asked = [program, "-q", "-h", "127.0.0.1", "-p", str(port)]
        return subprocess.run(asked, check=False, timeout=5).returncode == 0
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-500:].strip()


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
