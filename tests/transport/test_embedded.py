"""The server of our own."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from jetloom.errors import Unavailable
from jetloom.transport import EmbeddedServer, StreamAsset, _embedded, connect, find_server


def test_one_is_found() -> None:
    """The development set carries a server that is new enough."""
    found = find_server()
    assert found is not None
    assert found.version


async def test_store_is_kept(tmp_path: Path) -> None:
    """After SIGKILL and a start the server has what it acknowledged, on the same port."""
    server = EmbeddedServer(tmp_path, 0)
    await server.start()
    url, pid = server.url, server.pid
    transport = await connect(url)
    await transport.ensure(StreamAsset(name="S", subjects=("s.>",)))
    await transport.append("s.x", b"x")
    await transport.close()
    await server.restart()
    assert (server.url, server.running) == (url, True)
    assert server.pid != pid
    transport = await connect(url)
    assert await transport.last("S", "s.x") is not None
    await transport.close()
    await server.stop()
    await server.stop()
    assert not server.running


async def test_a_store_has_one_server(tmp_path: Path) -> None:
    """A second server on a store that is in use is refused; when the first has ended it may start."""
    first, second = EmbeddedServer(tmp_path, 0), EmbeddedServer(tmp_path, 0)
    await first.start()
    with pytest.raises(Unavailable, match="another nats-server"):
        await second.start()
    assert first.running
    first.kill()
    await second.start()
    assert second.running
    await second.stop()


async def test_temporary_store_leaves() -> None:
    """Without a folder the store is temporary and leaves with the server."""
    async with EmbeddedServer(port=0) as server:
        store = server.store_dir
        assert store.is_dir()
    assert not await asyncio.to_thread(store.exists)


async def test_a_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    """When the port is taken by somebody else, the error has the server's own words."""
    async with EmbeddedServer(tmp_path / "a", 0) as taken:
        other = EmbeddedServer(tmp_path / "b", taken.port)
        with pytest.raises(Unavailable, match="address already in use"):
            await other.start()
        assert not other.running


async def test_a_port_that_was_free_a_moment_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds a free port and loses it before the server listens takes another."""
    async with EmbeddedServer(tmp_path / "a") as taken:
        found = iter((taken.port, taken.port))
        free_port = _embedded._free_port

        def find(wanted: int | None) -> int:
            return next(found, None) or free_port(wanted)

        monkeypatch.setattr(_embedded, "_free_port", find)
        async with EmbeddedServer(tmp_path / "b") as other:
            assert other.running
            assert other.port != taken.port
        assert next(found, None) is None


async def test_a_restart_waits_for_its_port(tmp_path: Path) -> None:
    """The clients of a server know its port: a restart waits until whoever took it in between has left."""
    async with EmbeddedServer(tmp_path, 0) as server:
        port = server.port
        server.kill()
        squatter = socket.create_server(("127.0.0.1", port))
        asyncio.get_running_loop().call_later(0.3, squatter.close)
        await server.start()
        assert (server.port, server.running) == (port, True)
