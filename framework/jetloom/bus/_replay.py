"""Dead letters handled again: by the handler that failed, and by no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from ..clock import Clock
from ..errors import (
    DecodeFailed,
    Disconnected,
    ErrorInfo,
    NoResponders,
    OutcomeUnknown,
    RequestTimeout,
    to_info,
)
from ..messages import H_ERROR, H_ERROR_CODE, Names, encode
from ..telemetry import Metrics, get_logger
from ..transport import Delivery, Transport
from ._dead_letters import DeadLetter, DeadLetters, get_dead_letter
from ._handler import EventHandler
from ._handling import Handling

ENDPOINT = "dead-letter-replay"

REPLAY_SECONDS = 60.0
"""How long a client waits for one letter's handler."""

IN_FLIGHT = 8
"""Letters replayed at once: few, because what they ran into may still be weak."""

type ReplayVerdict = Literal["handled", "failed", "gone", "unserved", "unanswered"]
"""`handled`: the letter is deleted. `failed`: it failed again, and is stored anew. `gone`: there is no such letter any
more. `unserved`: no replica of the module runs, or none has the handler. `unanswered`: nobody can say; the letter is
there unless it was handled."""

_logger = get_logger("bus")


class ReplayRequest(msgspec.Struct, frozen=True):
    sequence: int


class ReplayOutcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one letter. `letter` is the number of the new one, when it failed again."""

    sequence: int
    module: str
    handler: str
    outcome: ReplayVerdict
    code: str = ""
    reason: str = ""
    letter: int = 0


class ReplayDesk:
    """Replays dead letters of one module's handlers, in the process that has them; called with the bytes of a request
    on `<ns>.rpc.<module>.dead-letter-replay`, it gives those of the answer."""

    name = ENDPOINT

    def __init__(
        self,
        module: str,
        handlers: Iterable[EventHandler[object]],
        transport: Transport,
        names: Names,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.module = module
        self._transport = transport
        self._names = names
        self._clock = clock
        self._metrics = metrics
        self._letters = DeadLetters(transport, names)
        self._handlings: dict[str, Handling[object]] = {}
        for handler in handlers:
            self.add(handler)

    def add(self, handler: EventHandler[object]) -> None:
        """Another handler, such as one that was subscribed at run time."""
        self._handlings[handler.name] = Handling(
            handler, self._transport, self._names, self._clock, self._metrics
        )

    async def __call__(self, data: bytes) -> bytes:
        """Raises `DecodeFailed`, `NotFound` for a letter that is not there, `RequestTimeout`, `Disconnected`."""
        try:
            request = msgspec.json.decode(data, type=ReplayRequest)
        except msgspec.MsgspecError as error:
            raise DecodeFailed("the request of a replay", str(error)) from error
        letter = await get_dead_letter(self._transport, self._names, request.sequence)
        return encode(await self.replay(letter))

    async def replay(self, letter: DeadLetter) -> ReplayOutcome:
        """Handles it as its handler would, filter and delivery count aside. Done: the letter is deleted. Failed: it is
        stored anew with the latest reason and the first one, and then the older one is deleted."""
        handling = self._handlings.get(letter.handler)
        if handling is None or letter.module != self.module:
            return _outcome(letter, "unserved", reason=f"module {self.module!r} has no such handler now")
        try:
            delivery = await self._delivery(letter)
            await handling.handle(delivery, replay=True)
        except Exception as error:  # the supervisor of user code: logs, counts, decides
            return await self._failed(letter, to_info(error), error)
        await self._transport.delete(self._names.dlq_stream, letter.sequence)
        self._count(letter, "handled")
        return _outcome(letter, "handled")

    async def _delivery(self, letter: DeadLetter) -> Delivery:
        data, at = letter.data, letter.at
        if letter.truncated:
            stored = await self._transport.get(letter.stream, letter.source_sequence)
            if stored is None:
                raise DecodeFailed(
                    f"dead letter {letter.sequence}", "it had no room for the body, and the event is gone"
                )
            data, at = stored.data, stored.at
        return Delivery(
            letter.subject,
            data,
            letter.headers,
            letter.stream,
            "",
            letter.source_sequence,
            letter.deliveries + letter.replays + 1,
            "",
            0.0,
            at,
        )

    async def _failed(self, letter: DeadLetter, info: ErrorInfo, error: Exception) -> ReplayOutcome:
        _logger.warning(
            "a replayed dead letter failed again",
            extra={
                "module_id": letter.module,
                "handler": letter.handler,
                "letter": letter.sequence,
                "code": info.code,
                "reason": info.message,
            },
        )
        again = await self._letters.add_again(letter, info, error, self._clock.now())
        await self._transport.delete(self._names.dlq_stream, letter.sequence)
        self._count(letter, "failed")
        return _outcome(letter, "failed", code=info.code, reason=info.message, again=again)

    def _count(self, letter: DeadLetter, outcome: str) -> None:
        self._metrics.counter(
            "jetloom_dead_letters_replayed_total",
            module=letter.module,
            handler=letter.handler,
            outcome=outcome,
        ).inc()


async def replay_dead_letters(
    transport: Transport,
    names: Names,
    letters: Sequence[DeadLetter],
    *,
    timeout: float = REPLAY_SECONDS,
    in_flight: int = IN_FLIGHT,
    tell: Callable[[ReplayOutcome], None] | None = None,
) -> list[ReplayOutcome]:
    """Asks replicas of each letter's module to handle it, `in_flight` at once and about in order; what became of each,
    in the order of `letters`. `tell` hears each when it is known. `timeout` is for one letter, in seconds."""
    outcomes: dict[int, ReplayOutcome] = {}
    waiting = iter(enumerate(letters))

    async def work() -> None:
        for index, letter in waiting:
            outcome = outcomes[index] = await _replay_one(transport, names, letter, timeout)
            if tell is not None:
                tell(outcome)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, len(letters))):
            group.create_task(work(), name="replay")
    return [outcomes[index] for index in range(len(letters))]


async def _replay_one(
    transport: Transport, names: Names, letter: DeadLetter, timeout: float
) -> ReplayOutcome:
    subject = names.rpc(letter.module, ENDPOINT)
    try:
        reply = await transport.request(subject, encode(ReplayRequest(letter.sequence)), timeout=timeout)
    except NoResponders:
        reason = f"no replica of module {letter.module!r} runs: start one, then replay again"
        return _outcome(letter, "unserved", code=NoResponders.code, reason=reason)
    except (RequestTimeout, Disconnected, OutcomeUnknown) as error:
        return _outcome(letter, "unanswered", code=error.code, reason=error.message)
    code = reply.headers.get(H_ERROR_CODE)
    if code is not None:
        verdict: ReplayVerdict = "gone" if code in ("404", "not_found") else "unanswered"
        return _outcome(letter, verdict, code=code, reason=reply.headers.get(H_ERROR, ""))
    try:
        return msgspec.json.decode(reply.data, type=ReplayOutcome)
    except msgspec.MsgspecError as error:
        return _outcome(letter, "unanswered", code=DecodeFailed.code, reason=f"the answer: {error}")


async def drop_dead_letters(
    transport: Transport,
    names: Names,
    letters: Sequence[DeadLetter],
    *,
    tell: Callable[[DeadLetter], None] | None = None,
) -> int:
    """Deletes them; how many were still there. Raises `OutcomeUnknown`."""
    count = 0
    for letter in letters:
        count += await transport.delete(names.dlq_stream, letter.sequence)
        if tell is not None:
            tell(letter)
    return count


def _outcome(
    letter: DeadLetter, verdict: ReplayVerdict, *, code: str = "", reason: str = "", again: int = 0
) -> ReplayOutcome:
    return ReplayOutcome(letter.sequence, letter.module, letter.handler, verdict, code, reason, again)
