"""What the port needs of a connection, and the table of those who wait for an answer.

Two implementations: `FastLink` rides on nats-py's connection, `PlainLink` uses nats-py's public interface only. What
both share stands here: who waits, until when, and how waiting ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import Any, Literal, Protocol

from nats.aio.client import Client
from nats.errors import Error as NatsError

from ._wire import Head

logger = logging.getLogger("jetloom.transport")

PENDING_BYTES_MAX = 8 * 1024 * 1024
"""Queued and not handed to the socket: above it senders wait. A socket that takes nothing holds as much again."""

SWEEP_SECONDS = 0.02
"""How late a deadline may be noticed: one sweep of the table serves all that fall due within it."""

type Received = Callable[[str, str, Head, bytes], None]
"""subject, reply, head, data"""

type Collect = Callable[[Head, bytes], bool]
"""Takes one part of an answer; True when it was the last."""

type Waiting = tuple[asyncio.Future[tuple[Head, bytes]], float, str, Collect | None]
"""the caller's future, its deadline in the loop's time, the subject asked, where the parts of the answer go"""


class NoAnswer(Exception):
    """Why a call ended without an answer.

    `late`: not within its time. `gone`: the connection is down. `denied`: the server's permissions forbid it, and it
    was not taken.
    """

    def __init__(self, reason: Literal["late", "gone", "denied"], detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


class Link(Protocol):
    """One connection, as the port's implementation sees it."""

    closing: bool
    """Whether the connection is being closed on purpose."""

    on_lost: Callable[[], None]
    """Called once, at once, when the connection is lost: unanswered calls have failed by then."""

    answers: Answers

    @property
    def is_connected(self) -> bool: ...

    def server_info(self) -> dict[str, Any]:
        """What the server said of itself when it was last connected to."""
        ...

    def expect_answers(self, inbox: str) -> None:
        """Listens on `<inbox>.*`; before the first `ask`."""
        ...

    def send(self, subject: str, reply: str, block: bytes, data: bytes) -> None:
        """Queues a message, in order; never waits. Raises `NameInvalid`."""
        ...

    async def room(self, size: int) -> None:
        """Waits while too much is queued for `size` bytes more.

        Raises `NoAnswer` when the connection is down, or is lost meanwhile.
        """
        ...

    async def ask(
        self, subject: str, block: bytes, data: bytes, timeout: float, collect: Collect | None = None
    ) -> tuple[Head, bytes]:
        """Sends with a reply subject of its own, and waits: for the answer, or the last part of it.

        Raises `NoAnswer`, `NameInvalid`. A cancelled caller leaves nothing behind.
        """
        ...

    async def barrier(self, timeout: float) -> None:
        """A message to ourselves: when it is here, the server has read all that was sent before. Raises `NoAnswer`."""
        ...

    def listen(self, subject: str, received: Received, queue: str = "") -> int:
        """Subscribes; the id. Survives reconnects."""
        ...

    def silence(self, sid: int) -> None:
        """Tells the server to send no more; what is on its way still reaches the handler, until `forget`."""
        ...

    def forget(self, sid: int) -> None: ...

    async def close(self) -> None:
        """Hands what is queued to the socket, and ends."""
        ...


class Answers:
    """Who waits for an answer, by number.

    One timer for all of them: it stands at the earliest deadline, and sweeps. A timer of its own for each call would
    cost as much as the rest of the call.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.waiting: dict[int, Waiting] = {}
        self.last = 0
        self.earliest = inf
        self._timer: asyncio.TimerHandle | None = None

    def add(
        self, subject: str, timeout: float, collect: Collect | None
    ) -> tuple[int, asyncio.Future[tuple[Head, bytes]]]:
        loop = self._loop
        future: asyncio.Future[tuple[Head, bytes]] = loop.create_future()
        deadline = loop.time() + timeout
        self.last = number = self.last + 1
        self.waiting[number] = (future, deadline, subject, collect)
        if deadline < self.earliest:
            self._arm(deadline)
        return number, future

    def settle(self, number: int, head: Head, data: bytes) -> None:
        """An answer, or a part of one, has arrived; possibly for nobody."""
        entry = self.waiting.pop(number, None)
        if entry is None:
            return
        future, _, _, collect = entry
        if collect is not None and not collect(head, data):
            self.waiting[number] = entry
        elif not future.done():
            future.set_result((head, data))

    def fail_all(self) -> None:
        """The connection is gone."""
        waiting, self.waiting = self.waiting, {}
        self._disarm()
        for future, _, _, _ in waiting.values():
            if not future.done():
                future.set_exception(NoAnswer("gone"))

    def deny(self, subject: str, detail: str) -> None:
        """The server refused what was sent on `subject`."""
        for number in [number for number, entry in self.waiting.items() if entry[2] == subject]:
            future = self.waiting.pop(number)[0]
            if not future.done():
                future.set_exception(NoAnswer("denied", detail))

    def _arm(self, deadline: float) -> None:
        self._disarm()
        self.earliest = deadline
        self._timer = self._loop.call_at(deadline, self._sweep)

    def _disarm(self) -> None:
        self.earliest = inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._loop.time()
        self._timer, self.earliest = None, inf
        due: list[int] = []
        earliest = inf
        for number, entry in self.waiting.items():
            if entry[1] <= now:
                due.append(number)
            elif entry[1] < earliest:
                earliest = entry[1]
        for number in due:
            future = self.waiting.pop(number)[0]
            if not future.done():
                future.set_exception(NoAnswer("late"))
        if earliest < inf:
            self._arm(max(earliest, now + SWEEP_SECONDS))


def ignore() -> None:
    """Where a loss is told to while nobody wants to know."""


class GuardedClient(Client):
    """nats-py, which encrypts when the server asks for it, whatever the URL says: what asks for TLS gets it or ends."""

    def _connect_command(self) -> bytes:
        # The last moment before credentials are sent.
        current = self._current_server
        if current is not None and current.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise NatsError(
                "the URL asks for TLS, and the server does not require it: its connections are in clear"
            )
        return super()._connect_command()
