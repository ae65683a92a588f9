"""`make demo`, small: real processes, an engine and a service killed, and the books right."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

SECONDS = 110


async def run_demo(root: Path, *options: str) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "NATS_URL"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.demo",
        *options,
        cwd=root,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, error = await process.communicate()
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await process.wait()
    return process.returncode or 0, out.decode(), error.decode()


@pytest.mark.timeout(SECONDS + 10)
async def test_demo_survives_two_kills(repo_root: Path) -> None:
    """Forty orders, an engine and a service killed half way: every order ends as expected, and the books are right."""
    code, out, error = await run_demo(repo_root, "--orders", "40", "--json", "--seed", "7")
    assert code == 0, f"{out}\n{error}"
    report = json.loads(out)
    assert report["orders"] == 40
    assert report["wrong"] == []
    assert len(report["kills"]) == 2
    assert all("under way" in line for line in report["kills"])
    assert sum(report["ends"].values()) == 40
    assert report["timeline"]["entries"]


@pytest.mark.timeout(SECONDS + 10)
async def test_wrong_options(repo_root: Path) -> None:
    """More orders than there are is bad input."""
    code, _, error = await run_demo(repo_root, "--orders", "301")
    assert code == 2
    assert "--orders must be 0 to 300" in error
