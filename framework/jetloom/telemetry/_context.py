"""Who asks, for which trace, until when: one context variable for all of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token

import msgspec

from ..clock import Clock
from ..messages import H_ACTOR, H_DEADLINE, H_TRACE, H_TRACE_STATE, from_rfc3339, to_rfc3339
from ..types import Actor

CE_CORRELATION = "ce-correlationid"


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """What travels with a piece of work.

    `trace` is a W3C `traceparent` and `trace_state` its companion, both passed on untouched. `deadline` is in seconds
    since the epoch. `causation` is the id of the event that is being handled. `module`, `run` and `step` are for log
    lines only and never leave the process.
    """

    actor: Actor | None = None
    trace: str = ""
    trace_state: str = ""
    deadline: float | None = None
    correlation: str = ""
    causation: str = ""
    module: str = ""
    run: str = ""
    step: str = ""


EMPTY = Context()

_current: ContextVar[Context] = ContextVar("jetloom_context", default=EMPTY)


def current() -> Context:
    """The context of this task; empty when nobody set one."""
    return _current.get()


class use:
    """Makes `context` the current one inside the block, and in the tasks started there."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._token: Token[Context] | None = None

    def __enter__(self) -> Context:
        self._token = _current.set(self._context)
        return self._context

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None


def context_headers(context: Context) -> dict[str, str]:
    """The headers that carry a context to another process."""
    headers: dict[str, str] = {}
    if context.actor is not None:
        headers[H_ACTOR] = str(context.actor)
    if context.deadline is not None:
        headers[H_DEADLINE] = to_rfc3339(context.deadline)
    for name, value in (
        (H_TRACE, context.trace),
        (H_TRACE_STATE, context.trace_state),
        (CE_CORRELATION, context.correlation),
    ):
        if value:
            headers[name] = value
    return headers


def context_from_headers(headers: Mapping[str, str]) -> Context:
    """The context that a message brought. Header names are compared without case; a bad deadline is none."""
    found = {name.lower(): value for name, value in headers.items()}
    actor = found.get(H_ACTOR.lower())
    deadline = from_rfc3339(found.get(H_DEADLINE.lower(), ""), -1)
    return Context(
        actor=Actor.parse(actor) if actor else None,
        trace=found.get(H_TRACE, ""),
        trace_state=found.get(H_TRACE_STATE, ""),
        deadline=deadline if deadline >= 0 else None,
        correlation=found.get(CE_CORRELATION, ""),
    )


def remaining_seconds(context: Context, clock: Clock, limit: float) -> float:
    """How long work under `context` may still take: at most `limit`, at least 0."""
    if context.deadline is None:
        return limit
    return max(0.0, min(limit, context.deadline - clock.now()))
