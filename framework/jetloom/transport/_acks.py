"""What an ack subject says besides where to answer."""

from __future__ import annotations

_OLDER = 9
"""Tokens of `$JS.ACK.<stream>.<consumer>.<count>.<sequence>.<number>.<time>.<pending>`; newer ones have a domain and an
account in front of the stream, and sometimes a random token at the end."""


def delivery_number(ack_subject: str) -> int:
    """The consumer's count of its deliveries, redeliveries among them: without a gap where all came to one place.

    0 for what is no ack subject.
    """
    tokens = ack_subject.split(".")
    at = 6 if len(tokens) == _OLDER else 8
    return int(tokens[at]) if len(tokens) > at and tokens[at].isdigit() else 0
