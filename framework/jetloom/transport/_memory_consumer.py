"""A durable pull consumer of the memory twin: what was delivered, what comes again and when."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Protocol

import msgspec

from jetloom.transport._memory_subjects import any_matcher
from jetloom.transport._port import ConsumerAsset, ConsumerState, Delivery, Stored

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from jetloom.transport._memory_stream import Host, MemoryStream

ACK_WAIT_SECONDS = 30.0
"""The server's default, for an asset that says 0."""

_SOON = 1e-6
"""Timers may fire this much early by rounding."""


class PullRequest(Protocol):
    """One open pull request, as the connection that sent it made it."""

    remaining: int
    basis: float

    @property
    def open(self) -> bool:
        """False once its connection is gone or it was ended."""
        ...

    def deliver(self, delivery: Delivery) -> None: ...
    def end(self, missing: bool = False) -> None:
        """Tells the client that nothing more comes; `missing`: because the consumer is gone."""
        ...


class _Pending:
    """A message that was delivered and not acknowledged.

    `deadline` is None while it waits for a pull to take it again. `entry` is the time of its entry in the heap, which
    may be earlier than the deadline: a beat costs no new entry, the old one is put back when it is looked at.
    """

    __slots__ = ("count", "deadline", "delayed", "entry")

    def __init__(self) -> None:
        self.count = 1
        self.deadline: float | None = None
        self.entry: float | None = None
        self.delayed = False


class MemoryConsumer:
    def __init__(self, host: Host, stream: MemoryStream, asset: ConsumerAsset) -> None:
        self.asset = asset
        self._host = host
        self._stream = stream
        self._name = stream.asset.name
        self._matches: Callable[[str], bool] = any_matcher(asset.filters)
        self._work = stream.asset.retention == "workqueue"
        self._cursor = _start(stream, asset)
        self._pending: dict[int, _Pending] = {}
        self._again: deque[int] = deque()
        self._waiting: deque[PullRequest] = deque()
        self._deadlines: list[tuple[float, int]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._delivered = 0
        self._redelivered: set[int] = set()
        self._closed = False
        self._last_pull = host.now()
        if asset.inactive_seconds:
            host.call_later(asset.inactive_seconds, self._look_idle)

    # -- from clients

    def pull(self, request: PullRequest) -> None:
        """Serves the request, or lets it wait; its owner ends it when it expires."""
        self._last_pull = self._host.now()
        self._waiting.append(request)
        self._pump()

    def acknowledge(self, sequence: int) -> None:
        if sequence > self._cursor:
            return
        self._forget(sequence)
        if self._work:
            self._stream.delete(sequence)
        self._pump()

    def refuse(self, sequence: int, delay: float) -> None:
        """A NAK: comes again at once, or after `delay` seconds."""
        pending = self._pending.get(sequence)
        if pending is None:
            return
        if delay > 0:
            if pending.deadline is None:
                self._again.remove(sequence)
            self._set_deadline(sequence, pending, self._host.now() + delay)
        elif pending.deadline is not None:
            pending.deadline = None
            self._again.append(sequence)
            self._pump()

    def progress(self, sequence: int) -> None:
        """A beat: the whole `ack_wait` again. One that already waits to be delivered again keeps waiting."""
        pending = self._pending.get(sequence)
        if pending is not None and pending.deadline is not None:
            self._set_deadline(sequence, pending, self._host.now() + self._wait(pending.count))

    # -- from the stream

    def offer(self, message: Stored) -> None:
        """A message was stored."""
        if not self._matches(message.subject):
            if self._cursor == message.sequence - 1:
                self._cursor = message.sequence
            return
        if self._waiting:
            self._pump()

    def gone(self, sequence: int) -> None:
        """A message left the stream."""
        if sequence in self._pending:
            self._forget(sequence)

    def update(self, asset: ConsumerAsset) -> None:
        """Takes what is declared, apart from the start: what was passed over before stays so."""
        self.asset = msgspec.structs.replace(asset, start=self.asset.start)
        self._matches = any_matcher(asset.filters)
        self._pump()

    def close(self) -> None:
        self._closed = True
        for request in self._waiting:
            request.end(missing=True)
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def restart(self) -> None:
        """After a server's crash: counts and pending messages are there, the pulls are not."""
        self._waiting.clear()

    def state(self) -> ConsumerState:
        messages, matches = self._stream.messages, self._matches
        ahead = sum(1 for one in messages.values() if one.sequence > self._cursor and matches(one.subject))
        waiting = sum(1 for request in self._waiting if request.open)
        return ConsumerState(ahead, len(self._pending), waiting, len(self._redelivered))

    # -- delivering

    def _pump(self) -> None:
        waiting = self._waiting
        while waiting and not self._closed:
            request = waiting[0]
            if not request.open or request.remaining <= 0:
                waiting.popleft()
                continue
            message = self._next()
            if message is None:
                return
            waiting.popleft()
            self._deliver(request, message)
            if request.remaining > 0:
                waiting.append(request)

    def _next(self) -> Stored | None:
        messages = self._stream.messages
        while self._again:
            sequence = self._again.popleft()
            pending = self._pending.get(sequence)
            if pending is None or pending.deadline is not None:
                continue
            if 0 < self.asset.deliveries_max <= pending.count:
                self._exceeded(sequence, pending.count)
                continue
            return messages[sequence]
        if 0 < self.asset.ack_pending_max <= len(self._pending):
            return None
        matches, last = self._matches, self._stream.last
        while self._cursor < last:
            self._cursor += 1
            message = messages.get(self._cursor)
            if message is not None and matches(message.subject):
                return message
        return None

    def _deliver(self, request: PullRequest, message: Stored) -> None:
        sequence, now = message.sequence, self._host.now()
        pending = self._pending.get(sequence)
        if pending is None:
            pending = self._pending[sequence] = _Pending()
        else:
            pending.count += 1
            pending.delayed = False
            self._redelivered.add(sequence)
        count = pending.count
        self._delivered += 1
        self._set_deadline(sequence, pending, now + self._wait(count))
        request.remaining -= 1
        name = self.asset.name
        # The last token is the server's count of messages ahead, which costs a scan here and that nobody reads.
        reply = f"$JS.ACK.{self._name}.{name}.{count}.{sequence}.{self._delivered}.{int(message.at * 1e9)}.0"
        request.deliver(
            Delivery(
                message.subject, message.data, message.headers, self._name, name,
                sequence, count, reply, request.basis, message.at,
            )
        )  # fmt: skip
        faults = self._host.faults
        if faults is not None and faults.repeat(self._name, name, sequence):
            pending.deadline = None
            self._again.append(sequence)

    def _exceeded(self, sequence: int, count: int) -> None:
        self._forget(sequence)
        name = self.asset.name
        self._host.advise(
            f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{self._name}.{name}",
            {"stream": self._name, "consumer": name, "stream_seq": sequence, "deliveries": count},
        )

    # -- deadlines

    def _wait(self, count: int) -> float:
        backoff = self.asset.backoff
        if backoff:
            return backoff[min(count, len(backoff)) - 1]
        return self.asset.ack_wait or ACK_WAIT_SECONDS

    def _forget(self, sequence: int) -> None:
        self._pending.pop(sequence, None)
        self._redelivered.discard(sequence)

    def _set_deadline(self, sequence: int, pending: _Pending, when: float) -> None:
        pending.deadline = when
        if pending.entry is None or when < pending.entry:
            self._enter(sequence, pending, when)
            if self._timer is None or when < self._timer_at:
                self._arm(when)

    def _enter(self, sequence: int, pending: _Pending, when: float) -> None:
        pending.entry = when
        heappush(self._deadlines, (when, sequence))

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._host.call_later(when - self._host.now(), self._lapse)

    def _lapse(self) -> None:
        self._timer = None
        deadlines, now = self._deadlines, self._host.now() + _SOON
        faults = self._host.faults
        while deadlines and deadlines[0][0] <= now:
            when, sequence = heappop(deadlines)
            pending = self._pending.get(sequence)
            if pending is None or pending.entry != when:
                continue
            pending.entry = None
            if pending.deadline is None:
                continue
            if pending.deadline <= now and faults is not None and not pending.delayed:
                pending.delayed = True
                pending.deadline += faults.redelivery_delay(self._name, self.asset.name, sequence)
            if pending.deadline > now:
                self._enter(sequence, pending, pending.deadline)
            else:
                pending.deadline = None
                self._again.append(sequence)
        if deadlines and not self._closed:
            self._arm(deadlines[0][0])
        self._pump()

    def _look_idle(self) -> None:
        idle = self._host.now() - self._last_pull
        waiting = any(request.open for request in self._waiting)
        if self._closed:
            return
        if idle + _SOON >= self.asset.inactive_seconds and not waiting:
            self._stream.consumers.pop(self.asset.name, None)
            self.close()
        else:
            again = self.asset.inactive_seconds - (0 if waiting else idle)
            self._host.call_later(again, self._look_idle)


def _start(stream: MemoryStream, asset: ConsumerAsset) -> int:
    start = asset.start
    if start == "all":
        return 0
    if start == "new":
        return stream.last
    if isinstance(start, float):
        return next((one.sequence - 1 for one in stream.messages.values() if one.at >= start), stream.last)
    return max(int(start) - 1, 0)
