"""A server that speaks just enough of the protocol to misbehave on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from jetloom.transport import NatsTransport, connect

WAIT_SECONDS = 15.0


class FakeServer:
    """Answers the handshake and pings, keeps what clients send, and sends what a test wants."""

    def __init__(self) -> None:
        self.url = ""
        self.lines: list[bytes] = []
        """Every line of the last connection after the handshake, payloads among them."""
        self.connections = 0
        self.bytes_read = 0
        self.reading = asyncio.Event()
        """Whether the last connection is read from."""
        self.stamp: dict[str, object] = {}
        self.on_line: Callable[[bytes], None] = lambda line: None
        self._writer: asyncio.StreamWriter | None = None
        self._writers: list[tuple[asyncio.StreamWriter, asyncio.Event]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, data: bytes) -> None:
        assert self._writer is not None
        self._writer.write(data)

    def hang_up(self) -> None:
        assert self._writer is not None
        self._writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self._writer = writer
        lines = self.lines = list[bytes]()
        reading = self.reading = asyncio.Event()
        reading.set()
        self._writers.append((writer, reading))
        info = {"server_id": "x", "version": "2.15.0", "max_payload": 1 << 20, "headers": True, **self.stamp}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        try:
            while line := await reader.readline():
                await reading.wait()
                if writer.transport.is_closing():
                    break
                self.bytes_read += len(line)
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
                elif not line.startswith(b"CONNECT"):
                    lines.append(line.rstrip(b"\r\n"))
                    self.on_line(lines[-1])
        except ConnectionError:
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def stop(self) -> None:
        for writer, reading in self._writers:
            reading.set()
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def fake_server() -> AsyncGenerator[FakeServer]:
    fake = FakeServer()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0, limit=1 << 22)
    fake.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.close()
        await fake.stop()


@asynccontextmanager
async def connected(fake: FakeServer) -> AsyncGenerator[NatsTransport]:
    transport = await connect(fake.url, name="test", hot_path=True)
    try:
        yield transport
    finally:
        transport.link.closing = True
        await transport.link.close()


async def until(condition: Callable[[], object], what: str) -> None:
    """Waits for a condition with a name."""
    loop = asyncio.get_running_loop()
    end = loop.time() + WAIT_SECONDS
    while not condition():
        assert loop.time() < end, f"it never came to be that {what}"
        await asyncio.sleep(0.002)
