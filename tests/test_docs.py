"""What the documents show is what happens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

_BLOCK = re.compile(r"<!-- (?P<kind>file: (?P<name>\S+)|serve|run) -->\n```\w*\n(?P<text>.*?)```", re.DOTALL)
LINES_MAX = 30


def blocks(text: str, kind: str) -> list[tuple[str, str]]:
    """Name and text of the marked code blocks of a kind."""
    found = _BLOCK.finditer(text)
    return [(each["name"] or "", each["text"]) for each in found if each["kind"].split(":")[0] == kind]


async def run(command: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    words = shlex.split(command)
    assert words[0] == "jetloom"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *words,
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


def test_example_is_short(repo_root: Path) -> None:
    """The README's example has at most thirty lines."""
    files = blocks((repo_root / "README.md").read_text(encoding="utf-8"), "file")
    lines = [line for _, text in files for line in text.splitlines() if line.strip()]
    assert 0 < len(lines) <= LINES_MAX


@pytest.mark.timeout(90)
async def test_readme_example_runs(repo_root: Path, tmp_path: Path) -> None:
    """The README's files, served and started by the README's commands, give what the README says."""
    text = (repo_root / "README.md").read_text(encoding="utf-8")
    for name, content in blocks(text, "file"):
        (tmp_path / name).write_text(content, encoding="utf-8")
    [(_, serve)] = blocks(text, "serve")
    [(_, commands)] = blocks(text, "run")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
    environment["PYTHONUNBUFFERED"] = "1"
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *shlex.split(serve),
        "--json",
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None
        summary = await read_document(server.stdout)
        environment["NATS_URL"] = str(summary["nats_url"])
        outputs = [await run(command, tmp_path, environment) for command in commands.strip().splitlines()]
        assert [code for code, _ in outputs] == [0, 0], outputs
        assert "Hello, world!" in outputs[0][1]
        assert "completed" in outputs[1][1]
        code, refused = await run("jetloom start greet --input '\"nobody\"' --wait", tmp_path, environment)
        assert code == 1
        assert "nobody is at home" in refused
    finally:
        if server.returncode is None:
            server.send_signal(signal.SIGTERM)
        await server.communicate()


async def read_document(stream: asyncio.StreamReader) -> dict[str, object]:
    """The first JSON document of a stream, on one line or several."""
    text = ""
    async with asyncio.timeout(60):
        while line := await stream.readline():
            text += line.decode()
            try:
                return json.loads(text)
            except json.JSONDecodeError:
                continue
    raise AssertionError(f"the server ended: {text}")
