"""Node programs with the official client publish, call, list, and work."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from jetloom.engine import Client, Definitions, Engine
from jetloom.messages import Names, encode
from jetloom.transport import Incoming, Transport
from jetloom.workflows import Definition, Step

from .kit import blocks, connected, listen, load, plain_client, serving, until, until_true

NODE_FOLDER = Path(__file__).parent / "node"
PEER_SECONDS = 30.0
PATIENCE = timedelta(seconds=PEER_SECONDS)
HANDLER = "labels.print"
STREAM, CONSUMER = "JETLOOM_TASKS", "task-labels=2Eprint"


@pytest.fixture
def scripts(repo_root: Path, tmp_path: Path) -> Path:
    """The scripts, in a folder in which Node finds the packages that they import."""
    cache = repo_root / ".cache/peers/node"
    stamp, wanted = cache / ".stamp", NODE_FOLDER / "package.json"
    if shutil.which("node") is None:
        pytest.skip("no node on PATH: install Node 20 or later, then `make peers`")
    if not stamp.is_file() or stamp.read_bytes() != wanted.read_bytes():
        pytest.skip("the official client for Node is not installed: `make peers` does it")
    folder = tmp_path / "node"
    folder.mkdir()
    for script in NODE_FOLDER.glob("*.mjs"):
        shutil.copy(script, folder)
    (folder / "node_modules").symlink_to(cache / "node_modules")
    return folder


@asynccontextmanager
async def node(script: Path, url: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A script that runs; told to stop at the end, and then it has to."""
    process = await asyncio.create_subprocess_exec(
        "node",
        str(script),
        env={**os.environ, "NATS_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(PEER_SECONDS):
                await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@asynccontextmanager
async def working(url: str) -> AsyncGenerator[tuple[Transport, Client]]:
    """An engine with a workflow of one step, which it does not serve itself."""
    async with connected(url) as transport:
        names = Names()
        definition = Definition(id="send", steps=(Step("label", uses=HANDLER),))
        await Definitions(transport, names).register(definition)
        engine = Engine(transport, names, name="one", sweep=False)
        await engine.start()
        try:
            client = Client(transport, names)
            await client.register(encode(definition).decode())
            yield transport, client
        finally:
            await engine.stop(1.0)


async def start(client: Client, run: str, address: str = "Main St 1") -> None:
    await client.start("send", {"id": run, "address": address}, id=run)


def test_the_page_shows_the_scripts(page: Path) -> None:
    """Each piece of Node on the page stands in a script that runs here, word for word."""
    pieces = blocks(page, "js")
    scripts = [script.read_text(encoding="utf-8") for script in NODE_FOLDER.glob("*.mjs")]
    assert len(pieces) == 4
    for piece in pieces:
        assert any(piece in script for script in scripts), piece


async def test_node_publishes_calls_and_lists(scripts: Path, page: Path, url: str) -> None:
    """An event is stored once and handled, a request answered, an error has its fields, and the service is found."""
    stock: Any = load(blocks(page)[0], url=url)["Stock"]()
    async with serving(url, stock), node(scripts / "peer.mjs", url) as process:
        async with asyncio.timeout(PEER_SECONDS):
            out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        said = json.loads(out)
        assert said["stored"] == {
            "stream": "JETLOOM_EVENTS",
            "seq": said["stored"]["seq"],
            "again": said["stored"]["seq"],
            "duplicate": True,
        }
        await until(lambda: stock.seen, "the event was handled")
        [seen] = stock.seen
        assert (seen.id, seen.source, seen.payload.pieces) == ("n-1-placed", "till", 5)
        assert said["left"] in (95, 100)
        refused = said["refused"]
        assert (refused["status"], refused["text"]) == (404, "stock.not_sold: we don't sell sword")
        assert refused["error"]["code"] == "stock.not_sold"
        assert refused["error"]["class"] == "terminal"
        assert refused["error"]["details"] == {"item": "sword"}
        assert (said["misfit"]["status"], said["misfit"]["error"]["code"]) == (400, "decode.failed")
        [service] = [each for each in said["services"] if each["name"] == "stock"]
        assert service["version"] == "0.1.0"
        assert "jetloom.rpc.stock.left" in service["endpoints"]


async def test_node_serves_a_step(scripts: Path, url: str) -> None:
    """A run gets the worker's answer, another its error; each task was beaten for before it was acknowledged."""
    async with working(url) as (transport, client):
        acks: list[bytes] = []

        def note(message: Incoming) -> None:
            acks.append(bytes(message.data))

        tap = await transport.subscribe(f"$JS.ACK.{STREAM}.{CONSUMER}.>", note)
        async with node(scripts / "worker.mjs", url):
            await start(client, "n-1")
            result: Any = await client.result("n-1", timeout=PATIENCE)
            assert result["label"] == "L-n-1"
            await until(lambda: acks[-1:] == [b"+ACK"], "the task was acknowledged")
            assert acks[0] == b"+WPI"
            assert acks.count(b"+ACK") == 1
            await start(client, "n-2", "x" * 61)
            await until_true(lambda: ended(client, "n-2"), "the run ended")
            view = await client.show("n-2")
            assert view.status == "failed"
            assert view.error is not None
            assert view.error.code == "label.unprintable"
        await tap.stop()


async def ended(client: Client, run: str) -> bool:
    return (await client.show(run)).ended_at is not None


async def test_node_asks_before_it_repeats(scripts: Path, url: str) -> None:
    """A task that was delivered before is asked about: one still waited for is done, an answered one only
    acknowledged."""
    async with working(url) as (transport, client), plain_client(url) as other:
        asked: list[str] = []
        acks: list[bytes] = []

        async def note(message: Msg) -> None:
            acks.append(message.data)

        async def hear(message: Msg) -> None:
            asked.append(json.loads(message.data)["run"])

        await start(client, "open")
        await start(client, "answered")
        await until_true(lambda: stands(transport, 2), "both tasks stand in the queue")
        js = JetStreamContext(other)
        pulled = await (await js.pull_subscribe_bind(CONSUMER, STREAM)).fetch(2, timeout=10)
        answered = next(task for task in pulled if (task.headers or {})["Jetloom-Run"] == "answered")
        first = {"Nats-Expected-Last-Subject-Sequence": "0", "Jetloom-V": "1"}
        body = b'{"outcome": "ok", "output": "by another"}'
        await js.publish((answered.headers or {})["Jetloom-Reply"], body, headers=first)
        await listen(other, f"$JS.ACK.{STREAM}.{CONSUMER}.>", note)
        await listen(other, "jetloom.engine.settled", hear)
        for task in pulled:
            await task.nak()
        async with node(scripts / "worker.mjs", url):
            result: Any = await client.result("open", timeout=PATIENCE)
            assert result["label"] == "L-open"
            assert await client.result("answered", timeout=PATIENCE) == "by another"
            await until(lambda: acks.count(b"+ACK") == 2, "both were acknowledged")
        assert sorted(asked) == ["answered", "open"]


async def stands(transport: Transport, tasks: int) -> bool:
    state = await transport.stream_state(STREAM)
    return state is not None and state.messages == tasks
