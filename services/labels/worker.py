"""`python -m services.labels.worker`: serves the step `labels.print` with plain nats-py.

The whole contract is in docs/reference/workers.md; the numbers in the comments are its numbered rules.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

HANDLER = "labels.print"
CONSUMER = "task-labels=2Eprint"
"""`task-` and the handler's name, in which what is not A-Z a-z 0-9 _ - is written =HH."""
LANES = 8
"""Labels printed at the same time: each lane asks for one task, so no task waits in this process."""
PULL_SECONDS = 1.0
"""Bounds how long a stop takes: an idle lane waits this long."""
BEAT_SECONDS = 3.0
"""A third of the consumer's ack wait of 10 s."""
DELIVERIES_MAX = 10
ADDRESS_CHARACTERS_MAX = 60

type Answer = dict[str, Any]


def print_label(order: dict[str, Any], key: str) -> Answer:
    """The step's body. The key is the same for every attempt, so a repeated print is the same label."""
    address = str(order.get("address", ""))
    if len(address) > ADDRESS_CHARACTERS_MAX:
        message = f"the address has {len(address)} characters, a label has room for {ADDRESS_CHARACTERS_MAX}"
        return failed("label.unprintable", message, "terminal")
    return {
        "outcome": "ok",
        "output": {"label": "L-" + hashlib.sha256(key.encode()).hexdigest()[:10].upper()},
    }


def failed(code: str, message: str, error_class: str) -> Answer:
    return {"outcome": "error", "error": {"code": code, "class": error_class, "message": message}}


class Worker:
    """Takes tasks until it is told to stop, then ends the ones in hand."""

    def __init__(self, nc: Client, namespace: str) -> None:
        self._nc = nc
        self._js: JetStreamContext = JetStreamContext(nc)
        self._namespace = namespace
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        tasks = await self._bind()
        if tasks is not None:
            print(f"serving {HANDLER}", flush=True)
            await asyncio.gather(*(self._lane(tasks) for _ in range(LANES)))

    async def _bind(self) -> JetStreamContext.PullSubscription | None:
        """Rule 1: the consumer is made by the engine that knows a workflow which names the handler."""
        stream = f"{self._namespace.upper()}_TASKS"
        while not self._stopping.is_set():
            try:
                await self._js.consumer_info(stream, CONSUMER)
                return await self._js.pull_subscribe_bind(CONSUMER, stream)
            except (NotFoundError, NatsTimeout, NoRespondersError):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), 0.25)
        return None

    async def _lane(self, tasks: JetStreamContext.PullSubscription) -> None:
        while not self._stopping.is_set():
            try:
                [task] = await tasks.fetch(1, timeout=PULL_SECONDS)
            except NatsTimeout:
                continue
            except NatsError as error:
                print(f"pull: {error!r}", file=sys.stderr, flush=True)
                await asyncio.sleep(0.5)
                continue
            try:
                await self._serve(task)
            except (NatsError, APIError) as error:
                # Not acknowledged: it comes again.
                print(f"{task.subject}: {error!r}", file=sys.stderr, flush=True)

    async def _serve(self, task: Msg) -> None:
        beating = asyncio.create_task(self._beat(task))
        try:
            headers = task.headers or {}
            # Rule 3: a task that was delivered before may be over.
            if task.metadata.num_delivered > 1 and await self._settled(headers):
                await task.ack()
                return
            poison = task.metadata.num_delivered > DELIVERIES_MAX  # Rule 8.
            answer = (
                failed("task.poison", "its workers die of it", "retryable") if poison else self._body(task)
            )
            await self._answer(headers["Jetloom-Reply"], answer)
            # Rule 6: the result first, then the ack.
            await task.ack()
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating

    @staticmethod
    def _body(task: Msg) -> Answer:
        try:
            body = cast("dict[str, Any]", json.loads(task.data))
            return print_label(cast("dict[str, Any]", body["input"]), (task.headers or {})["Jetloom-Key"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return failed("label.bad_input", repr(error), "terminal")

    async def _answer(self, reply: str, answer: Answer) -> None:
        """Rule 5: expected sequence 0, so that of several answers to one attempt the first is kept."""
        first = {"Nats-Expected-Last-Subject-Sequence": "0", "Jetloom-V": "1"}
        try:
            await self._js.publish(reply, json.dumps(answer).encode(), headers=first)
        except APIError as error:
            if error.err_code != 10071:
                raise

    async def _settled(self, headers: dict[str, str]) -> bool:
        question = {
            "run": headers["Jetloom-Run"],
            "inc": int(headers["Jetloom-Inc"]),
            "step": headers["Jetloom-Step"],
            "attempt": int(headers["Jetloom-Attempt"]),
            "handler": HANDLER,
        }
        while True:
            try:
                subject = f"{self._namespace}.engine.settled"
                answer = await self._nc.request(subject, json.dumps(question).encode(), timeout=1)
                return bool(json.loads(answer.data)["settled"])
            except (NatsTimeout, NoRespondersError):
                await asyncio.sleep(1)

    async def _beat(self, task: Msg) -> None:
        """Rule 4: says that the task is being worked on, or it is given to another worker."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            await task.in_progress()


async def main() -> None:
    """Serves until SIGTERM or Ctrl-C. `NATS_URL` and `JETLOOM_NAMESPACE` say where."""
    url = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")
    nc = Client()
    await nc.connect(url, name="labels", max_reconnect_attempts=-1, reconnect_time_wait=1)
    worker = Worker(nc, os.environ.get("JETLOOM_NAMESPACE", "jetloom"))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    await worker.run()
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main())
