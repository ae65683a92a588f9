"""The same events and requests on FastStream, where it is installed. Imported only by its own process."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec

from ._child import UnknownOrder
from ._load import Figures, Given, closed_loop, now
from ._seen import ECHO, STREAM, SUBJECT, TEXT, Seen

if TYPE_CHECKING:
    from faststream.nats import NatsBroker

TIMEOUT = 10.0


class Stream:
    """A FastStream app. `name` is `push` or `pull` for one with handlers, `` for one that publishes and calls.

    Its log is off, which it would otherwise write for each message; everything else is as its documentation has it.
    """

    def __init__(self, config: Given) -> None:
        self._config = config
        self._seen = Seen()
        self._broker: NatsBroker | None = None
        self._numbers = itertools.count()

    async def start(self) -> None:
        from faststream.nats import NatsBroker

        self._broker = NatsBroker(self._config.url, logger=None)
        if self._config.name:
            from ._roles_faststream_models import subscribe

            subscribe(self._broker, self._seen, self._config.name)
        await self._broker.start()
        if self._config.name:
            # The start does not wait until the server knows the subscriptions: a request of our own comes after them.
            await self._request()

    async def stop(self) -> None:
        if self._broker is not None:
            await self._broker.stop()

    async def do(self, verb: str, given: Given) -> Figures:
        broker = self._broker
        assert broker is not None
        match verb:
            case "publish":
                from ._roles_faststream_models import Thing

                began = now()
                found = await closed_loop(
                    lambda: broker.publish(
                        Thing(number=next(self._numbers), at=now(), text=TEXT),
                        SUBJECT,
                        stream=STREAM,
                        timeout=TIMEOUT,
                    ),
                    concurrency=given.concurrency,
                    seconds=given.seconds,
                    warm=0.0,
                )
                return msgspec.structs.replace(found, more={**found.more, "began": began})
            case "call":
                return await closed_loop(self._request, concurrency=given.concurrency, seconds=given.seconds)
            case "seen":
                return await self._seen.until(given)
            case _:
                raise UnknownOrder(verb)

    async def _request(self) -> None:
        from ._roles_faststream_models import Thing

        assert self._broker is not None
        answer = await self._broker.request(Thing(number=1, at=now(), text=TEXT), ECHO, timeout=TIMEOUT)
        Thing.model_validate(await answer.decode())
