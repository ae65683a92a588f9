"""What the server's answers mean to a caller: batches, stored messages, refusals."""

from __future__ import annotations

from ..errors import ConditionFailed, Disconnected, JetloomError, OutcomeUnknown, Refused, RequestTimeout
from ._link import NoAnswer
from ._port import Stored
from ._wire import ApiError, Head, seconds_of

WRONG_LAST = 10071
NO_VERDICT = frozenset({10164, 10167, 10210, 10008, 10074})
"""Codes that say nothing about the write: a spurious sequence error on R3, too busy, no leader, insufficient
resources.
"""


class Collector:
    """The answers of a batched read, up to its end."""

    def __init__(self) -> None:
        self.parts: list[tuple[Head, bytes]] = []

    def __call__(self, head: Head, data: bytes) -> bool:
        if head.status:
            return True
        self.parts.append((head, data))
        return False


def stored_of(head: Head, data: bytes) -> Stored:
    headers = dict(head.headers)
    subject = headers.pop("Nats-Subject", "")
    sequence = int(headers.pop("Nats-Sequence", "0"))
    at = seconds_of(headers.pop("Nats-Time-Stamp", ""))
    for name in ("Nats-Stream", "Nats-Num-Pending", "Nats-Last-Sequence"):
        headers.pop(name, None)
    return Stored(subject, sequence, data, headers, at)


def write_error(subject: str, expected: int | None, error: ApiError) -> JetloomError:
    if error.err_code == WRONG_LAST:
        actual = error.description.rpartition(":")[2].strip()
        return ConditionFailed(subject, expected or 0, int(actual) if actual.isdigit() else None)
    if error.err_code in NO_VERDICT or error.code in (429, 503):
        return OutcomeUnknown(subject, f"{error.description} ({error.err_code})")
    return Refused(f"a message on {subject}", error.err_code, error.description)


def unanswered_write(subject: str, timeout: float, missing: NoAnswer) -> JetloomError:
    """What a write without an answer comes to. What permissions forbid was not taken, which is a verdict."""
    if missing.reason == "denied":
        return Refused(f"a message on {subject}", 0, str(missing))
    return OutcomeUnknown(
        subject, "disconnected" if missing.reason == "gone" else f"no answer within {timeout:g} s"
    )


def unanswered_question(subject: str, timeout: float, missing: NoAnswer) -> JetloomError:
    if missing.reason == "gone":
        return Disconnected(subject)
    return RequestTimeout(f"{subject} ({missing})" if missing.reason == "denied" else subject, timeout)
