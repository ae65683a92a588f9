"""Rules of message schedules as the server reads them: `@at`, `@every`, six-field cron."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jetloom.errors import Refused

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_NAMED = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


def parse_duration(text: str) -> float | None:
    """Seconds of a Go duration such as `1m30s`; None when it is none."""
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))


def rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def next_due(subject: str, rule: str, zone: str, after: float) -> tuple[float, bool]:
    """When the rule fires next after `after`, and whether it does again. Raises `Refused` as the server does."""
    if rule.startswith("@at "):
        try:
            moment = datetime.fromisoformat(rule[4:].strip())
        except ValueError:
            raise _refused(subject, 10189, "message schedules pattern is invalid") from None
        if moment.tzinfo is None or zone:
            raise _refused(subject, 10189, "message schedules pattern is invalid")
        return moment.timestamp(), False
    if rule.startswith("@every "):
        every = parse_duration(rule[7:].strip())
        if every is None or every < 1:
            raise _refused(subject, 10189, "message schedules pattern is invalid")
        # On the full second, as the server rounds.
        return float(int(after + 0.5)) + every, True
    return _next_cron(subject, _NAMED.get(rule, rule), zone, after), True


def _next_cron(subject: str, rule: str, zone: str, after: float) -> float:
    from cronsim import CronSim, CronSimError

    if len(rule.split()) != 6:
        raise _refused(subject, 10189, "message schedules pattern is invalid")
    try:
        place = ZoneInfo(zone) if zone else UTC
    except (ZoneInfoNotFoundError, ValueError):
        raise _refused(subject, 10223, "message schedules time zone is invalid") from None
    try:
        return next(CronSim(rule, datetime.fromtimestamp(after, place))).timestamp()
    except (CronSimError, StopIteration):
        raise _refused(subject, 10189, "message schedules pattern is invalid") from None


def _refused(subject: str, code: int, description: str) -> Refused:
    return Refused(subject, code, description)
