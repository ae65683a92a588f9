"""Processes that put load on the server: through nats-py as it is, and through jetloom's transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..transport import Baseline, ConsumerAsset, Delivery, Incoming, StreamAsset, Transport, connect
from ._child import UnknownOrder
from ._load import Figures, Given, closed_loop, figures_of, now

STREAM = "LIMITS"
SUBJECT = "limits.stored"
ECHO = "limits.echo"
BURST = 100
"""Core publishes between two looks at the clock."""
PULL_SECONDS_MAX = 60.0
BATCH = 200
"""Of a pull: what keeps a request open while the messages of the one before are handled."""


class Plain:
    """nats-py as it is. Verbs: `append`, `publish`, `request`, `answer`, `fill`, `pull`."""

    def __init__(self, config: Given) -> None:
        self._config = config
        self._baseline: Baseline | None = None

    async def start(self) -> None:
        self._baseline = await Baseline.open(self._config.url)
        await self._baseline.ensure_stream(STREAM, SUBJECT)

    async def stop(self) -> None:
        if self._baseline is not None:
            await self._baseline.close()

    async def do(self, verb: str, given: Given) -> Figures:
        baseline = self._baseline
        assert baseline is not None
        data = b"x" * given.size
        match verb:
            case "append":
                return await _loop(lambda: baseline.append(SUBJECT, data), given)
            case "publish":
                return await _publish(lambda: baseline.publish("limits.core", data), baseline.flush, given)
            case "request":
                return await _loop(lambda: baseline.request(given.name or ECHO, data), given)
            case "answer":
                await baseline.answer(ECHO)
                return Figures()
            case "pull":
                return await self._pull(baseline, given)
            case _:
                raise UnknownOrder(verb)

    async def _pull(self, baseline: Baseline, given: Given) -> Figures:
        done, seen, began = asyncio.Event(), 0, now()

        def handle(_: bytes) -> None:
            nonlocal seen
            seen += 1
            if seen == given.count:
                done.set()

        async with asyncio.timeout(PULL_SECONDS_MAX):
            await baseline.pull(STREAM, SUBJECT, handle, until=done, batch=BATCH)
        return figures_of([], now() - began, handled=seen)


class Port:
    """jetloom's transport. Verbs: `append`, `publish`, `request`, `answer`, `fill`, `pull`, `count`."""

    def __init__(self, config: Given) -> None:
        self._config = config
        self._transport: Transport | None = None

    async def start(self) -> None:
        self._transport = await connect(self._config.url, name="jetloom-bench")
        await self._transport.ensure(StreamAsset(name=STREAM, subjects=(SUBJECT,)))

    async def stop(self) -> None:
        if self._transport is not None:
            await self._transport.close()

    async def do(self, verb: str, given: Given) -> Figures:
        transport = self._transport
        assert transport is not None
        data = b"x" * given.size
        match verb:
            case "append":
                return await _loop(lambda: transport.append(SUBJECT, data), given)
            case "publish":
                return await _publish(lambda: transport.publish("limits.core", data), transport.flush, given)
            case "request":
                return await _loop(lambda: transport.request(given.name or ECHO, data), given)
            case "answer":
                return await self._answer(transport)
            case "fill":
                return await _fill(transport, data, given.count)
            case "pull":
                return await self._pull(transport, given)
            case "count":
                state = await transport.stream_state(STREAM)
                return Figures(count=state.messages if state is not None else 0)
            case "unacknowledged":
                found = await transport.consumer_state(STREAM, given.name)
                return Figures(count=found.pending + found.unacknowledged if found is not None else -1)
            case _:
                raise UnknownOrder(verb)

    async def _answer(self, transport: Transport) -> Figures:
        waiting: set[asyncio.Task[None]] = set()

        def answer(incoming: Incoming) -> None:
            task = asyncio.ensure_future(transport.publish(incoming.reply, incoming.data))
            waiting.add(task)
            task.add_done_callback(waiting.discard)

        await transport.subscribe(ECHO, answer)
        return Figures()

    async def _pull(self, transport: Transport, given: Given) -> Figures:
        asset = ConsumerAsset(stream=STREAM, name="port", ack_pending_max=10_000)
        await transport.ensure(asset)
        done, seen, began = asyncio.Event(), 0, now()
        acks: set[asyncio.Task[None]] = set()

        def take(delivery: Delivery) -> None:
            nonlocal seen
            seen += 1
            task = asyncio.ensure_future(transport.ack(delivery.ack_subject))
            acks.add(task)
            task.add_done_callback(acks.discard)
            if seen == given.count:
                done.set()

        pull = await transport.pull(STREAM, "port", take, capacity=lambda: 4 * BATCH, expiry=1.0, batch=BATCH)
        async with asyncio.timeout(PULL_SECONDS_MAX):
            await done.wait()
        await transport.flush()
        took = now() - began
        await pull.stop()
        return figures_of([], took, handled=seen)


async def _loop(call: Callable[[], Awaitable[object]], given: Given) -> Figures:
    return await closed_loop(call, concurrency=given.concurrency, seconds=given.seconds)


async def _publish(
    send: Callable[[], Awaitable[None]], flush: Callable[[], Awaitable[None]], given: Given
) -> Figures:
    """As fast as it goes; over when the server has read everything."""
    began, sent = now(), 0
    while now() - began < given.seconds:
        for _ in range(BURST):
            await send()
        sent += BURST
    await flush()
    return figures_of([], now() - began, sent=sent)


async def _fill(transport: Transport, data: bytes, count: int) -> Figures:
    left = count

    async def writer() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await transport.append(SUBJECT, data)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(256, count)):
            group.create_task(writer())
    return Figures(count=count)
