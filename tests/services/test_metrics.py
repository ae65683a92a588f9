"""Debian's Prometheus scrapes real processes, and its own tool finds nothing wrong with what they say."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import urllib.parse
import urllib.request
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jetloom.clock import SYSTEM_CLOCK
from jetloom.messages import Names
from jetloom.rpc import Rpc
from jetloom.telemetry import Metrics
from jetloom.transport import EmbeddedServer, connect

PATIENCE_SECONDS = 60.0
SERIES = {
    "engine": (
        "jetloom_runs_started_total",
        "jetloom_runs_ended_total",
        "jetloom_appends_total",
        "jetloom_append_duration_seconds_count",
        "jetloom_deliveries_total",
        "jetloom_outputs_total",
        "jetloom_event_loop_lag_seconds_count",
    ),
    "modules": (
        "jetloom_events_handled_total",
        "jetloom_event_duration_seconds_count",
        "jetloom_requests_total",
        "jetloom_request_duration_seconds_count",
        "jetloom_steps_total",
        "jetloom_step_duration_seconds_count",
        "jetloom_dead_letters_total",
        "jetloom_keyed_active_ratio",
        "jetloom_nats_connected_ratio",
        "jetloom_lock_wait_seconds_count",
    ),
}
"""What each process must have counted after the traffic, as PromQL finds it."""


def tool(root: Path, name: str) -> str:
    found = shutil.which(name) or shutil.which(str(root / ".cache/prometheus/usr/bin" / name))
    if found is None:
        pytest.skip(f"{name} is not here: scripts/prometheus.sh fetches it")
    return found


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        body: bytes = answer.read()
        return body


@asynccontextmanager
async def process(*command: str, root: Path, ready: bytes) -> AsyncGenerator[str]:
    """A process, once it has printed `ready`: that line. It gets SIGTERM at the end."""
    child = await asyncio.create_subprocess_exec(
        *command,
        cwd=root,
        env={**os.environ, "JETLOOM_HTTP_HOST": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert child.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while ready not in (line := await child.stdout.readline()):
                assert line, f"{command[0]} ended early"
        draining = asyncio.ensure_future(child.stdout.read())
        yield line.decode()
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        await child.wait()
    await draining


def jetloom(url: str, *targets: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "jetloom", "run", *targets, "--nats", url, "--json")


async def test_prometheus_scrapes_processes(tmp_path: Path, repo_root: Path) -> None:
    """Two processes with traffic: `promtool check metrics` is clean, and PromQL finds every series above zero."""
    prometheus, promtool = tool(repo_root, "prometheus"), tool(repo_root, "promtool")
    server = EmbeddedServer(tmp_path / "nats", 0)
    await server.start()
    engine = jetloom(server.url, "services/joined/workflows", "--engine")
    modules = jetloom(server.url, "services.joined")
    try:
        async with (
            process(*engine, root=repo_root, ready=b"nats_url") as first,
            process(*modules, root=repo_root, ready=b"nats_url") as second,
        ):
            at = {"engine": json.loads(first)["http_url"], "modules": json.loads(second)["http_url"]}
            await _traffic(server.url)
            for url in at.values():
                checked = await asyncio.create_subprocess_exec(
                    promtool, "check", "metrics", stdin=-1, stdout=-1, stderr=-1
                )
                out, error = await checked.communicate(await asyncio.to_thread(get, f"{url}/metrics"))
                assert (checked.returncode, out, error) == (0, b"", b"")
            config = tmp_path / "prometheus.yml"
            config.write_text(json.dumps(_config(at)))
            port = _free_port()
            command = (prometheus, f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'tsdb'}")
            listen = f"--web.listen-address=127.0.0.1:{port}"
            async with process(*command, listen, root=tmp_path, ready=b"ready to receive web requests"):
                await _found(f"http://127.0.0.1:{port}")
    finally:
        await server.stop()


async def _traffic(url: str) -> None:
    transport = await connect(url)
    names = Names("jetloom")
    rpc = Rpc(transport, names, SYSTEM_CLOCK, Metrics(process=False))
    for number in range(20):
        await rpc.call("intake", "place", {"order": f"o-{number}", "total": 500})
    await transport.append(names.event("joined.order.validated"), b"no JSON")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (state := await transport.stream_state(names.events_stream)) is None or state.messages < 101:
            await asyncio.sleep(0.05)
    await transport.close()


def _config(at: dict[str, str]) -> dict[str, Any]:
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [urllib.parse.urlsplit(url).netloc]}]}
        for job, url in at.items()
    ]
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}


async def _found(url: str) -> None:
    """Waits until every series is above zero, as PromQL says."""
    left = {(job, name) for job, names in SERIES.items() for name in names}
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while left:
                for job, name in sorted(left):
                    query = urllib.parse.urlencode({"query": f'sum({name}{{job="{job}"}}) > 0'})
                    answer = json.loads(await asyncio.to_thread(get, f"{url}/api/v1/query?{query}"))
                    if answer["data"]["result"]:
                        left.discard((job, name))
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"Prometheus never found {sorted(left)}")


def _free_port() -> int:
    import socket

    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
        return port
