"""The worker that imports nothing of jetloom keeps the worker contract, as a process, on a real server."""

# nats-py annotates its options partly.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import ast
import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError

NAMESPACE = f"labels-{os.getpid()}"
TASKS, MAILBOX = f"{NAMESPACE.upper()}_TASKS", f"{NAMESPACE.upper()}_MAILBOX"
CONSUMER = "task-labels=2Eprint"
ACK_WAIT_SECONDS = 1.0


class Shop:
    """Streams as engines would make them, and the worker as a process."""

    def __init__(self, nc: Client, worker: asyncio.subprocess.Process) -> None:
        self.nc = nc
        self.js = JetStreamContext(nc)
        self.worker = worker

    async def send(self, attempt: int, given: object) -> None:
        headers = {
            "Jetloom-V": "1",
            "Jetloom-Run": "order-1",
            "Jetloom-Inc": "5",
            "Jetloom-Step": "label",
            "Jetloom-Attempt": str(attempt),
            "Jetloom-Handler": "labels.print",
            "Jetloom-Key": "order-1.5.label",
            "Jetloom-Reply": reply(attempt),
        }
        subject = f"{NAMESPACE}.task.labels.print.order-1.5.label.{attempt}"
        await self.js.publish(subject, json.dumps({"input": given}).encode(), headers=headers)

    async def result(self, attempt: int) -> dict[str, Any]:
        await until(lambda: self._has(attempt))
        return json.loads((await self.js.get_last_msg(MAILBOX, reply(attempt))).data or b"")

    async def _has(self, attempt: int) -> bool:
        try:
            await self.js.get_last_msg(MAILBOX, reply(attempt))
        except NotFoundError:
            return False
        return True

    async def tasks(self) -> int:
        return (await self.js.stream_info(TASKS)).state.messages

    async def results(self) -> int:
        return (await self.js.stream_info(MAILBOX)).state.messages


def reply(attempt: int) -> str:
    return f"{NAMESPACE}.mailbox.0.order-1.result.labels.print.5.label.{attempt}"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def shop(nats_url: str, root: Path) -> AsyncGenerator[Shop]:
    nc = Client()
    await nc.connect(nats_url)
    js = JetStreamContext(nc)
    environment = {**os.environ, "NATS_URL": nats_url, "JETLOOM_NAMESPACE": NAMESPACE}
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.labels.worker", cwd=root, env=environment
    )
    try:
        await js.add_stream(
            name=TASKS, subjects=[f"{NAMESPACE}.task.>"], retention=api.RetentionPolicy.WORK_QUEUE
        )
        await js.add_stream(name=MAILBOX, subjects=[f"{NAMESPACE}.mailbox.>"])
        config = api.ConsumerConfig(
            durable_name=CONSUMER,
            filter_subject=f"{NAMESPACE}.task.labels.print.*.*.*.*",
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_SECONDS,
        )
        await js.add_consumer(TASKS, config)
        yield Shop(nc, worker)
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
        for stream in (TASKS, MAILBOX):
            await js.delete_stream(stream)
        await nc.close()


def test_imports_nothing_of_jetloom(repo_root: Path) -> None:
    """Neither the worker nor the bookkeeper imports jetloom, directly or through a neighbour."""
    for path in (
        "labels/worker.py",
        "labels/__init__.py",
        "demo/books.py",
        "demo/_reading.py",
        "demo/__init__.py",
    ):
        tree = ast.parse((repo_root / "services" / path).read_text(encoding="utf-8"))
        imported = {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in imported if name.split(".")[0] == "jetloom"], path


async def test_answers_then_acknowledges(nats_url: str, repo_root: Path) -> None:
    """A task gets one result, also a bad one; the same attempt sent again adds none; SIGTERM ends the worker."""
    async with shop(nats_url, repo_root) as it:
        await it.send(1, {"order": "1", "address": "1 Loom Street"})
        await it.send(2, {"order": "1", "address": "x" * 61})
        await it.send(3, 7)
        answers = [await it.result(attempt) for attempt in (1, 2, 3)]
        assert [answer["outcome"] for answer in answers] == ["ok", "error", "error"]
        assert [answer["error"]["code"] for answer in answers[1:]] == ["label.unprintable", "label.bad_input"]
        assert {answer["error"]["class"] for answer in answers[1:]} == {"terminal"}
        await it.send(1, {"order": "1", "address": "another"})

        async def no_tasks() -> bool:
            return await it.tasks() == 0

        await until(no_tasks)
        assert await it.results() == 3
        assert await it.result(1) == answers[0]
        it.worker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await it.worker.wait() == 0


async def test_asks_before_it_repeats(nats_url: str, repo_root: Path) -> None:
    """A task that is delivered a second time and is settled is acknowledged, and its body does not run."""
    async with shop(nats_url, repo_root) as it:
        await it.send(1, {"order": "1", "address": "1 Loom Street"})
        await it.result(1)
        # A worker takes the task and dies: this client, which never acknowledges.
        it.worker.send_signal(signal.SIGSTOP)

        async def nobody_pulls() -> bool:
            return (await it.js.consumer_info(TASKS, CONSUMER)).num_waiting == 0

        await until(nobody_pulls)
        await it.send(2, {"order": "1", "address": "1 Loom Street"})
        dead = await it.js.pull_subscribe_bind(CONSUMER, TASKS)
        [taken] = await dead.fetch(1, timeout=10)
        assert taken.metadata.num_delivered == 1
        asked: list[dict[str, Any]] = []

        async def settled(question: Msg) -> None:
            asked.append(json.loads(question.data))
            await question.respond(b'{"settled": true}')

        await it.nc.subscribe(f"{NAMESPACE}.engine.settled", cb=settled)
        it.worker.send_signal(signal.SIGCONT)

        async def no_tasks() -> bool:
            return await it.tasks() == 0

        await until(no_tasks)
        assert asked == [
            {"run": "order-1", "inc": 5, "step": "label", "attempt": 2, "handler": "labels.print"}
        ]
        assert await it.results() == 1
