"""The pure core: fold, decide, and the rules of receiving, resuming and acknowledging.

It imports no asyncio, no NATS, no clock and no randomness: time, ids and randomness arrive as inputs, so that every crash
point can be played.
"""

from ._covers import (
    DELIVERIES_MAX,
    MESSAGES_MAX,
    RESUMES_MAX,
    SUSPECTS_MAX,
    Hold,
    Standing,
    changes,
    current,
    elsewhere,
    may_ack,
    may_start,
    refuses,
    resume,
    standing,
    suspicious,
)
from ._decide import adopt, advance, decide
from ._draft import HOLD, Draft, Frontier, NoCover, Surroundings, is_undo, step_of
from ._fold import Stamp, apply, close, copy_state, fold_entry, message_id
from ._inputs import (
    Arrived,
    BodyEnded,
    Definition,
    Input,
    Release,
    Suspected,
    TakeOver,
    TimerDue,
    decode_body,
)
from ._outputs import (
    DropSchedule,
    Output,
    PublishEvent,
    SchedulePurge,
    SendTask,
    SetSchedule,
    WithdrawTask,
    derive,
    wanted_by,
)
from ._retry import delay_seconds, retries
from ._settle import CANCEL_GRACE, settle
from ._state import UNDO, Cover, Outputs, RunState, Unit
from ._steps import handler_of

__all__ = [
    "CANCEL_GRACE",
    "DELIVERIES_MAX",
    "HOLD",
    "MESSAGES_MAX",
    "RESUMES_MAX",
    "SUSPECTS_MAX",
    "UNDO",
    "Arrived",
    "BodyEnded",
    "Cover",
    "Definition",
    "Draft",
    "DropSchedule",
    "Frontier",
    "Hold",
    "Input",
    "NoCover",
    "Output",
    "Outputs",
    "PublishEvent",
    "Release",
    "RunState",
    "SchedulePurge",
    "SendTask",
    "SetSchedule",
    "Stamp",
    "Standing",
    "Surroundings",
    "Suspected",
    "TakeOver",
    "TimerDue",
    "Unit",
    "WithdrawTask",
    "adopt",
    "advance",
    "apply",
    "changes",
    "close",
    "copy_state",
    "current",
    "decide",
    "decode_body",
    "delay_seconds",
    "derive",
    "elsewhere",
    "fold_entry",
    "handler_of",
    "is_undo",
    "may_ack",
    "may_start",
    "message_id",
    "refuses",
    "resume",
    "retries",
    "settle",
    "standing",
    "step_of",
    "suspicious",
    "wanted_by",
]
