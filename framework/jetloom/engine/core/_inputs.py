"""What `decide` is told. Inputs are facts: offered again to a newer state, they may change nothing."""

from __future__ import annotations

import msgspec

from ...errors import DecodeFailed, ErrorInfo
from ...messages import (
    Action,
    Cancel,
    EmitRequest,
    MailboxAddress,
    Result,
    RunMessage,
    Start,
    decode_plain,
    encode,
)
from ...types import JSON

type Body = Start | Result | RunMessage | Cancel | Action | None


class Arrived(msgspec.Struct, frozen=True):
    """A message of a mailbox, or a wake. `ref` names it as a cover; `size` in bytes; `at` the stored time.

    `lost` (pokes only): live covers whose message is not stored any more.
    """

    ref: str
    sequence: int
    address: MailboxAddress
    body: Body = None
    size: int = 0
    at: float = 0.0
    lost: tuple[str, ...] = ()


class BodyEnded(msgspec.Struct, frozen=True):
    """A body in this process ended. `error` None: it returned `output`. `cancelled`: it was stopped in the middle."""

    unit: str
    attempt: int
    output: JSON = None
    emits: tuple[EmitRequest, ...] = ()
    error: ErrorInfo | None = None
    cancelled: bool = False
    noted: bool = False
    size: int = 0


class Unsendable(msgspec.Struct, frozen=True):
    """The task of this attempt can't be sent: it is above the server's limit."""

    unit: str
    attempt: int
    error: ErrorInfo


class TimerDue(msgspec.Struct, frozen=True):
    """A timer that this engine holds is due."""

    name: str


class TakeOver(msgspec.Struct, frozen=True):
    """The holder of this live cover denied it, or does not answer: this engine holds it now."""

    ref: str


class Suspected(msgspec.Struct, frozen=True):
    """This message was delivered suspiciously often and never applied.

    `start`: its body, when the run has no journal.
    """

    ref: str
    poison: bool = False
    sequence: int = 0
    start: Start | None = None


class Definition(msgspec.Struct, frozen=True):
    """The definition that a parked run waited for is here."""


class Release(msgspec.Struct, frozen=True):
    """This engine drains: it gives these covers back."""

    refs: tuple[str, ...]


type Input = Arrived | BodyEnded | Unsendable | TimerDue | TakeOver | Suspected | Definition | Release

_decoders: dict[str, msgspec.json.Decoder[Start | Result | RunMessage | Cancel | Action]] = {
    "start": msgspec.json.Decoder(Start),
    "result": msgspec.json.Decoder(Result),
    "message": msgspec.json.Decoder(RunMessage),
    "cancel": msgspec.json.Decoder(Cancel),
    "action": msgspec.json.Decoder(Action),
}


def decode_body(address: MailboxAddress, data: bytes) -> Body:
    """The typed body of a mailbox message. Raises `DecodeFailed`."""
    decoder = _decoders.get(address.kind)
    if decoder is None:
        return None
    if not data and address.kind in ("message", "cancel"):
        return RunMessage() if address.kind == "message" else Cancel()
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise DecodeFailed(f"a {address.kind} for run {address.run}", str(error)) from error


def body_as_json(body: Body) -> JSON:
    """A body as plain data, for a `deferred` record."""
    return decode_plain(encode(body), "body") if body is not None else None
