"""The same connection through nats-py's public interface only: to compare with, and to fall back on.

Everything goes through one queue and one task that calls nats-py in order, because subscribing and publishing wait
there and must not overtake each other. Where nats-py decides, it differs from the hot path: what nats-py itself has
buffered at a disconnect is sent after it, some errors of the server close the connection for good, and a message costs
two to four times as much.
"""

# nats-py leaves some of its types partly unknown.
# pyright: reportUnknownMemberType=false
from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, NamedTuple

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from ._link import PENDING_BYTES_MAX, Answers, Collect, NoAnswer, Received, ignore
from ._wire import NO_HEAD, Head, check_subject, parse_head

logger = logging.getLogger("jetloom.transport")

CROWDED_PAUSE = 0.001
CLOSE_SECONDS = 2.0


class _Publish(NamedTuple):
    subject: str
    reply: str
    block: bytes
    data: bytes


class _Subscribe(NamedTuple):
    sid: int
    subject: str
    received: Received
    queue: str


class _Unsubscribe(NamedTuple):
    sid: int


type _Command = _Publish | _Subscribe | _Unsubscribe


class PlainLink:
    """One connection. See `Link`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self.closing = False
        self.on_lost = ignore
        self.answers = Answers(self._loop)
        self._inbox = ""
        self._sid = 0
        self._wanted: set[int] = set()
        self._subscriptions: dict[int, NatsSubscription] = {}
        self._commands: deque[_Command] = deque()
        self._bytes = 0
        self._more = asyncio.Event()
        self._losses = 0
        self._task = self._loop.create_task(self._work(), name="plain-link")

    @property
    def client(self) -> Client:
        return self._client

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    def server_info(self) -> dict[str, Any]:
        # The only word of nats-py's about its server that is not public; the port tells what the server can do.
        return self._client._server_info  # pyright: ignore[reportPrivateUsage]

    # -- sending
    def send(self, subject: str, reply: str, block: bytes, data: bytes) -> None:
        check_subject(subject)
        if reply:
            check_subject(reply)
        if self.is_connected:
            self._bytes += len(block) + len(data)
            self._do(_Publish(subject, reply, block, data))

    def _do(self, command: _Command) -> None:
        self._commands.append(command)
        self._more.set()

    async def room(self, size: int) -> None:
        losses = self._losses
        while self.is_connected and self._losses == losses:
            if self._bytes + self._client.pending_data_size <= PENDING_BYTES_MAX:
                return
            await asyncio.sleep(CROWDED_PAUSE)
        raise NoAnswer("gone")

    async def ask(
        self, subject: str, block: bytes, data: bytes, timeout: float, collect: Collect | None = None
    ) -> tuple[Head, bytes]:
        await self.room(len(data))
        check_subject(subject)
        number, future = self.answers.add(subject, timeout, collect)
        self.send(subject, f"{self._inbox}.{number}", block, data)
        try:
            return await future
        finally:
            self.answers.waiting.pop(number, None)

    async def barrier(self, timeout: float) -> None:
        if not self.is_connected:
            raise NoAnswer("gone")
        number, future = self.answers.add(self._inbox, timeout, None)
        self.send(f"{self._inbox}.{number}", "", b"", b"")
        try:
            await future
        finally:
            self.answers.waiting.pop(number, None)

    # -- subscriptions
    def expect_answers(self, inbox: str) -> None:
        self._inbox = inbox

        def received(subject: str, reply: str, head: Head, data: bytes) -> None:
            self.answers.settle(int(subject[len(inbox) + 1 :]), head, data)

        self.listen(f"{inbox}.*", received)

    def listen(self, subject: str, received: Received, queue: str = "") -> int:
        check_subject(subject)
        if queue:
            check_subject(queue)
        self._sid += 1
        self._wanted.add(self._sid)
        self._do(_Subscribe(self._sid, subject, received, queue))
        return self._sid

    def silence(self, sid: int) -> None:
        self._do(_Unsubscribe(sid))

    def forget(self, sid: int) -> None:
        if sid in self._wanted:
            self._wanted.discard(sid)
            self._do(_Unsubscribe(sid))

    # -- the task
    async def _work(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            while self._commands:
                command = self._commands.popleft()
                try:
                    await self._run(command)
                except NatsError as error:
                    # A lost connection fails those who wait; what nobody waits for may be lost.
                    logger.debug("nats-py refused a command", extra={"error": str(error)})

    async def _run(self, command: _Command) -> None:
        client = self._client
        match command:
            case _Publish(subject, reply, block, data):
                self._bytes -= len(block) + len(data)
                if client.is_connected:
                    headers = dict(parse_head(block).headers) if block else None
                    await client.publish(subject, data, reply, headers)
            case _Subscribe(sid, subject, received, queue):
                if sid in self._wanted:
                    self._subscriptions[sid] = await client.subscribe(
                        subject, queue, cb=self._callback(sid, received)
                    )
            case _Unsubscribe(sid):
                subscription = self._subscriptions.pop(sid, None)
                if subscription is not None:
                    # nats-py's own `unsubscribe` drops what has arrived and is not handled yet.
                    await subscription.drain()

    def _callback(self, sid: int, received: Received) -> Any:
        async def arrived(message: Msg) -> None:
            if sid not in self._wanted:
                return
            try:
                received(message.subject, message.reply, _head(message), message.data)
            except Exception:
                # As on the hot path: a handler's bug ends nothing but itself.
                logger.exception("a message handler failed", extra={"subject": message.subject})

        return arrived

    # -- the connection
    def lose(self) -> None:
        """The connection is gone: what was queued is discarded, every unanswered call fails."""
        self._losses += 1
        self._bytes = 0
        self._commands = deque(one for one in self._commands if not isinstance(one, _Publish))
        self.answers.fail_all()
        self.on_lost()

    async def close(self) -> None:
        while self._commands and self.is_connected:
            await asyncio.sleep(CROWDED_PAUSE)
        self._task.cancel()
        await asyncio.wait([self._task])
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.close()
        except TimeoutError:
            logger.warning("the connection did not take the rest of what was to be sent")
        self.answers.fail_all()


def _head(message: Msg) -> Head:
    """nats-py puts the status line of a control message among the headers."""
    headers = message.headers
    if not headers:
        return NO_HEAD
    status = headers.get("Status", "")
    if not status.isdecimal():
        return Head(0, "", headers)
    rest = {name: value for name, value in headers.items() if name not in ("Status", "Description")}
    return Head(int(status), headers.get("Description", ""), rest)
