"""A follow and its hints: the server hands a message on before it has stored it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from jetloom.testing import run_virtual
from jetloom.transport import Incoming, IncomingHandler, NatsTransport, Stored, StreamState
from jetloom.transport._follow import HINTED, LOOK, NatsFollow

STORED_AFTER = 5 * HINTED


class Slow:
    """A stream whose one message is stored a moment after it was handed on."""

    def __init__(self) -> None:
        self.looks = 0
        self.stored = False
        self.hint: IncomingHandler | None = None

    async def stream_state(self, stream: str) -> StreamState:
        return StreamState(0, 0, 0, 0, 0)

    async def subscribe(self, subject: str, handler: IncomingHandler) -> Slow:
        self.hint = handler
        return self

    async def read(self, stream: str, subject: str, *, after: int, limit: int) -> Sequence[Stored]:
        self.looks += 1
        return [Stored("s.x", 1, b"", {}, 0.0)] if self.stored and after < 1 else []

    async def stop(self) -> None: ...

    def dropped(self, ended: NatsFollow) -> None: ...


def test_what_was_hinted_at_too_early_is_found_soon() -> None:
    """An empty look after a hint is followed by others, ever later: not by one at the next round alone."""

    async def main() -> None:
        stream, seen = Slow(), list[float]()
        loop = asyncio.get_running_loop()
        transport = cast("NatsTransport", stream)
        follow = NatsFollow(transport, "S", "s.x", lambda _: seen.append(loop.time()), after=None, last=False)
        await follow.start()
        await asyncio.sleep(3 * LOOK)
        assert stream.hint is not None
        began, looks = loop.time(), stream.looks
        stream.hint(Incoming("s.x", b"", {}, ""))
        await asyncio.sleep(STORED_AFTER)
        stream.stored = True
        await asyncio.sleep(LOOK / 2)
        assert len(seen) == 1
        assert seen[0] - began <= 3 * STORED_AFTER
        assert stream.looks - looks <= 8
        await follow.stop()

    run_virtual(main)
