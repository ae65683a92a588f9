"""Header names, and the one place that decides which of them may be copied."""

from __future__ import annotations

from collections.abc import Mapping

VERSION = "1"

H_VERSION = "Jetloom-V"
INBOX = "_INBOX."
"""What a subject must begin with to be told the end of a run: nobody may have an engine publish elsewhere."""

H_ROLLUP = "Nats-Rollup"
H_NONCE = "Jetloom-Nonce"
H_NEW = "Jetloom-New"
H_INC = "Jetloom-Inc"
H_ID = "Jetloom-Id"
H_ACTOR = "Jetloom-Actor"
H_TRACE = "traceparent"
H_TRACE_STATE = "tracestate"

H_RUN = "Jetloom-Run"
H_STEP = "Jetloom-Step"
H_ATTEMPT = "Jetloom-Attempt"
H_HANDLER = "Jetloom-Handler"
H_KEY = "Jetloom-Key"
H_DEADLINE = "Jetloom-Deadline"
H_REPLY = "Jetloom-Reply"
H_FENCE = "Jetloom-Fence"

H_ERROR_CODE = "Nats-Service-Error-Code"
H_ERROR = "Nats-Service-Error"
H_KV_OPERATION = "KV-Operation"
H_CONTENT_TYPE = "content-type"

COPIED = frozenset(
    name.lower()
    for name in (
        H_TRACE,
        H_TRACE_STATE,
        H_ACTOR,
        "ce-correlationid",
        "ce-causationid",
        H_CONTENT_TYPE,
    )
)
"""Only these are ever copied from a received message to a new one: `Nats-*` headers on a publish change what the
server does with it."""


def copied(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that may travel on."""
    return {name: value for name, value in headers.items() if name.lower() in COPIED}
