"""The rules of receiving, resuming and acknowledging: who may do what with an un-acknowledged message.

They are functions of what is known, so that every row of the table of deaths can be played without a server.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec

from ...messages import Action, Start
from ._fold import action_id, message_id
from ._inputs import Arrived
from ._state import RunState

DELIVERIES_MAX = 10
SUSPECTS_MAX = 3
RESUMES_MAX = 5
MESSAGES_MAX = 10_000
"""Message and action ids that a run remembers: each costs about 60 bytes in every snapshot."""


class Standing(Enum):
    """What a message is to a state."""

    UNKNOWN_RUN = "no journal, and this is not its start"
    ELSEWHERE = "addressed to another incarnation, or a surplus start"
    MINE = "live, and this engine is its holder"
    THEIRS = "live, and another engine is its holder, or it was released"
    CHANGES = "changes something"
    TOO_MANY = "changes something, but the run remembers as many ids as it may"
    SPENT = "changes nothing and is not live"


def standing(state: RunState, message: Arrived, engine: str) -> Standing:
    """What `message` is to `state`, for `engine`."""
    if state.n == 0:
        return Standing.CHANGES if message.address.kind == "start" else Standing.UNKNOWN_RUN
    cover = state.covers.get(message.ref)
    if cover is not None:
        return Standing.MINE if cover.holder == engine and not cover.released else Standing.THEIRS
    if elsewhere(state, message):
        return Standing.ELSEWHERE
    if not changes(state, message):
        return Standing.SPENT
    if message.address.kind in ("message", "action") and len(state.seen) >= MESSAGES_MAX:
        return Standing.TOO_MANY
    return Standing.CHANGES


def elsewhere(state: RunState, message: Arrived) -> bool:
    """Whether it is meant for another incarnation of the run id."""
    kind = message.address.kind
    if kind == "start":
        return message.sequence != state.inc
    return message.address.inc not in (0, state.inc)


def changes(state: RunState, message: Arrived) -> bool:
    """Whether applying it would change the run.

    Once false for the entry that was last when it was stored, false for ever.
    """
    if state.finished is not None:
        return False
    if state.deferred and any(deferred.message == message.ref for deferred in state.deferred):
        return False
    address = message.address
    match address.kind:
        case "start":
            return not state.driven
        case "result":
            unit = state.steps.get(address.step)
            return (
                unit is not None
                and unit.where == "task"
                and unit.handler == address.handler
                and state.pending(address.step, address.attempt)
            )
        case "message":
            return message_id(address.name, address.id) not in state.seen
        case "cancel":
            return state.cancelled is None
        case "action":
            return action_id(address.id) not in state.seen
        case "poke":
            return message.sequence > state.poked
        case "wake":
            timer = state.timers.get(address.name)
            return timer is not None and not timer.cover
        case _:
            return False


type Answer = Literal["none", "yes", "no", "silence"]


class Hold(msgspec.Struct):
    """What an engine knows of a message that it holds. Ticks are the engine's own count of what it began and received.

    `received`: tick of the first receipt. `sure_since`: tick since when it is sure without a break (-1: it is
    not sure). `quiet`: an own entry made it spent, and since this engine applied it or derived after taking it
    over no other engine was its holder: its ack needs no further derivation.
    """

    received: int
    sure_since: int = -1
    mine: bool = False
    quiet: bool = False


def current(state_tick: int, hold: Hold) -> bool:
    """Whether a state, whose reading or appending began at `state_tick`, can know all that the message answers."""
    return state_tick > hold.received


def may_ack(
    state: RunState, state_tick: int, message: Arrived, hold: Hold, *, outputs_open: bool, derived: bool
) -> Literal["ack", "read", "derive", "outputs", "keep"]:
    """What must happen before `message` may be acknowledged.

    `read`: fold the leader's tail. `outputs`: wait for those of the entries that this engine wrote. `derive`: send all
    that the journal says must exist. `keep`: it is live, or would still change something.
    """
    if not current(state_tick, hold):
        return "read"
    if state.live(message.ref) or (not elsewhere(state, message) and changes(state, message)):
        return "keep"
    if outputs_open:
        return "outputs"
    return "ack" if hold.quiet or derived else "derive"


def may_start(
    state_tick: int, hold: Hold | None, *, settling: bool
) -> Literal["start", "read", "wait", "never"]:
    """Whether a pending local attempt may start its body under the cover that `hold` describes."""
    if settling:
        return "never"
    if hold is None or hold.sure_since < 0:
        return "wait"
    return "start" if state_tick > hold.sure_since else "read"


def resume(
    *,
    sure: bool,
    released: bool,
    own: bool,
    answer: Literal["none", "yes", "no", "silence"],
    patience_over: bool,
) -> Literal["give up", "ask", "take"]:
    """What to do with a live cover whose holder is another engine, or this one, which has forgotten the run.

    `answer`: what the holder said to the last question; `no` also stands for nobody listening.
    """
    if not sure or answer == "yes":
        return "give up"
    if released or own or answer == "no" or (answer == "silence" and patience_over):
        return "take"
    return "ask"


def suspicious(state: RunState, message: Arrived, count: int) -> Literal["no", "suspect", "poison"]:
    """Whether a message that changes something was delivered too often to be innocent.

    Counts alone prove nothing, since waiting by NAK raises them too: each suspicion is journaled first, and an engine
    that dies of the message leaves its suspicion behind.
    """
    if count <= DELIVERIES_MAX:
        return "no"
    return "poison" if state.suspects.get(message.ref, 0) >= SUSPECTS_MAX else "suspect"


def input_of_start(message: Arrived) -> Start:
    """The body of a start. Raises `TypeError` when it is none."""
    if not isinstance(message.body, Start):
        raise TypeError(f"{message.address.kind} of run {message.address.run} is no start")
    return message.body


def refuses(state: RunState, action: Action) -> str:
    """Why an action can't be done now; empty when it can."""
    if action.expected_n is not None and action.expected_n != state.n:
        return f"decided for entry {action.expected_n}, the run is at {state.n}"
    if action.verb in ("retry", "skip"):
        if state.parked is None:
            return f"the run does not wait for a person (it is {state.status.value})"
        if action.step and action.step != state.parked.step:
            return f"the run waits because of step {state.parked.step!r}, not {action.step!r}"
        return ""
    if action.verb == "pause":
        return "the run is paused already" if state.paused else ""
    if action.verb == "resume":
        return "" if state.paused else "the run is not paused"
    return f"{action.verb} is not supported by this version"
