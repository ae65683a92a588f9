"""When something is due: cron lines in a time zone, and intervals. Pure arithmetic on instants.

An *instant* is seconds since the epoch, as a clock gives them. What happens at clock changes:

- A cron line whose minutes and hours don't begin with `*` names times of day, and each is due once a day. One that the
  clock jumps over is due at the moment of the jump (several of them: once). One that comes twice is due the first time.
- Every other cron line follows the hands as they move: `*/5 * * * *` goes on every five minutes through both changes.
  What the clock jumps over is not due, and what comes twice is due twice.
- An interval knows no clock changes: its instants are multiples of it since the epoch, the same for every replica.

When neither the day of the month nor the day of the week begins with `*`, a day that fits one of them is enough.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field

from .errors import InvalidInput, InvariantBroken

INTERVAL_SECONDS_MIN = 1.0
"""A firing is a message, a conditional write and a call; what is more frequent is a loop."""

INTERVAL_SECONDS_MAX = 366 * 86_400.0

MISSED_COUNT_MAX = 1_000
"""Of a cron line's instants that are counted one by one, 20 to 200 µs each: the event loop waits for it."""

GRACE_SECONDS_MAX = 60.0
GRACE_SECONDS_MIN = 1.0
"""Above what the server needs to fire (a quarter of a second) and a replica to take it."""

type Policy = Literal["skip", "once", "all"]

_MICROSECONDS = 1_000_000
_YEAR = 366 * 86_400
_ORIGIN = datetime(1970, 1, 1)
_REFERENCE = 946_684_800.0
_PROBE_SECONDS = 86_400
"""Between two looks at a zone's offset: no zone changes its clocks and back within a day."""

_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_PART = r"\d+(?:\.\d+)?(?:ms|s|m|h|d|w)"
_INTERVAL = re.compile(f"(?:{_PART})+")
_INTERVAL_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)")

_FIELDS: tuple[tuple[Field, str, str, str], ...] = (
    (Field.SECOND, "second", "0-59", "*/10"),
    (Field.MINUTE, "minute", "0-59", "*/5"),
    (Field.HOUR, "hour", "0-23", "8-18"),
    (Field.DAY, "day of month", "1-31, L (the last) or LW (the last working day)", "1,15"),
    (Field.MONTH, "month", "1-12 or JAN-DEC", "JAN,JUL"),
    (Field.DOW, "day of week", "0-7 or SUN-SAT, 5L (the last Friday), MON#1 (the first Monday)", "MON-FRI"),
)
_FORMS = "*, a number, a list 1,2, a range 1-5, a step */5, of "
_EXAMPLE = "*/5 8-18 * * MON-FRI"


class ScheduleInvalid(InvalidInput):
    """A schedule that can't be read: which `field` of it, what was `found` there and what was `expected`."""

    code = "schedule.invalid"

    def __init__(self, spec: str, field: str, found: str, expected: str, example: str) -> None:
        super().__init__(
            f"schedule {spec!r}: {field} is {found!r}, expected {expected}; for example {example}",
            spec=spec,
            field=field,
            found=found,
            expected=expected,
            example=example,
        )


class Tick(msgspec.Struct, frozen=True):
    """One firing of a schedule, as the method that handles it gets it.

    `scheduled` is the instant that it stands for, in the schedule's zone. It is the same for every try and on every
    replica: with `name` it is the idempotency key. `fired` is when the server fired it. `missed` is how many instants
    before it were passed over since the last call (of cron lines at most 1,000 are counted). `manual`: somebody asked
    for it.
    """

    name: str
    scheduled: datetime
    fired: datetime
    missed: int = 0
    manual: bool = False


class Due(NamedTuple):
    """What to do now. Without an `instant` nothing is called, and `handled` is what has been dealt with."""

    instant: float | None
    missed: int
    handled: float


class Schedule:
    """One rule: `spec` as it was given, `tz` an IANA zone. Equal rules have equal fingerprints."""

    __slots__ = ("_cron", "_period", "_wall", "_zone", "fingerprint", "spec", "tz")

    def __init__(self, spec: str, tz: str, *, cron: str = "", period: int = 0) -> None:
        self.spec = spec
        self.tz = tz
        self._zone = ZoneInfo(tz)
        self._cron = cron
        self._period = period
        minute, hour = cron.split()[1:3] if cron else ("*", "*")
        self._wall = not minute.startswith("*") and not hour.startswith("*")
        text = f"{cron} {tz}" if cron else f"every {period}"
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:12]

    @classmethod
    def parse(cls, spec: str, tz: str = "UTC") -> Schedule:
        """Reads `*/5 * * * *`, six fields with the seconds in front, `@hourly` and its like, `30s`, `1h30m`,
        `@every 5m`. Raises `ScheduleInvalid`."""
        _check_zone(spec, tz)
        text = spec.strip()
        interval = text.removeprefix("@every ").strip()
        if text.startswith("@every ") or _INTERVAL.fullmatch(interval):
            return cls(spec, tz, period=_read_interval(spec, interval))
        found = cls(spec, tz, cron=_read_cron(spec, _NAMED.get(text.lower(), text)))
        found._check_possible()
        return found

    def __repr__(self) -> str:
        return f"Schedule({self.spec!r}, {self.tz!r})"

    @property
    def is_interval(self) -> bool:
        return self._period > 0

    # -- instants
    def next_after(self, instant: float) -> float:
        """The first instant that is due after `instant`."""
        if self._period:
            return (_micro(instant) // self._period + 1) * self._period / _MICROSECONDS
        return self._next_wall(instant) if self._wall else self._next_running(instant)

    def between(self, after: float, until: float, limit: int) -> list[float]:
        """The first `limit` instants that are due after `after` and not after `until`."""
        found: list[float] = []
        instant = after
        while len(found) < limit:
            instant = self.next_after(instant)
            if instant > until:
                break
            found.append(instant)
        return found

    def latest_at_or_before(self, instant: float) -> float | None:
        """The last instant that was due; None when that was more than fifty years ago."""
        if self._period:
            return _micro(instant) // self._period * self._period / _MICROSECONDS
        high, width = int(instant // 1), 60
        while True:
            low = self.next_after(high - width)
            if low <= high:
                break
            if width > 50 * _YEAR:
                return None
            width *= 8
        # `low` is due, and nothing is after `high`: they meet at the last one.
        last, end = int(low), high
        while last < end:
            middle = (last + end) // 2
            found = self.next_after(middle)
            if found <= high:
                last = int(found)
            else:
                end = middle
        return float(last)

    def count(self, after: float, until: float) -> int:
        """How many instants are due after `after` and not after `until`; of a cron line at most 1,000."""
        if self._period:
            return max(0, _micro(until) // self._period - _micro(after) // self._period)
        return len(self.between(after, until, MISSED_COUNT_MAX))

    def last(self, after: float, until: float, limit: int) -> list[float]:
        """The last `limit` instants that are due after `after` and not after `until`, in order."""
        found = self.between(after, until, limit + 1)
        if len(found) <= limit:
            return found
        found.clear()
        before: float | None = self.latest_at_or_before(until)
        while before is not None and before > after and len(found) < limit:
            found.append(before)
            before = self.latest_at_or_before(before - 1 / _MICROSECONDS if self._period else before - 1)
        return found[::-1]

    def local(self, instant: float) -> datetime:
        """The instant as the zone's clocks show it."""
        return datetime.fromtimestamp(instant, self._zone)

    def grace(self, instant: float) -> float:
        """How late a firing still counts as on time: half the way to the next one, at least a second, at most a
        minute."""
        gap = self.next_after(instant) - instant
        return min(GRACE_SECONDS_MAX, max(GRACE_SECONDS_MIN, gap / 2))

    # -- cron
    def _next_wall(self, instant: float) -> float:
        """By times of day: each stands for one instant, and the order of both is the same."""
        local = self.local(instant).replace(tzinfo=None, fold=0)
        for naive in CronSim(self._cron, local):
            found = self._instant_of(naive)
            if found > instant:
                return found
        raise InvariantBroken(f"schedule {self.spec!r} has no instant after {instant}")

    def _instant_of(self, naive: datetime) -> float:
        """The first time that the clocks show it; the moment of the jump when they jump over it."""
        first = int(naive.replace(tzinfo=self._zone).timestamp())
        if self.local(first).replace(tzinfo=None, fold=0) == naive:
            return float(first)
        # In a gap the earlier reading counts with the offset after the jump, and so lies before it.
        before = int(naive.replace(tzinfo=self._zone, fold=1).timestamp())
        return float(self._change(before, first) or first)

    def _next_running(self, instant: float) -> float:
        """By the hands: where the offset stays the same, local time is plain arithmetic."""
        position = since = int(instant // 1)
        offset = self._offset(position)
        while True:
            naive = next(CronSim(self._cron, _ORIGIN + timedelta(seconds=position + offset)), None)
            if naive is None:
                raise InvariantBroken(f"schedule {self.spec!r} has no instant after {instant}")
            found = int((naive - _ORIGIN).total_seconds()) - offset
            change = self._change(since, found)
            if change is None:
                return float(found)
            # From the change on, itself included, the hands stand elsewhere.
            position, since, offset = change - 1, change, self._offset(change)

    def _offset(self, second: int) -> int:
        offset = datetime.fromtimestamp(second, self._zone).utcoffset()
        return 0 if offset is None else int(offset.total_seconds())

    def _change(self, low: int, high: int) -> int | None:
        """The first second after `low`, and not after `high`, whose offset is another one than that of `low`."""
        offset = self._offset(low)
        while low < high:
            probe = min(low + _PROBE_SECONDS, high)
            if self._offset(probe) != offset:
                while probe - low > 1:
                    middle = (low + probe) // 2
                    if self._offset(middle) == offset:
                        low = middle
                    else:
                        probe = middle
                return probe
            low = probe
        return None

    def _check_possible(self) -> None:
        try:
            self.next_after(_REFERENCE)
        except InvariantBroken:
            raise ScheduleInvalid(
                self.spec,
                "day of month and month",
                self._cron,
                "a day that comes within fifty years",
                _EXAMPLE,
            ) from None


def find_due(
    schedule: Schedule, handled: float, now: float, policy: Policy, missed_max: int, *, tick: float = 0.0
) -> Due:
    """What to call at `now`, when everything up to `handled` was dealt with. `tick` is the instant that the server
    fired for: it is due whatever this machine's clock says.

    `skip` calls for the latest instant unless it is later than its grace, `once` for the latest, `all` for the earliest
    of the last `missed_max`. `missed` counts the instants before it that nothing will be called for.
    """
    until = max(now, tick)
    first = schedule.next_after(handled)
    if first > until:
        return Due(None, 0, handled)
    latest, count = first, 1
    if schedule.next_after(first) <= until:
        latest = schedule.latest_at_or_before(until) or first
        count = schedule.count(handled, until)
    if policy == "all":
        called = schedule.last(handled, until, missed_max)
        return Due(called[0], max(0, count - len(called)), called[0])
    if policy == "skip" and until - latest > schedule.grace(latest):
        return Due(None, count, latest)
    return Due(latest, count - 1, latest)


def _micro(instant: float) -> int:
    return round(instant * _MICROSECONDS)


def _check_zone(spec: str, tz: str) -> None:
    try:
        ZoneInfo(tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ScheduleInvalid(spec, "tz", tz, "an IANA time zone", "Europe/Berlin") from None


def _read_interval(spec: str, text: str) -> int:
    """Microseconds."""
    if not _INTERVAL.fullmatch(text):
        raise ScheduleInvalid(spec, "interval", text, "numbers with units ms s m h d w", "@every 1h30m")
    length = sum(float(number) * _UNITS[unit] for number, unit in _INTERVAL_PART.findall(text))
    if not INTERVAL_SECONDS_MIN <= length <= INTERVAL_SECONDS_MAX:
        raise ScheduleInvalid(spec, "interval", text, "1 s to 366 days", "30s")
    return _micro(length)


def _read_cron(spec: str, text: str) -> str:
    """The line with six fields."""
    if text.startswith("@"):
        raise ScheduleInvalid(spec, "name", text, f"one of {', '.join(_NAMED)}, or @every", "@daily")
    parts = text.upper().split()
    if len(parts) == 5:
        parts.insert(0, "0")
    if len(parts) != 6:
        raise ScheduleInvalid(
            spec,
            "fields",
            f"{len(parts)} of them",
            "5 (minute hour day month weekday), 6 with the second in front, or an interval",
            _EXAMPLE,
        )
    for (field, name, values, example), part in zip(_FIELDS, parts, strict=True):
        try:
            field.parse(part)
        except (CronSimError, ValueError, IndexError, AssertionError):
            raise ScheduleInvalid(spec, name, part, _FORMS + values, example) from None
    line = " ".join(parts)
    try:
        CronSim(line, _ORIGIN)
    except (CronSimError, TypeError) as error:
        # A day that none of the months has; or one that the line can't mix.
        raise ScheduleInvalid(
            spec, "day of month", parts[3], "a day that one of the months has", "28"
        ) from error
    return line
