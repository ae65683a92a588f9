"""nats-py, reached into where its own paths lose cancellation, order or messages.

nats-py keeps connecting, authenticating, TLS and reconnecting. What jetloom sends goes straight into its write
buffer, and what the subscriptions of jetloom receive goes straight from its parser to a handler. What is
reached into is pinned by `tests/transport` and `tests/conformance`: `_pending`, `_pending_data_size`, `_flush_queue`,
`_subs`, `_sid`, `_process_msg`, `_process_err`, `_process_op_err`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error as NatsError

from ._wire import check_subject, publish_command

logger = logging.getLogger("jetloom.transport")

PENDING_BYTES_MAX = 8 * 1024 * 1024
"""Written but not sent: above it senders wait."""

type Received = Callable[[str, str, bytes, bytes], None]
"""subject, reply, header block, data"""


class Link(Client):
    """One connection, with direct dispatch and synchronous writes."""

    def __init__(self) -> None:
        super().__init__()
        self.received: dict[int, Received] = {}
        self.closing = False
        """Whether the connection is being closed on purpose."""

    def _connect_command(self) -> bytes:
        # nats-py encrypts when the server asks for it, whatever the URL says: refuse before credentials are sent.
        current = self._current_server
        if current is not None and current.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise NatsError(
                "the URL asks for TLS, and the server does not require it: its connections are in clear"
            )
        return super()._connect_command()

    # -- writing
    def write(self, command: bytes) -> None:
        """Queues a command for the next write to the socket, in order; never waits."""
        self._pending.append(command)
        self._pending_data_size += len(command)
        queue = self._flush_queue
        if queue is not None and queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())

    def send(self, subject: str, reply: str, headers: bytes, data: bytes) -> None:
        self.write(publish_command(subject, reply, headers, data))

    @property
    def crowded(self) -> bool:
        return self._pending_data_size > PENDING_BYTES_MAX

    def discard(self) -> None:
        """Forgets what was queued: nothing decided before a disconnect is sent after it."""
        self._pending = []
        self._pending_data_size = 0

    # -- subscriptions
    def listen(self, subject: str, received: Received, queue: str = "") -> int:
        """Subscribes; the id. Survives reconnects, since nats-py replays what stands in its table."""
        check_subject(subject)
        if queue:
            check_subject(queue)
        self._sid += 1
        sid = self._sid
        self._subs[sid] = NatsSubscription(self, sid, subject, queue=queue)
        self.received[sid] = received
        self.write(f"SUB {subject} {queue} {sid}\r\n".encode())
        return sid

    def forget(self, sid: int) -> None:
        if self.received.pop(sid, None) is not None:
            self._subs.pop(sid, None)
            if self.is_connected:
                self.write(f"UNSUB {sid}\r\n".encode())

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        handler = self.received.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        try:
            handler(subject.decode(), reply.decode(), headers or b"", bytes(data))
        except Exception:
            # A handler's bug must not end the read loop, which would stop every other subscription too.
            logger.exception("a message handler failed", extra={"subject": subject.decode(errors="replace")})

    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes for good on most errors; whatever the server did not like, a new connection is the way on.
        if "permissions violation" in err_msg.lower():
            await super()._process_err(err_msg)
            return
        await self._process_op_err(NatsError(f"nats: {err_msg}"))
