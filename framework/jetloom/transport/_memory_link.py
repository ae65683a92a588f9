"""One connection between a client and the memory server, from connect to disconnect: two ordered pipes with latency."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jetloom.errors import Disconnected, JetloomError, OutcomeUnknown, RequestTimeout
from jetloom.transport._memory_faults import NO_TROUBLE, Fate, Op, OpKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Context

    from jetloom.transport._memory_server import MemoryServer

_SERVER_CONTEXT_WRITES: frozenset[OpKind] = frozenset({"append", "delete", "purge"})


def failure(kind: OpKind, subject: str, reason: str, seconds: float = 0.0) -> JetloomError:
    """How an operation without an answer ends for its caller."""
    if kind in _SERVER_CONTEXT_WRITES:
        return OutcomeUnknown(subject, reason)
    return RequestTimeout(subject, seconds) if seconds else Disconnected(subject)


class Link:
    """Ended by either side: what is under way then is lost in one direction or both.

    `up` is the server's view. `open` is the client's, which notices the end when its process runs, after what was
    received before. `lost`: not even what was already sent arrives any more.
    """

    def __init__(
        self, server: MemoryServer, name: str, context: Context, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.name = name
        self.open = True
        self.up = True
        self.lost = False
        self._server = server
        self._context = context
        self._loop = loop
        self._waiting: dict[asyncio.Future[Any], Op] = {}
        self._there_at = 0.0
        self._back_at = 0.0
        self._serial = 0

    # -- to the server

    def op(self, kind: OpKind, subject: str) -> Op:
        self._serial += 1
        return Op(kind, self.name, subject, self._serial)

    def fire(self, op: Op, apply: Callable[[], object]) -> None:
        """Sends a command that nobody waits for. Never raises."""
        if self.open:
            fate = self._fate(op)
            if fate.trouble != "lost":
                self._depart(fate, self._arrive_unanswered, op, apply, fate)

    async def call[T](self, op: Op, apply: Callable[[], T], timeout: float) -> T:
        """Sends a command and waits for its answer: what `apply` returns or raises at the server."""
        if not self.open:
            await asyncio.sleep(0)
            raise failure(op.kind, op.subject, "disconnected")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting[future] = op
        fate = self._fate(op)
        deadline = self._loop.time() + timeout
        if fate.trouble or fate.think:
            self._end_at(deadline, future, op, timeout)
        if fate.trouble != "lost":
            at = self._depart(fate, self._arrive, op, apply, fate, future, deadline)
            if at >= deadline:
                self._end_at(deadline, future, op, timeout)
        try:
            return await future
        finally:
            self._waiting.pop(future, None)

    def wait_for(self, future: asyncio.Future[Any], op: Op) -> None:
        """Fails the future at a disconnect; its owner calls `forget` when it is done."""
        self._waiting[future] = op

    def forget(self, future: asyncio.Future[Any]) -> None:
        self._waiting.pop(future, None)

    def _fate(self, op: Op) -> Fate:
        faults = self._server.faults
        return NO_TROUBLE if faults is None else faults.fate(op)

    def _depart(self, fate: Fate, arrive: Callable[..., object], *args: object) -> float:
        loop, now = self._loop, self._loop.time()
        at = max(now + fate.there, self._there_at)
        if at > now:
            self._there_at = at
            loop.call_at(at, arrive, *args, context=self._server.context)
        else:
            loop.call_soon(arrive, *args, context=self._server.context)
        return at

    def _arrive_unanswered(self, op: Op, apply: Callable[[], object], fate: Fate) -> None:
        if self.lost or not self._server.up:
            return
        if fate.trouble == "cut_before":
            self._server.cut(self, fate.down)
            return
        apply()
        faults = self._server.faults
        if faults is not None:
            faults.applied(op)
            if fate.trouble == "cut_after":
                self._server.cut(self, fate.down)

    def _arrive(
        self, op: Op, apply: Callable[[], object], fate: Fate, future: asyncio.Future[Any], deadline: float
    ) -> None:
        if self.lost or not self._server.up:
            return
        if fate.trouble == "cut_before":
            self._server.cut(self, fate.down)
        elif fate.think > 0:
            self._loop.call_later(
                fate.think, self._apply, op, apply, fate, future, deadline, context=self._server.context
            )
        else:
            self._apply(op, apply, fate, future, deadline)

    def _apply(
        self, op: Op, apply: Callable[[], object], fate: Fate, future: asyncio.Future[Any], deadline: float
    ) -> None:
        error: JetloomError | None = None
        result: object = None
        try:
            result = apply()
        except JetloomError as raised:
            error = raised
        faults = self._server.faults
        if faults is not None:
            faults.applied(op)
            if fate.trouble == "cut_after":
                self._server.cut(self, fate.down)
                return
            if fate.trouble == "muted":
                return
        if self.send(fate.back, settle, future, result, error) >= deadline:
            self._end_at(deadline, future, op, deadline - self._loop.time())

    # -- to the client

    def send(self, latency: float, callback: Callable[..., object], *args: object) -> float:
        """Runs `callback` at the client, after what was sent before, unless the connection ends first; when."""
        loop, now = self._loop, self._loop.time()
        at = max(now + latency, self._back_at)
        if not self.up:
            return at
        if at > now:
            self._back_at = at
            loop.call_at(at, self._received, callback, args, context=self._context)
        else:
            loop.call_soon(self._received, callback, args, context=self._context)
        return at

    def transit(self) -> float:
        faults = self._server.faults
        return 0.0 if faults is None else faults.transit(self.name)

    def _received(self, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        if self.open:
            callback(*args)

    def _end_at(self, deadline: float, future: asyncio.Future[Any], op: Op, seconds: float) -> None:
        self._loop.call_at(deadline, self._time_out, future, op, seconds, context=self._context)

    def _time_out(self, future: asyncio.Future[Any], op: Op, seconds: float) -> None:
        if not future.done():
            future.set_exception(failure(op.kind, op.subject, f"no answer within {seconds:g} s", seconds))

    # -- ending

    def detach(self, *, lose_sent: bool) -> None:
        """The server's side of the end. What was sent before still arrives, unless `lose_sent`."""
        self.up = False
        self.lost = self.lost or lose_sent

    def close(self) -> None:
        """The client's side of the end: fails every unanswered call."""
        self.open = False
        waiting, self._waiting = self._waiting, {}
        for future, op in waiting.items():
            if not future.done():
                future.set_exception(failure(op.kind, op.subject, "disconnected"))


def settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    """Ends a future that may have ended already, or belong to a cancelled caller."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
