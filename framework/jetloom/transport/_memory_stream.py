"""A stream of the memory twin: what is stored, and when it leaves."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from jetloom.errors import ConditionFailed, OutcomeUnknown, Refused
from jetloom.transport._memory_schedules import next_due, rfc3339
from jetloom.transport._memory_subjects import any_matcher, has_wildcard, matcher, transformer
from jetloom.transport._port import GROUP_MAX, Appended, Stored, StreamAsset, StreamState

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol

    from jetloom.transport._memory_consumer import MemoryConsumer
    from jetloom.transport._memory_faults import Faults

    class Host(Protocol):
        """What a stream and a consumer ask of the server that holds them."""

        faults: Faults | None

        def now(self) -> float: ...
        def call_later(
            self, seconds: float, callback: Callable[..., object], *args: object
        ) -> asyncio.TimerHandle: ...
        def advise(self, subject: str, body: dict[str, object]) -> None: ...


CHANGES_MAX = 256
"""How far back a stale read can look: above what a follower lags in practice, and bounded."""

SCHEDULE_LATE_SECONDS = 0.25
"""What is already due when it is scheduled fires after this time on a real server (measured)."""

_SCHEDULER_HEADERS = frozenset({"Nats-Msg-Id", "Nats-TTL", "Nats-Rollup"})


class Conditions(NamedTuple):
    """What a message asks of the stream besides being stored; the parsed form of its `Nats-…` headers."""

    expected: int | None = None
    message_id: str = ""
    ttl: float | None = None
    rollup: bool = False
    rule: str = ""
    target: str = ""
    zone: str = ""


class _Change(NamedTuple):
    added: bool
    message: Stored


class MemoryStream:
    def __init__(self, host: Host, asset: StreamAsset) -> None:
        self.asset = asset
        self.accepts = any_matcher(asset.subjects) if asset.subjects else _nothing
        self.messages: dict[int, Stored] = {}
        self.subjects: dict[str, dict[int, Stored]] = {}
        self.last = 0
        self.consumers: dict[str, MemoryConsumer] = {}
        self.listeners: list[Callable[[Stored], None]] = []
        self._host = host
        self._size = 0
        self._remembered: dict[str, tuple[int, float]] = {}
        self._expiries: list[tuple[float, int]] = []
        self._changes: deque[_Change] = deque(maxlen=CHANGES_MAX)
        self._closed = False

    # -- writing

    def append(
        self,
        subject: str,
        data: bytes,
        headers: Mapping[str, str],
        conditions: Conditions | None = None,
    ) -> Appended:
        """Stores a message. Raises `ConditionFailed`, `Refused`, and `OutcomeUnknown` when the stream is full."""
        asset, now = self.asset, self._host.now()
        if conditions is not None:
            self._check(subject, conditions)
            if conditions.expected is not None:
                held = self.subjects.get(subject)
                actual = next(reversed(held)) if held else 0
                if actual != conditions.expected:
                    raise ConditionFailed(subject, conditions.expected, actual)
            if conditions.message_id:
                known = self._known(conditions.message_id, now)
                if known:
                    return Appended(asset.name, known, duplicate=True)
        size = _size(subject, data, headers)
        if asset.bytes_max >= 0 and self._size + size > asset.bytes_max:
            if asset.discard == "new":
                # The server's code says "try again": there may be room later.
                raise OutcomeUnknown(subject, "maximum bytes exceeded (10077)")
            while self.messages and self._size + size > asset.bytes_max:
                self.delete(next(iter(self.messages)))
        self.last = sequence = self.last + 1
        message = Stored(subject, sequence, data, headers, now)
        self.messages[sequence] = message
        held = self.subjects.get(subject)
        if held is None:
            self.subjects[subject] = held = {}
        held[sequence] = message
        self._size += size
        if self._host.faults is not None:
            self._changes.append(_Change(True, message))
        if conditions is not None:
            self._arrange(message, held, conditions)
        if asset.age_max:
            self._expire_at(now + asset.age_max, sequence)
        if 0 < asset.messages_per_subject_max < len(held):
            self.delete(next(iter(held)))
        for consumer in tuple(self.consumers.values()):
            consumer.offer(message)
        for listener in tuple(self.listeners):
            listener(message)
        return Appended(asset.name, sequence)

    def check_group(self, rows: Sequence[tuple[str, bytes, Mapping[str, str], Conditions]]) -> None:
        """Raises what would refuse any of these: then none of them is stored."""
        asset = self.asset
        if not asset.atomic:
            raise Refused(rows[0][0], 10174, "atomic publish is disabled")
        if len(rows) > GROUP_MAX:
            raise Refused(rows[0][0], 10199, f"atomic publish batch is too large: {len(rows)}")
        size = 0
        for subject, data, headers, conditions in rows:
            self._check(subject, conditions)
            size += _size(subject, data, headers)
            held = self.subjects.get(subject)
            actual = next(reversed(held)) if held else 0
            if conditions.expected is not None and actual != conditions.expected:
                raise ConditionFailed(subject, conditions.expected, actual)
        if asset.bytes_max >= 0 and asset.discard == "new" and self._size + size > asset.bytes_max:
            raise OutcomeUnknown(rows[0][0], "maximum bytes exceeded (10077)")

    def _check(self, subject: str, conditions: Conditions) -> None:
        asset = self.asset
        if conditions.ttl is not None:
            if conditions.ttl < 1:
                raise Refused(subject, 10165, "invalid per-message TTL")
            if not asset.ttl:
                raise Refused(subject, 10166, "per-message TTL is disabled")
        # Schedules switch rollups on.
        if conditions.rollup and not (asset.rollup or asset.schedules):
            raise Refused(subject, 10111, "rollup not permitted")
        if not conditions.rule:
            return
        if not asset.schedules:
            raise Refused(subject, 10188, "message schedules is disabled")
        next_due(subject, conditions.rule, conditions.zone, self._host.now())
        target = conditions.target
        if not target or target == subject or has_wildcard(target) or not self.accepts(target):
            raise Refused(subject, 10190, "message schedules target is invalid")

    def _known(self, message_id: str, now: float) -> int:
        remembered, horizon = self._remembered, now - self.asset.duplicate_window
        while remembered:
            oldest = next(iter(remembered))
            if remembered[oldest][1] > horizon:
                break
            del remembered[oldest]
        return remembered.get(message_id, (0, 0.0))[0]

    def _arrange(self, message: Stored, held: dict[int, Stored], conditions: Conditions) -> None:
        sequence = message.sequence
        if conditions.message_id:
            self._remembered[conditions.message_id] = (sequence, message.at)
        if conditions.ttl is not None:
            self._expire_at(message.at + conditions.ttl, sequence)
        if (conditions.rollup or conditions.rule) and len(held) > 1:
            for older in [one for one in held if one != sequence]:
                self.delete(older)
        if conditions.rule:
            self._schedule(message, message.at)

    # -- leaving

    def delete(self, sequence: int) -> bool:
        message = self.messages.pop(sequence, None)
        if message is None:
            return False
        held = self.subjects[message.subject]
        del held[sequence]
        if not held:
            del self.subjects[message.subject]
        self._size -= _size(message.subject, message.data, message.headers)
        if self._host.faults is not None:
            self._changes.append(_Change(False, message))
        for consumer in self.consumers.values():
            consumer.gone(sequence)
        return True

    def purge(self, pattern: str) -> int:
        doomed = [message.sequence for message in self._matching(pattern)]
        for sequence in doomed:
            self.delete(sequence)
        return len(doomed)

    def close(self) -> None:
        """Ends its timers: what they find when they fire is a closed stream."""
        self._closed = True
        for consumer in tuple(self.consumers.values()):
            consumer.close()

    def _expire_at(self, when: float, sequence: int) -> None:
        earliest = self._expiries[0][0] if self._expiries else None
        heappush(self._expiries, (when, sequence))
        if earliest is None or when < earliest:
            self._host.call_later(when + self._late("expiry") - self._host.now(), self._expire)

    def _expire(self) -> None:
        now, expiries = self._host.now() + 1e-6, self._expiries
        while expiries and expiries[0][0] <= now and not self._closed:
            self.delete(heappop(expiries)[1])
        if expiries and not self._closed:
            self._host.call_later(expiries[0][0] + self._late("expiry") - now, self._expire)

    # -- schedules

    def _schedule(self, message: Stored, after: float) -> None:
        headers = message.headers
        due, again = next_due(
            message.subject, headers["Nats-Schedule"], headers.get("Nats-Schedule-Time-Zone", ""), after
        )
        wait = due - self._host.now()
        late = SCHEDULE_LATE_SECONDS if wait <= 0 else self._late("schedule")
        self._host.call_later(max(wait, 0) + late, self._fire, message, due, again)

    def _fire(self, message: Stored, due: float, again: bool) -> None:
        if self._closed or message.sequence not in self.messages:
            return
        headers = {
            name: value
            for name, value in message.headers.items()
            if name not in _SCHEDULER_HEADERS and not name.startswith(("Nats-Schedule", "Nats-Expected"))
        }
        headers["Nats-Scheduler"] = message.subject
        coming = ""
        if again:
            zone = message.headers.get("Nats-Schedule-Time-Zone", "")
            coming = rfc3339(next_due(message.subject, message.headers["Nats-Schedule"], zone, due)[0])
        headers["Nats-Schedule-Next"] = coming or "purge"
        target = message.headers["Nats-Schedule-Target"]
        if again:
            self._schedule(message, due)
        else:
            self.delete(message.sequence)
        self.append(target, message.data, headers)

    # -- reading

    def last_of(self, subject: str) -> Stored | None:
        held = self.subjects.get(subject)
        if held:
            return held[next(reversed(held))]
        if has_wildcard(subject):
            found = self._matching(subject)
            return found[-1] if found else None
        return None

    def last_per_subject(self, pattern: str) -> list[Stored]:
        """The last message of each subject that matches, in order."""
        matches = matcher(pattern)
        found = [held[next(reversed(held))] for subject, held in self.subjects.items() if matches(subject)]
        return sorted(found, key=_by_sequence)

    def read(self, pattern: str, after: int, limit: int) -> list[Stored]:
        return self._matching(pattern, after, limit)

    def past(self, changes: int) -> dict[int, Stored]:
        """The messages as they were `changes` changes ago, in order."""
        view = dict(self.messages)
        undone = list(self._changes)[-changes:]
        for added, message in reversed(undone):
            if added:
                view.pop(message.sequence, None)
            else:
                view[message.sequence] = message
        return dict(sorted(view.items()))

    def state(self) -> StreamState:
        first = next(iter(self.messages), self.last + 1 if self.last else 0)
        return StreamState(len(self.messages), self._size, first, self.last)

    def _matching(self, pattern: str, after: int = 0, limit: int = 1 << 62) -> list[Stored]:
        held = self.subjects.get(pattern)
        if held is not None:
            found = held.values() if not after else [one for one in held.values() if one.sequence > after]
            return list(found)[:limit]
        if not has_wildcard(pattern):
            return []
        matches, found = matcher(pattern), list[Stored]()
        if self.last - after > 2 * len(self.messages):
            candidates = [one for one in self.messages.values() if one.sequence > after]
        else:
            messages = self.messages
            candidates = [messages[one] for one in range(after + 1, self.last + 1) if one in messages]
        for message in candidates:
            if matches(message.subject):
                found.append(message)
                if len(found) >= limit:
                    break
        return found

    # -- restarts

    def restart(self) -> None:
        """What a server that was killed finds in its store: every message, and ids of those still stored only."""
        self._remembered = {
            message_id: entry for message_id, entry in self._remembered.items() if entry[0] in self.messages
        }
        for consumer in self.consumers.values():
            consumer.restart()

    def _late(self, what: str) -> float:
        faults = self._host.faults
        if faults is None:
            return 0.0
        return faults.lateness("schedule" if what == "schedule" else "expiry")


class SourceLink:
    """Copies from one stream into another: each message once, in order, a moment later."""

    def __init__(
        self, host: Host, origin: MemoryStream, target: MemoryStream, transforms: tuple[tuple[str, str], ...]
    ) -> None:
        self._host = host
        self._origin = origin
        self._target = target
        self._rules = [(source, dest, transformer(source, dest)) for source, dest in transforms]
        self._cursor = 0
        self._armed = False
        origin.listeners.append(self._stored)
        if origin.messages:
            self._arm()

    @property
    def lag(self) -> int:
        return sum(1 for sequence in self._origin.messages if sequence > self._cursor)

    def close(self) -> None:
        if self._stored in self._origin.listeners:
            self._origin.listeners.remove(self._stored)

    def _stored(self, message: Stored) -> None:
        if not self._armed:
            self._arm()

    def _arm(self) -> None:
        self._armed = True
        faults = self._host.faults
        self._host.call_later(faults.lateness("source") if faults is not None else 0.0, self._pump)

    def _pump(self) -> None:
        self._armed = False
        origin = self._origin
        for sequence in range(self._cursor + 1, origin.last + 1):
            message = origin.messages.get(sequence)
            if message is not None:
                self._copy(message)
        self._cursor = origin.last

    def _copy(self, message: Stored) -> None:
        name = self._origin.asset.name
        for source, dest, rewrite in self._rules or [(">", ">", None)]:
            subject = rewrite(message.subject) if rewrite is not None else message.subject
            if subject is None:
                continue
            headers = {
                header: value
                for header, value in message.headers.items()
                if not header.startswith(("Nats-Expected", "Nats-Batch"))
            }
            headers["Nats-Stream-Source"] = (
                f"{name} {message.sequence} {source} {dest} {message.subject} memory"
            )
            self._target.append(subject, message.data, headers)
            return


def _nothing(subject: str) -> bool:
    return False


def _by_sequence(message: Stored) -> int:
    return message.sequence


def _size(subject: str, data: bytes, headers: Mapping[str, str]) -> int:
    size = len(subject) + len(data) + 22
    if headers:
        size += 16 + sum(len(name) + len(value) + 4 for name, value in headers.items())
    return size
