"""`jetloom publish`, `jetloom events …` and `jetloom dlq …`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import App, Parameter

from ..errors import InvalidInput
from ..types import JSON  # msgspec reads the annotation
from . import _dlq, _session
from ._common import Common, current_actor, parse_duration, read_json
from ._emit import say, show
from ._process import run_command

if TYPE_CHECKING:
    from ..bus import DeadLetter, Event

events = App(name="events", help="Watch the events of the namespace.", help_format="plaintext")
dlq = App(
    name="dlq",
    help="Dead letters: what could not be processed and why; replay or drop them.",
    help_format="plaintext",
)

dlq.command(_dlq.replay)
dlq.command(_dlq.drop)

SOURCE = "jetloom.cli"

_DEFAULT = Common()


class EventLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event, as it is printed. `time` is seconds since the epoch."""

    sequence: int
    type: str
    id: str
    source: str
    time: float
    actor: str = ""
    payload: JSON = None


class Letter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A dead letter, as it is printed. `number` is its own for `dlq show`; `at` seconds since the epoch."""

    number: int
    at: float
    module: str
    handler: str
    code: str
    reason: str
    error_class: str
    subject: str
    source_sequence: int
    deliveries: int
    headers: dict[str, str] = {}
    stack: str = ""
    truncated: bool = False
    replays: int = 0
    first_code: str = ""
    first_reason: str = ""
    first_at: float = 0
    payload: JSON = None


def publish(
    type: str,
    payload: str = "null",
    /,
    *,
    id: str | None = None,
    expected_last: int | None = None,
    ttl: str | None = None,
    correlation: str | None = None,
    common: Common = _DEFAULT,
) -> None:
    """Publish an event; returns when it is stored.

    For example:

        jetloom publish shop.order.placed '{"id": 17}'
        jetloom publish shop.order.placed @order.json --id order-17-placed

    Parameters
    ----------
    type
        namespace.type in tokens of A-Z a-z 0-9 _ -, such as shop.order.placed.
    payload
        JSON, @file or @- for stdin.
    id
        The event's id: the same one again within the stream's window is stored once. Otherwise one is made.
    expected_last
        Store it only if the last event of this type has this sequence (0: there is none); otherwise exit 4.
    ttl
        After this long the event leaves the stream: 90s, 5m; at least 1s.
    correlation
        What it belongs together with.
    """
    from ..messages import check_event_type

    check_event_type(type)
    lives = None if ttl is None else parse_duration(ttl, "--ttl")
    value = read_json(payload, "the payload")

    async def main() -> None:
        from ..bus import Bus
        from ..telemetry import Metrics

        async with _session.open_session(common) as session:
            await session.require_stream(session.names.events_stream)
            event_id = id or session.clock.token()
            bus = Bus(
                session.transport,
                session.names,
                session.clock,
                Metrics(),
                source=SOURCE,
                actor=current_actor(),
            )
            sequence = await bus.publish(
                type, value, id=event_id, expected_last=expected_last, ttl=lives, correlation=correlation
            )
            answer = {"id": event_id, "type": type, "sequence": sequence}
            show(
                common.json,
                answer,
                lambda: f"event {event_id} stored as {session.names.events_stream} {sequence}",
            )

    run_command(main)


@events.command(name="tail")
def tail_events(
    pattern: str = ">",
    /,
    *,
    history: Annotated[bool, Parameter(negative=())] = False,
    limit: int | None = None,
    timeout: str | None = None,
    common: Common = _DEFAULT,
) -> None:
    """Print events as they are stored, until Ctrl-C. With --json: one event a line.

    For example:

        jetloom events tail
        jetloom events tail 'shop.order.*' --json
        jetloom events tail shop.order.placed --history --limit 10

    Parameters
    ----------
    pattern
        Event types: * stands for one token, > at the end for the rest.
    history
        Begin with what the stream holds.
    limit
        End after this many events.
    timeout
        End when this long (30s, 5m) no event came.
    """
    patience = None if timeout is None else parse_duration(timeout, "--timeout")

    async def main() -> None:
        import asyncio

        from ..bus import check_pattern, follow_events
        from ._render import event_line

        check_pattern(pattern)
        async with _session.open_session(common) as session:
            await session.require_stream(session.names.events_stream)
            start = 0 if history else None
            async with follow_events(session.transport, session.names, pattern, after=start) as stream:
                if not common.json:
                    say(f"events {pattern} of namespace {session.names.namespace}; Ctrl-C ends")
                printed = 0
                while limit is None or printed < limit:
                    try:
                        async with asyncio.timeout(patience):
                            event = await anext(stream)
                    except TimeoutError:
                        return
                    line = to_event_line(event)
                    show(common.json, line, lambda line=line: event_line(line))
                    printed += 1

    run_command(main)


@dlq.command(name="list")
def list_dead_letters(
    *,
    module: str | None = None,
    handler: str | None = None,
    limit: int = 50,
    after: int = 0,
    common: Common = _DEFAULT,
) -> None:
    """List dead letters: module, handler and the reason.

    For example:

        jetloom dlq list
        jetloom dlq list --module orders --json

    Parameters
    ----------
    module
        Only those of this module.
    handler
        Only those of this handler.
    limit
        How many, 1 to 1000.
    after
        Only those after this number.
    """
    if not 1 <= limit <= 1000:
        raise InvalidInput(f"--limit {limit}: 1 to 1000 fit a page; use --after for the next one")

    async def main() -> None:
        from ..bus import list_dead_letters as read_page
        from ._render import dead_letter_table

        async with _session.open_session(common) as session:
            await session.require_stream(session.names.dlq_stream)
            page, cursor = await read_page(
                session.transport,
                session.names,
                module=module or "",
                handler=handler or "",
                limit=limit,
                after=after,
            )
            letters = [to_letter(each) for each in page]
            now = session.clock.now()
            show(
                common.json,
                {"dead_letters": letters, "next": cursor},
                lambda: dead_letter_table(letters, now=now),
            )
            if cursor and not common.json:
                say(f"more: add --after {cursor}")

    run_command(main)


@dlq.command(name="show")
def show_dead_letter(number: int, /, *, common: Common = _DEFAULT) -> None:
    """Show one dead letter: reason, headers and payload.

    For example:

        jetloom dlq show 12
        jetloom dlq show 12 --json | jq .payload

    Parameters
    ----------
    number
        The number that `jetloom dlq list` prints.
    """

    async def main() -> None:
        from ..bus import get_dead_letter
        from ._render import dead_letter_view

        async with _session.open_session(common) as session:
            await session.require_stream(session.names.dlq_stream)
            letter = to_letter(await get_dead_letter(session.transport, session.names, number))
            show(common.json, letter, lambda: dead_letter_view(letter))

    run_command(main)


def to_event_line(event: Event[JSON]) -> EventLine:
    return EventLine(
        sequence=event.sequence,
        type=event.type,
        id=event.id,
        source=event.source,
        time=event.time.timestamp(),
        actor=str(event.actor) if event.actor else "",
        payload=event.payload,
    )


def to_letter(letter: DeadLetter) -> Letter:
    return Letter(
        number=letter.sequence,
        at=letter.at,
        module=letter.module,
        handler=letter.handler,
        code=letter.code,
        reason=letter.reason,
        error_class=str(letter.error_class),
        subject=letter.subject,
        source_sequence=letter.source_sequence,
        deliveries=letter.deliveries,
        headers=letter.headers,
        stack=letter.stack,
        truncated=letter.truncated,
        replays=letter.replays,
        first_code=letter.first_code,
        first_reason=letter.first_reason,
        first_at=letter.first_at,
        payload=read_payload(letter.data),
    )


def read_payload(data: bytes) -> JSON:
    """The payload as JSON; what is none comes as text."""
    if not data:
        return None
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data.decode(errors="replace")
