"""Schedules against a walk over every minute, around the clock changes of three zones."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetloom.schedules import MISSED_COUNT_MAX, Policy, Schedule, ScheduleInvalid, find_due

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
CHANGES = {
    "Europe/Berlin": ("2026-03-29T01:00Z", "2026-10-25T01:00Z"),
    "America/New_York": ("2026-03-08T07:00Z", "2026-11-01T06:00Z"),
    # Half an hour, and the other way round in the year.
    "Australia/Lord_Howe": ("2026-04-04T15:00Z", "2026-10-03T15:30Z"),
}


def instant(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# -- a second implementation, by brute force
def values(field: str, low: int, high: int) -> set[int]:
    """A field of stars, numbers, lists, ranges and steps."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            chosen = range(low, high + 1)
        elif last:
            chosen = range(int(first), int(last) + 1)
        else:
            chosen = range(int(first), (high if step else int(first)) + 1)
        found |= set(chosen[:: int(step or 1)])
    return found


class Walk:
    """The meaning of a line of five fields, minute by minute."""

    def __init__(self, line: str, zone: str) -> None:
        minute, hour, day, month, weekday = line.split()
        self.zone = ZoneInfo(zone)
        self.minutes_of = values(minute, 0, 59)
        self.hours_of = values(hour, 0, 23)
        self.days_of = values(day, 1, 31)
        self.months_of = values(month, 1, 12)
        self.weekdays_of = {each % 7 for each in values(weekday, 0, 7)}
        self.both = day.startswith("*") or weekday.startswith("*")
        self.by_the_hands = minute.startswith("*") or hour.startswith("*")

    def matches(self, local: datetime) -> bool:
        if local.minute not in self.minutes_of or local.hour not in self.hours_of:
            return False
        day, weekday = local.day in self.days_of, local.isoweekday() % 7 in self.weekdays_of
        fits = (day and weekday) if self.both else (day or weekday)
        return fits and local.month in self.months_of

    def between(self, after: float, until: float) -> list[float]:
        if self.by_the_hands:
            return [each for each in self.minutes(after, until) if self.matches(self.local(each))]
        return self.times_of_day(after, until)

    def times_of_day(self, after: float, until: float) -> list[float]:
        """Each time of day that the line names, at the first minute whose clock shows it, or a later one."""
        shown: dict[datetime, float] = {}
        for each in self.minutes(after - 10_000, until + 10_000):
            shown.setdefault(self.local(each), each)
        found: set[float] = set()
        wall = min(shown)
        while wall <= max(shown):
            if self.matches(wall):
                reached = wall
                while reached not in shown and reached <= max(shown):
                    reached += timedelta(minutes=1)
                if reached in shown and after < shown[reached] <= until:
                    found.add(shown[reached])
            wall += timedelta(minutes=1)
        return sorted(found)

    def minutes(self, after: float, until: float) -> list[float]:
        first = int(after // 60) + 1
        return [float(each * 60) for each in range(first, int(until // 60) + 1)]

    def local(self, moment: float) -> datetime:
        return datetime.fromtimestamp(moment, self.zone).replace(tzinfo=None, fold=0)


def fields(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    return st.one_of(
        st.just("*"),
        st.sampled_from(["*/2", "*/5", "*/7"]),
        number.map(str),
        st.lists(number, min_size=2, max_size=4).map(lambda found: ",".join(map(str, sorted(found)))),
        st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}"),
    )


def lines() -> st.SearchStrategy[str]:
    hours = st.one_of(fields(0, 23), st.sampled_from(["1", "2", "3", "1-3", "0,2", "*"]))
    days = st.sampled_from(["* * *", "* * *", "* * 0", "*/2 * *", "1-10 * *", "25 * 0", "* 3-4,10-11 6-7"])
    return st.tuples(fields(0, 59), hours, days).map(" ".join)


@settings(max_examples=40)
@given(
    lines(),
    st.sampled_from(ZONES).flatmap(lambda zone: st.tuples(st.just(zone), st.sampled_from(CHANGES[zone]))),
    st.integers(-20, 4),
)
def test_agrees_with_a_walk_over_every_minute(line: str, where: tuple[str, str], hours: int) -> None:
    """Around every clock change, of an hour and of half one, a line is due exactly when its clock says so."""
    zone, change = where
    after = instant(change) + hours * 3600.0 + 17
    until = after + 26 * 3600
    schedule = Schedule.parse(line, zone)
    found = schedule.between(after, until, 10_000)
    assert found == Walk(line, zone).between(after, until)
    assert schedule.count(after, until) == min(len(found), MISSED_COUNT_MAX)
    assert schedule.last(after, until, 3) == found[-3:]


@given(
    st.one_of(
        lines(), st.sampled_from(["30s", "1h30m", "7m", "1500ms", "@hourly", "@daily", "*/20 * * * * *"])
    ),
    st.sampled_from(ZONES),
    st.floats(1.75e9, 1.85e9),
)
def test_instants_grow_and_every_way_to_ask_agrees(spec: str, zone: str, start: float) -> None:
    """The next instant is always later; listing is asking again and again; the last one is the one before the next."""
    schedule = Schedule.parse(spec, zone)
    asked = [start]
    for _ in range(12):
        asked.append(schedule.next_after(asked[-1]))
    assert all(earlier < later for earlier, later in pairwise(asked))
    assert schedule.between(start, asked[-1], 100) == asked[1:]
    assert schedule.between(start, asked[-1], 5) == asked[1:6]
    for earlier, later in pairwise(asked[1:]):
        assert schedule.latest_at_or_before(earlier) == earlier
        assert schedule.latest_at_or_before(later - 0.001) == earlier


@pytest.mark.parametrize(
    ("spec", "zone", "after", "expected"),
    [
        # Jumped over: at the moment of the jump, several times of day once.
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00",
         ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("0,15,30 2 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00",
         ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"]),
        ("0 30 2 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00", ["2026-03-29T03:00+02:00"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00Z", ["2026-10-04T02:30+11:00"]),
        # Twice: the first time.
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:00+02:00",
         ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T02:10+01:00", ["2026-10-26T02:30+01:00"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00Z",
         ["2026-04-05T01:45+11:00", "2026-04-06T01:45+10:30"]),
        # By the hands: through both.
        ("*/30 * * * *", "Europe/Berlin", "2026-10-25T02:00+02:00",
         ["2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"]),
        ("*/30 * * * *", "Europe/Berlin", "2026-03-29T01:30+01:00", ["2026-03-29T03:00+02:00"]),
        ("0 * * * *", "America/New_York", "2026-11-01T00:30-04:00",
         ["2026-11-01T01:00-04:00", "2026-11-01T01:00-05:00"]),
        ("*/20 3 * * *", "Australia/Lord_Howe", "2026-10-03T12:00Z",
         ["2026-10-04T03:00+11:00", "2026-10-04T03:20+11:00"]),
        # A day that never was.
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00-10:00",
         ["2011-12-31T00:00+14:00", "2011-12-31T12:00+14:00"]),
        # Names, last days, leap years.
        ("@weekly", "UTC", "2026-01-01T00:00Z", ["2026-01-04T00:00Z"]),
        ("@yearly", "Europe/Berlin", "2026-06-01T00:00Z", ["2027-01-01T00:00+01:00"]),
        ("0 9 L * *", "UTC", "2026-02-01T00:00Z", ["2026-02-28T09:00Z", "2026-03-31T09:00Z"]),
        ("0 9 * * MON#1", "UTC", "2026-02-01T00:00Z", ["2026-02-02T09:00Z", "2026-03-02T09:00Z"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00Z", ["2028-02-29T00:00Z", "2032-02-29T00:00Z"]),
        # Intervals are multiples since the epoch.
        ("6h", "Europe/Berlin", "2026-03-28T23:00Z", ["2026-03-29T00:00Z", "2026-03-29T06:00Z"]),
        ("@every 1h30m", "UTC", "2026-01-01T00:00Z", ["2026-01-01T01:30Z", "2026-01-01T03:00Z"]),
    ],
)  # fmt: skip
def test_instants(spec: str, zone: str, after: str, expected: list[str]) -> None:
    """What the documentation promises, case by case."""
    schedule = Schedule.parse(spec, zone)
    found = schedule.between(instant(after), instant(after) + 10 * 366 * 86_400, len(expected))
    assert [schedule.local(each).isoformat() for each in found] == [
        datetime.fromisoformat(each).astimezone(ZoneInfo(zone)).isoformat() for each in expected
    ]


@pytest.mark.parametrize(
    ("spec", "zone", "field", "found"),
    [
        ("61 * * * *", "UTC", "minute", "61"),
        ("* 24 * * *", "UTC", "hour", "24"),
        ("*/0 * * * *", "UTC", "minute", "*/0"),
        ("* * * * FOO", "UTC", "day of week", "FOO"),
        ("* * 0 * *", "UTC", "day of month", "0"),
        ("60 0 0 1 1 *", "UTC", "second", "60"),
        ("* * *", "UTC", "fields", "3 of them"),
        ("", "UTC", "fields", "0 of them"),
        ("0 0 30 2 *", "UTC", "day of month", "30"),
        ("@often", "UTC", "name", "@often"),
        ("@every soon", "UTC", "interval", "soon"),
        ("500ms", "UTC", "interval", "500ms"),
        ("367d", "UTC", "interval", "367d"),
        ("* * * * *", "Mars/Olympus", "tz", "Mars/Olympus"),
        ("* * * * *", "../etc/passwd", "tz", "../etc/passwd"),
        ("* * * * *", "", "tz", ""),
    ],
)
def test_what_can_not_be_read(spec: str, zone: str, field: str, found: str) -> None:
    """The error names the field, what stood there and what was expected, with an example that can be read."""
    with pytest.raises(ScheduleInvalid) as wrong:
        Schedule.parse(spec, zone)
    fields = wrong.value.fields
    assert (fields["spec"], fields["field"], fields["found"]) == (spec, field, found)
    assert fields["expected"]
    assert fields["example"]
    assert repr(found) in str(wrong.value)


@given(st.text(max_size=20))
def test_any_text_is_a_schedule_or_a_named_error(text: str) -> None:
    """Nothing else is raised for what a person typed."""
    with suppress(ScheduleInvalid):
        assert Schedule.parse(text).next_after(0) > 0


def test_a_fingerprint_is_the_rules() -> None:
    """The same rule written another way is the same; another zone or time is not."""
    assert Schedule.parse("@hourly").fingerprint == Schedule.parse(" 0 0 * * * * ").fingerprint
    assert Schedule.parse("90s").fingerprint == Schedule.parse("@every 1m30s", "Europe/Berlin").fingerprint
    others = {
        Schedule.parse(*each).fingerprint
        for each in [("@daily", "UTC"), ("@daily", "Europe/Berlin"), ("1 0 * * *",)]
    }
    assert len(others) == 3


@pytest.mark.parametrize(
    ("policy", "now", "due"),
    [
        ("once", "12:00:00", (None, 0)),
        ("once", "13:00:00", ("13:00", 0)),
        ("once", "16:59:00", ("16:00", 3)),
        ("skip", "13:00:30", ("13:00", 0)),
        ("skip", "13:01:30", (None, 1)),
        ("skip", "16:00:30", ("16:00", 3)),
        ("skip", "16:30:00", (None, 4)),
        ("all", "16:30:00", ("14:00", 1)),
        ("all", "14:30:00", ("13:00", 0)),
    ],
)
def test_what_is_due(policy: Policy, now: str, due: tuple[str | None, int]) -> None:
    """Of an hourly rule handled until noon, with at most three missed ones under `all`."""
    schedule = Schedule.parse("@hourly")
    found = find_due(schedule, instant("2026-01-01T12:00Z"), instant(f"2026-01-01T{now}Z"), policy, 3)
    expected, missed = due
    if expected is None:
        assert found.instant is None
    else:
        assert found.instant == found.handled == instant(f"2026-01-01T{expected}Z")
    assert found.missed == missed


def test_a_clock_behind_the_servers_takes_its_tick() -> None:
    """What the server fired for is due, even if this machine's clock has not reached it."""
    schedule, noon = Schedule.parse("@hourly"), instant("2026-01-01T12:00Z")
    assert find_due(schedule, noon, noon + 3599.5, "skip", 1).instant is None
    assert find_due(schedule, noon, noon + 3599.5, "skip", 1, tick=noon + 3600).instant == noon + 3600


def test_a_year_of_missed_seconds_is_counted_in_bounds() -> None:
    """An interval's missed ones are counted exactly, a cron line's up to a thousand."""
    year = 365 * 86_400.0
    found = find_due(Schedule.parse("1s"), 1.8e9, 1.8e9 + year, "once", 1)
    assert (found.instant, found.missed) == (1.8e9 + year, year - 1)
    found = find_due(Schedule.parse("* * * * * *"), 1.8e9, 1.8e9 + year, "all", 5)
    assert (found.instant, found.missed) == (1.8e9 + year - 4, MISSED_COUNT_MAX - 5)


def test_local_times_carry_the_zone() -> None:
    """What a method sees as scheduled is the zone's wall clock, with its offset."""
    local = Schedule.parse("@daily", "Europe/Berlin").local(instant("2026-07-01T10:00Z"))
    assert local.isoformat() == "2026-07-01T12:00:00+02:00"
    assert local.astimezone(UTC).hour == 10
