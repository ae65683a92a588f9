"""Getting connected, or being told why not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jetloom.errors import ConfigInvalid, NatsUnavailable, ServerTooOld
from jetloom.transport import check_version, connect
from jetloom.transport._fastpath import FastLink
from jetloom.transport._plain import PlainLink


@asynccontextmanager
async def fake_server(version: str) -> AsyncGenerator[str]:
    """Says that it is a nats-server of some version, and answers pings."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "x", "version": version, "max_payload": 1024, "headers": True, "jetstream": True}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_nobody_there() -> None:
    """Without a server the connection fails in time, and says where it looked; a password is not repeated."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(NatsUnavailable, match=r"127\.0\.0\.1:1") as failed:
        await connect("nats://user:secret@127.0.0.1:1", timeout=0.5)
    assert "secret" not in str(failed.value)
    assert loop.time() - begun < 5


async def test_too_old() -> None:
    """A server below 2.14 is refused by its version."""
    async with fake_server("2.12.1") as url:
        with pytest.raises(ServerTooOld, match=r"2\.12\.1.*2\.14"):
            await connect(url, timeout=3)


@pytest.mark.parametrize("version", ["2.14.0", "2.15.0-RC.1", "3.0.0"])
def test_new_enough(version: str) -> None:
    """Everything from 2.14 on will do."""
    check_version(version)


async def test_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nats_url: str) -> None:
    """A context of the nats command line tool says where to connect; a missing one is a wrong configuration."""
    folder = tmp_path / "nats" / "context"
    folder.mkdir(parents=True)
    (folder / "here.json").write_text(json.dumps({"url": nats_url}))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("NATS_URL", raising=False)
    monkeypatch.setenv("NATS_CONTEXT", "here")
    transport = await connect(name="test")
    assert transport.connected
    assert transport.server.version
    await transport.close()
    with pytest.raises(ConfigInvalid, match="elsewhere"):
        await connect(context="elsewhere")


async def test_a_tls_url_is_never_served_in_clear(nats_url: str) -> None:
    """A server without TLS is refused before anything secret is sent to it."""
    with pytest.raises(NatsUnavailable, match="TLS"):
        await connect(nats_url.replace("nats://", "tls://user:secret@"), timeout=1.0)


@pytest.mark.parametrize(
    ("said", "given", "kind"),
    [
        (None, None, FastLink),
        ("on", None, FastLink),
        ("OFF", None, PlainLink),
        ("off", True, FastLink),
        ("on", False, PlainLink),
    ],
)
async def test_hot_path_setting(
    said: str | None, given: bool | None, kind: type, monkeypatch: pytest.MonkeyPatch, nats_url: str
) -> None:
    """JETLOOM_HOT_PATH decides unless the caller does; without both it is on."""
    if said is not None:
        monkeypatch.setenv("JETLOOM_HOT_PATH", said)
    transport = await connect(nats_url, hot_path=given)
    assert type(transport.link) is kind
    await transport.close()


async def test_hot_path_setting_is_read_strictly(monkeypatch: pytest.MonkeyPatch, nats_url: str) -> None:
    """Another word than on and off is a wrong configuration."""
    monkeypatch.setenv("JETLOOM_HOT_PATH", "maybe")
    with pytest.raises(ConfigInvalid, match="JETLOOM_HOT_PATH"):
        await connect(nats_url)
