"""What could not be processed, with everything that is needed to understand and replay it."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Mapping, Sequence

import msgspec

from ..errors import (
    DecodeFailed,
    Disconnected,
    ErrorClass,
    ErrorInfo,
    NotFound,
    OutcomeUnknown,
    PayloadTooLarge,
)
from ..messages import Names, copied, escape_token
from ..transport import Delivery, Stored, Transport

H_DLQ = "Jetloom-Dlq"
"""JSON with every field of the dead letter but its body."""

STACK_CHARACTERS_MAX = 8_000
HEADERS_CHARACTERS_MAX = 16_000
FIELDS_CHARACTERS_MAX = 48_000
"""Of all fields as JSON in ASCII: together with the copied headers below the server's 64 KiB of headers."""

TRIES_MAX = 5

PAGE = 256
"""Letters in one read of a search."""


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """`sequence` is its own in the dead letters, `source_sequence` that of the event. `data` is the event's body,
    empty when `truncated` (there was no room for it; the event is still in its stream for a while). `replays` counts
    how often it was replayed in vain: the reason is then the latest one, `first_code`, `first_reason` and `first_at`
    are those of the first failure."""

    module: str
    handler: str
    code: str
    reason: str
    error_class: ErrorClass
    subject: str
    stream: str
    source_sequence: int
    deliveries: int
    at: float = 0
    headers: dict[str, str] = {}
    stack: str = ""
    truncated: bool = False
    replays: int = 0
    first_code: str = ""
    first_reason: str = ""
    first_at: float = 0
    sequence: int = 0
    data: bytes = b""


class DeadLetters:
    """Writes dead letters."""

    def __init__(self, transport: Transport, names: Names) -> None:
        self._transport = transport
        self._names = names

    async def add(
        self, module: str, handler: str, delivery: Delivery, info: ErrorInfo, error: BaseException, now: float
    ) -> int:
        """Stores it; its sequence. Raises `OutcomeUnknown` when there was no answer for some seconds."""
        letter = DeadLetter(
            module=module,
            handler=handler,
            code=info.code,
            reason=_clean(info.message),
            error_class=info.error_class,
            subject=delivery.subject,
            stream=delivery.stream,
            source_sequence=delivery.sequence,
            deliveries=delivery.count,
            at=now,
            headers=_bounded(delivery.headers),
            stack=_stack(error),
        )
        try:
            return await self._append(letter, delivery.data, delivery.headers)
        except PayloadTooLarge:
            # Body and headers together are over the limit: the reason is worth more, the body has its own stream.
            letter = msgspec.structs.replace(letter, stack="", truncated=True)
            return await self._append(letter, b"", delivery.headers)

    async def add_again(self, letter: DeadLetter, info: ErrorInfo, error: BaseException, now: float) -> int:
        """Stores a letter whose replay failed, as a new one; the sequence. The older one is the caller's to delete."""
        again = msgspec.structs.replace(
            letter,
            code=info.code,
            reason=_clean(info.message),
            error_class=info.error_class,
            stack=_stack(error),
            at=now,
            replays=letter.replays + 1,
            first_code=letter.first_code or letter.code,
            first_reason=letter.first_reason or letter.reason,
            first_at=letter.first_at or letter.at,
            sequence=0,
            data=b"",
        )
        return await self._append(again, letter.data, letter.headers)

    async def _append(self, letter: DeadLetter, data: bytes, original: Mapping[str, str]) -> int:
        subject = self._names.dead_letter(letter.module, letter.handler)
        headers = {**copied(original), H_DLQ: _fields(letter)}
        message_id = f"{letter.module}.{letter.handler}.{letter.stream}.{letter.source_sequence}"
        if letter.replays:
            # Within the window the letter itself would be taken for a repetition of the first one.
            message_id += f".{letter.replays}.{letter.at:.6f}"
        for number in range(TRIES_MAX):
            try:
                done = await self._transport.append(subject, data, headers=headers, message_id=message_id)
            except (OutcomeUnknown, Disconnected):
                if number == TRIES_MAX - 1:
                    raise
                await asyncio.sleep(0.1 * 2**number)
            else:
                return done.sequence
        raise OutcomeUnknown(subject, "no answer")


async def get_dead_letter(transport: Transport, names: Names, sequence: int) -> DeadLetter:
    """Raises `NotFound`."""
    stored = await transport.get(names.dlq_stream, sequence)
    if stored is None:
        raise NotFound(
            f"no dead letter {sequence}: it was never there, dropped, or older than its retention",
            sequence=sequence,
        )
    return _read(stored)


async def list_dead_letters(
    transport: Transport,
    names: Names,
    *,
    module: str = "",
    handler: str = "",
    limit: int = 50,
    after: int = 0,
) -> tuple[Sequence[DeadLetter], int]:
    """A page in the order of arrival, and the cursor of the next one (0: no more)."""
    subject = ".".join(
        (
            names.namespace,
            "dlq",
            escape_token(module) if module else "*",
            escape_token(handler) if handler else "*",
        )
    )
    page = await transport.read(names.dlq_stream, subject, after=after, limit=limit)
    return [_read(stored) for stored in page], page[-1].sequence if len(page) == limit else 0


async def find_dead_letters(
    transport: Transport,
    names: Names,
    *,
    module: str = "",
    handler: str = "",
    code: str = "",
    since: float = 0,
    limit: int = 0,
) -> list[DeadLetter]:
    """All that match, in the order of arrival: of an error code, stored at or after `since` (seconds since the epoch),
    at most `limit` (0: all). Their bodies are not kept, so that a million of them fit."""
    found: list[DeadLetter] = []
    state = await transport.stream_state(names.dlq_stream)
    end = state.last if state is not None else 0
    after = 0
    while True:
        page, after = await list_dead_letters(
            transport, names, module=module, handler=handler, limit=PAGE, after=after
        )
        for letter in page:
            if letter.sequence > end or (limit and len(found) >= limit):
                return found
            if (not code or letter.code == code) and letter.at >= since:
                found.append(msgspec.structs.replace(letter, data=b"", stack="", headers={}))
        if not after:
            return found


def _fields(letter: DeadLetter) -> str:
    """The letter as one header, in ASCII, without its stack, then its headers, where they leave no room."""
    without_stack = msgspec.structs.replace(letter, stack="")
    bare = msgspec.structs.replace(without_stack, headers={}, reason=letter.reason[:500])
    text = ""
    for each in (letter, without_stack, bare):
        text = json.dumps(msgspec.to_builtins(each), separators=(",", ":"))
        if len(text) <= FIELDS_CHARACTERS_MAX:
            break
    return text


def _read(stored: Stored) -> DeadLetter:
    text = stored.headers.get(H_DLQ, "")
    try:
        letter = msgspec.json.decode(text, type=DeadLetter)
    except msgspec.MsgspecError as error:
        raise DecodeFailed(f"dead letter {stored.sequence}", str(error)) from error
    return msgspec.structs.replace(
        letter, sequence=stored.sequence, data=stored.data, at=letter.at or stored.at
    )


def _stack(error: BaseException) -> str:
    return _clean("".join(traceback.format_exception(error))[-STACK_CHARACTERS_MAX:])


def _clean(text: str) -> str:
    # Half a surrogate pair, as in names of files that are no UTF-8, has no JSON form.
    return text.encode(errors="replace").decode()


def _bounded(headers: Mapping[str, str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    left = HEADERS_CHARACTERS_MAX
    for name, value in headers.items():
        left -= len(name) + len(value)
        if left < 0:
            break
        kept[name] = value
    return kept
