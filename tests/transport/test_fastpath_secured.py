"""A server with TLS and permissions: nats-py reads, our parser parses; what is forbidden is said at once."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jetloom.errors import NatsUnavailable, OutcomeUnknown, Refused, RequestTimeout
from jetloom.transport import NatsTransport, StreamAsset, connect, find_server
from tests.transport.fake import WAIT_SECONDS, until

CONFIG = """
host: 127.0.0.1
port: {port}
jetstream {{ store_dir: "{folder}/store" }}
tls {{ cert_file: "{folder}/cert.pem", key_file: "{folder}/key.pem", timeout: 5 }}
authorization {{ users: [ {{ user: u, password: p, permissions: {{
  publish: {{ allow: ["ok.>", "_INBOX.>", "$JS.>"] }}, subscribe: {{ allow: [">"] }} }} }} ] }}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def secured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, hot_path: bool
) -> AsyncGenerator[tuple[NatsTransport, subprocess.Popen[bytes]]]:
    """A connection to a server that encrypts, checks who asks, and lets them publish on `ok.>` only."""
    binary, openssl = find_server(), shutil.which("openssl")
    if binary is None or binary.source == "container" or openssl is None:
        pytest.skip("a nats-server program or openssl is not installed here")
    order = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(  # noqa: ASYNC221 - some ten milliseconds, before anything waits
        [openssl, *order.split(), "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "cert.pem"))
    port = free_port()
    (folder / "server.conf").write_text(CONFIG.format(port=port, folder=folder))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(  # noqa: ASYNC220 - a fork of a millisecond
            [binary.program, "-c", folder / "server.conf"], stderr=log
        )
    try:
        loop = asyncio.get_running_loop()
        end = loop.time() + WAIT_SECONDS
        while True:
            try:
                transport = await connect(f"tls://u:p@127.0.0.1:{port}", hot_path=hot_path)
                break
            except NatsUnavailable:
                assert loop.time() < end, (folder / "log").read_text()
        yield transport, server
        await transport.close()
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("hot_path", [True, False])
async def test_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hot_path: bool) -> None:
    """Bursts, large messages and refusals by permission work on an encrypted connection, too."""
    async with secured(tmp_path, monkeypatch, hot_path) as (transport, _):
        await transport.ensure(StreamAsset(name="OK", subjects=("ok.>", "No.>"), storage="memory"))
        stored = await asyncio.gather(*(transport.append("ok.x", b"%d" % n) for n in range(500)))
        assert [one.sequence for one in stored] == list(range(1, 501))
        large = b"x" * 900_000
        await transport.append("ok.large", large)
        found = await transport.last("OK", "ok.large")
        assert found is not None
        assert found.data == large
        with pytest.raises(Refused if hot_path else (Refused, OutcomeUnknown)):
            await transport.append("No.x", b"", timeout=2)
        with pytest.raises(RequestTimeout):
            await transport.request("No.y", b"", timeout=2)
        assert transport.connected
        assert (await transport.append("ok.x", b"")).sequence == 502


async def test_a_lost_tls_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed server fails what waits at once, on an encrypted connection, too."""
    async with secured(tmp_path, monkeypatch, True) as (transport, server):
        mute = await transport.subscribe("ok.mute", lambda message: None)
        asking = asyncio.ensure_future(transport.append("ok.mute", b"", timeout=60))
        await transport.flush()
        server.kill()
        with pytest.raises(OutcomeUnknown):
            await asyncio.wait_for(asking, WAIT_SECONDS)
        await until(lambda: not transport.connected, "the loss is noticed")
        await mute.stop()
