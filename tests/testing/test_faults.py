"""Faults between simulated processes and the memory server."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Coroutine
from typing import Any

import pytest

from jetloom.errors import Disconnected, NoResponders, OutcomeUnknown, RequestTimeout
from jetloom.testing import PROCESS, FaultRates, SeededFaults, VirtualClock, VirtualLoop, run_virtual
from jetloom.transport import (
    Calm,
    ConsumerAsset,
    Delivery,
    Fate,
    Incoming,
    MemoryServer,
    MemoryTransport,
    Op,
    StreamAsset,
)

STREAM = StreamAsset(name="S", subjects=("s.>",), rollup=True, ttl=True)
QUEUE = StreamAsset(name="Q", subjects=("q.>",), retention="workqueue", discard="new")
CONSUMER = ConsumerAsset(stream="Q", name="c", ack_wait=2)


class Once(Calm):
    """One operation of a kind and connection meets a fate, the others none."""

    def __init__(self, kind: str, fate: Fate, connection: str = "a") -> None:
        self.kind = kind
        self.connection = connection
        self.its = fate
        self.met = 0

    def fate(self, op: Op) -> Fate:
        if (op.kind, op.connection) == (self.kind, self.connection) and not self.met:
            self.met += 1
            return self.its
        return Fate()


def universe(seed: int = 1) -> tuple[VirtualLoop, MemoryServer]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop, MemoryServer(VirtualClock(loop, seed))


async def in_process[T](process: str, body: Coroutine[Any, Any, T]) -> T:
    context = contextvars.copy_context()
    context.run(PROCESS.set, process)
    return await asyncio.get_running_loop().create_task(body, context=context)


async def prepared(server: MemoryServer) -> MemoryTransport:
    ctl = server.connect("ctl")
    for asset in (STREAM, QUEUE, CONSUMER):
        await ctl.ensure(asset)
    return ctl


@pytest.mark.parametrize(
    ("trouble", "stored"), [("lost", False), ("muted", True), ("cut_before", False), ("cut_after", True)]
)
def test_append_without_a_verdict(trouble: Any, stored: bool) -> None:
    """An append whose answer is lost, or whose connection breaks, has no verdict: it is stored or not."""

    async def main() -> None:
        loop, server = universe()
        ctl = await prepared(server)
        faults = server.faults = Once("append", Fate(0.01, 0.01, trouble=trouble, down=1))
        a = server.connect("a")
        begun = loop.time()
        with pytest.raises(OutcomeUnknown):
            await a.append("s.x", b"1", timeout=5)
        assert faults.met == 1
        assert (loop.time() - begun < 1) == trouble.startswith("cut")
        assert (await ctl.last("S", "s.x") is not None) == stored
        await asyncio.sleep(2)
        assert a.connected

    run_virtual(main)


def test_commands_of_a_connection_keep_their_order() -> None:
    """A slow command holds up the later ones of its connection, and none of another's."""

    async def main() -> None:
        _, server = universe()
        ctl = await prepared(server)
        server.faults = Once("append", Fate(there=1.0))
        a, b = server.connect("a"), server.connect("b")
        await asyncio.gather(a.append("s.x", b"slow"), a.append("s.x", b"next"), b.append("s.x", b"other"))
        assert [one.data for one in await ctl.read("S", "s.x")] == [b"other", b"slow", b"next"]

    run_virtual(main)


def test_sent_before_the_loss_may_arrive_after_it() -> None:
    """What was on the wire when the client noticed a loss may still be stored; with `lose_sent` it is gone."""

    async def main() -> None:
        _, server = universe()
        ctl = await prepared(server)
        a = server.connect("a")
        for lose in (False, True):
            server.faults = Once("append", Fate(there=1.0))
            sending = asyncio.ensure_future(a.append(f"s.{lose}", b"x"))
            await asyncio.sleep(0.5)
            a.disconnect(lose_sent=lose)
            with pytest.raises(OutcomeUnknown):
                await sending
            assert await ctl.last("S", f"s.{lose}") is None
            await asyncio.sleep(1)
            assert (await ctl.last("S", f"s.{lose}") is None) == lose
            a.reconnect()

    run_virtual(main)


def test_direct_reads_may_be_stale_and_leader_reads_never() -> None:
    """A stale direct read answers from a past that really was; the leader always knows the present."""

    class Behind(Calm):
        def stale(self, op: Op) -> int:
            return 2

    async def main() -> None:
        _, server = universe()
        server.faults = Behind()
        t = await prepared(server)
        for n in range(4):
            await t.append("s.x", str(n).encode())
        assert [one.data for one in await t.read("S", "s.x", direct=True)] == [b"0", b"1"]
        assert len(await t.read("S", "s.x")) == 4
        await t.append("s.x", b"rolled", rollup=True)
        past = await t.last("S", "s.x", direct=True)
        assert past is not None
        assert past.data != b"0"
        now = await t.last("S", "s.x")
        assert now is not None
        assert now.data == b"rolled"
        assert await t.get("S", 5) is not None

    run_virtual(main)


def test_a_rollup_passes_under_a_long_read() -> None:
    """A leader read of many messages is no snapshot: what is rolled up meanwhile is missing from its second half."""

    class Split(Calm):
        def split(self, op: Op) -> int:
            return 2

    async def main() -> None:
        _, server = universe()
        ctl = await prepared(server)
        for n in range(6):
            await ctl.append("s.x", str(n).encode())
        server.faults = Split()
        a = server.connect("a")
        reading = asyncio.ensure_future(a.read("S", "s.x"))
        await asyncio.sleep(0.0005)
        await ctl.append("s.x", b"snapshot", rollup=True)
        assert [one.data for one in await reading] == [b"0", b"1", b"snapshot"]

    run_virtual(main)


def test_separated_engines_get_no_answer() -> None:
    """Between separated connections a request is unanswered rather than refused; streams are reached by both."""

    async def main() -> None:
        _, server = universe()
        await prepared(server)
        faults = server.faults = SeededFaults(1)
        a, b = server.connect("a"), server.connect("b")

        def answer(message: Incoming) -> None:
            tasks.append(asyncio.ensure_future(b.publish(message.reply, b"yes")))

        tasks: list[asyncio.Task[None]] = []
        await b.subscribe("ask", answer)
        assert (await a.request("ask", b"")).data == b"yes"
        faults.separate("a", "b")
        with pytest.raises(RequestTimeout):
            await a.request("ask", b"", timeout=1)
        await a.append("s.x", b"1")
        await b.append("s.x", b"2")
        faults.join("b", "a")
        assert (await a.request("ask", b"")).data == b"yes"

    run_virtual(main)


def test_repeated_and_late_deliveries() -> None:
    """A delivery can be repeated long before its `ack_wait`, and a redelivery can be late once."""

    class Twice(Calm):
        repeats = 1

        def repeat(self, stream: str, consumer: str, sequence: int) -> bool:
            self.repeats -= 1
            return self.repeats >= 0

        def redelivery_delay(self, stream: str, consumer: str, sequence: int) -> float:
            return 3.0

    async def main() -> None:
        loop, server = universe()
        server.faults = Twice()
        t = await prepared(server)
        got: list[tuple[int, float]] = []
        await t.pull("Q", "c", lambda one: got.append((one.count, loop.time())), capacity=lambda: 9, expiry=1)
        await t.append("q.x", b"1")
        await asyncio.sleep(9)
        assert [count for count, _ in got] == [1, 2, 3]
        assert got[1][1] - got[0][1] < 0.1
        assert got[2][1] - got[1][1] == pytest.approx(5, abs=0.01)

    run_virtual(main)


def test_server_crash_keeps_what_was_acknowledged() -> None:
    """A restarted server has its messages, acks and counts; its clients come back, consumed ids are forgotten."""

    async def main() -> None:
        _, server = universe()
        t = await prepared(server)
        got: list[Delivery] = []
        await t.pull("Q", "c", got.append, capacity=lambda: 9, expiry=1)
        await t.append("q.1", b"1", message_id="one")
        await t.append("q.2", b"2", message_id="two")
        await asyncio.sleep(0.1)
        await t.ack(got[0].ack_subject)
        await t.flush()
        asking = asyncio.ensure_future(t.request("nobody", b""))
        server.crash()
        with pytest.raises((Disconnected, NoResponders)):
            await asking
        assert not t.connected
        with pytest.raises(OutcomeUnknown):
            await t.append("q.3", b"3")
        await asyncio.sleep(10)
        server.restart()
        await asyncio.sleep(3)
        assert t.connected
        assert [(one.sequence, one.count) for one in got][:2] == [(1, 1), (2, 1)]
        assert {(one.sequence, one.count) for one in got[2:]} >= {(2, 2)}
        assert all(one.sequence == 2 for one in got[2:])
        assert (await t.append("q.2", b"2", message_id="two")).duplicate
        assert not (await t.append("q.1", b"1", message_id="one")).duplicate

    run_virtual(main)


def test_frozen_client_sees_late_what_was_delivered_in_time() -> None:
    """A frozen process gets its deliveries at the thaw, with the basis of the request that brought them."""

    async def main() -> None:
        loop, server = universe()
        ctl = await prepared(server)
        got: list[tuple[Delivery, float]] = []

        async def engine() -> None:
            a = server.connect("a")
            await a.pull("Q", "c", lambda one: got.append((one, loop.time())), capacity=lambda: 9, expiry=1)

        await in_process("a", engine())
        await asyncio.sleep(0.5)
        loop.freeze("a")
        await ctl.append("q.x", b"1")
        await asyncio.sleep(10)
        assert not got
        state = await ctl.consumer_state("Q", "c")
        assert state is not None
        assert (state.unacknowledged, state.waiting) == (1, 0)
        loop.thaw("a")
        await asyncio.sleep(1)
        assert [one.count for one, _ in got] == [1, 2]
        assert got[0][0].basis < 1
        assert got[0][1] >= 10

    run_virtual(main)


def test_crash_points() -> None:
    """A process can be killed before it sends, when the server has applied, and when it has the answer."""

    def play(where: str) -> tuple[bool, bool]:
        async def main() -> tuple[bool, bool]:
            loop, server = universe()
            ctl = await prepared(server)
            faults = server.faults = SeededFaults(1)
            went_on: list[bool] = []

            def crash(op: Op) -> Awaitable[None] | None:
                if (op.kind, op.connection) != ("append", "a"):
                    return None
                loop.kill("a")
                return loop.never()

            def crash_now(op: Op) -> None:
                if (op.kind, op.connection) == ("append", "a"):
                    loop.kill("a")

            if where == "applied":
                faults.on_applied = crash_now
            else:
                setattr(faults, f"on_{where}", crash)

            async def engine() -> None:
                a = server.connect("a")
                try:
                    await a.append("s.x", b"1")
                finally:
                    went_on.append(True)

            running = asyncio.ensure_future(in_process("a", engine()))
            await asyncio.sleep(5)
            running.cancel()
            faults.calm()
            return await ctl.last("S", "s.x") is not None, bool(went_on)

        return run_virtual(main)

    assert play("before") == (False, False)
    assert play("applied") == (True, False)
    assert play("after") == (True, False)


def test_universes_repeat() -> None:
    """The same seed gives the same universe, with every fault switched on."""
    rates = FaultRates(
        slow=0.1, lost=0.02, muted=0.02, cut_before=0.01, cut_after=0.01, stale=0.2, split=0.2, repeat=0.05,
        late_redelivery=0.2,
    )  # fmt: skip

    def play(seed: int) -> tuple[list[str], int]:
        async def main() -> tuple[list[str], int]:
            loop, server = universe(seed)
            faults = SeededFaults(seed, rates)
            ctl = await prepared(server)
            server.faults = faults
            log: list[str] = []

            async def engine(name: str) -> None:
                t = server.connect(name)
                tasks: set[asyncio.Task[None]] = set()

                async def work(one: Delivery) -> None:
                    log.append(f"{name} {one.sequence} {one.count} {loop.time():.4f}")
                    try:
                        last = await t.last("S", one.subject.replace("q", "s"), direct=True)
                        await t.append(
                            one.subject.replace("q", "s"),
                            b"",
                            expected=last.sequence if last else 0,
                            timeout=1,
                        )
                    except Exception as error:
                        log.append(type(error).__name__)
                    await t.ack(one.ack_subject)

                def take(one: Delivery) -> None:
                    task = loop.create_task(work(one))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

                await t.pull("Q", "c", take, capacity=lambda: 5, expiry=0.5)

            for name in ("a", "b", "c"):
                await in_process(name, engine(name))
            for n in range(60):
                try:
                    await ctl.append(f"q.{n % 7}.{n}", b"", timeout=1)
                except OutcomeUnknown:
                    await asyncio.sleep(0.5)
            await asyncio.sleep(30)
            faults.calm()
            await asyncio.sleep(30)
            assert server.streams["Q"].state().messages == 0
            return log, loop.turns

        return run_virtual(main, seed)

    assert play(3) == play(3)
    assert play(3) != play(4)
    kinds = {line for seed in range(8) for line in play(seed)[0]}
    assert {"OutcomeUnknown", "ConditionFailed"} <= kinds
