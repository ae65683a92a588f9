"""The transport's contract for streams, on the twin and on a real server. Where they differ, the server is right."""

from __future__ import annotations

import pytest

from jetloom.errors import (
    ConditionFailed,
    OutcomeUnknown,
    PayloadTooLarge,
    Refused,
)
from jetloom.transport import (
    ConsumerAsset,
    Write,
)
from tests.conformance.world import Box, World, elapse, scenario, stream, until, until_true, work_queue

# -- appending


@scenario
async def test_append_is_numbered(world: World) -> None:
    """Messages get sequences from 1, and are read back as they were."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    assert [(await t.append(f"{p}.{n}", b"x", headers={"K": f"v{n}"})).sequence for n in (1, 2, 3)] == [
        1,
        2,
        3,
    ]
    found = await t.get(name, 2)
    assert found is not None
    assert (found.subject, found.data, found.headers["K"]) == (f"{p}.2", b"x", "v2")
    assert abs(found.at - world.now()) < 10
    state = await t.stream_state(name)
    assert state is not None
    assert (state.messages, state.first, state.last) == (3, 1, 3)


@scenario
async def test_append_all_keeps_its_order(world: World) -> None:
    """Messages that are written together stand in their stream in that order once the last is acknowledged."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.append_all([Write(f"{p}.{n % 7}", str(n).encode(), {"K": str(n)}) for n in range(300)])
    found = await t.read(name, f"{p}.>", limit=400)
    assert [(one.data, one.headers["K"]) for one in found] == [(str(n).encode(), str(n)) for n in range(300)]
    with pytest.raises(OutcomeUnknown):
        await t.append_all([Write("nobody.stores.this", b"")], timeout=1)


@scenario
async def test_a_group_is_stored_in_one_piece(world: World) -> None:
    """Every message of a group gets the next sequence, with its condition, its TTL and its rollup."""
    t = await world.connect("a")
    name, p = await stream(world, t, atomic=True, rollup=True, ttl=True)
    old = await t.append(f"{p}.r", b"old")
    first = await t.append_group(
        [
            Write(f"{p}.x", b"1", {"K": "v"}, expected=0),
            Write(f"{p}.r", b"2", ttl=60.0, expected=old.sequence, rollup=True),
            Write(f"{p}.y", b"3"),
        ]
    )
    assert first == old.sequence + 1
    found = await t.read(name, f"{p}.>")
    assert [(one.sequence, one.data) for one in found] == [
        (first, b"1"),
        (first + 1, b"2"),
        (first + 2, b"3"),
    ]
    assert found[0].headers["K"] == "v"
    assert await t.append_group([Write(f"{p}.x", b"4", expected=first)]) == first + 3


@scenario
async def test_a_group_is_refused_as_a_whole(world: World) -> None:
    """One condition that does not hold, or one member that is not allowed, keeps all of them out."""
    t = await world.connect("a")
    name, p = await stream(world, t, atomic=True)
    await t.append(f"{p}.x", b"-")
    with pytest.raises(ConditionFailed):
        await t.append_group([Write(f"{p}.{n}", b"-", expected=0) for n in ("a", "x", "b")])
    with pytest.raises(Refused):
        await t.append_group([Write(f"{p}.a", b"-"), Write(f"{p}.b", b"-", rollup=True)])
    with pytest.raises(PayloadTooLarge):
        await t.append_group([Write(f"{p}.a", b"-"), Write(f"{p}.b", b"-" * (t.server.max_payload + 1))])
    with pytest.raises(Refused):
        await t.append_group([Write(f"{p}.{n}", b"-") for n in range(1001)])
    with pytest.raises(Refused):
        await t.append_group([Write("nobody.stores.this", b"-"), Write(f"{p}.a", b"-")])
    assert [one.data for one in await t.read(name, f"{p}.>")] == [b"-"]
    # Whatever became of those, the stream takes what comes next.
    assert await t.append_group([Write(f"{p}.{n}", b"-", expected=0) for n in ("a", "b")]) == 2
    plain, q = await stream(world, t)
    with pytest.raises(Refused):
        await t.append_group([Write(f"{q}.a", b"-"), Write(f"{q}.b", b"-")])
    assert await t.last(plain, f"{q}.a") is None


@scenario
async def test_expected_sequence(world: World) -> None:
    """A write is refused when its subject's last sequence is another; the error says which, and nothing is stored."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    first = await t.append(f"{p}.x", b"1", expected=0)
    with pytest.raises(ConditionFailed) as failed:
        await t.append(f"{p}.x", b"2", expected=0)
    assert failed.value.actual_sequence == first.sequence
    await t.append(f"{p}.other", b"-")
    second = await t.append(f"{p}.x", b"2", expected=first.sequence)
    assert second.sequence == 3
    assert [one.data for one in await t.read(name, f"{p}.x")] == [b"1", b"2"]


@scenario
async def test_expected_is_stored_in_headers(world: World) -> None:
    """The condition travels and is stored as the server's own header."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.append(f"{p}.x", b"1", expected=0, message_id="m")
    found = await t.last(name, f"{p}.x")
    assert found is not None
    assert found.headers["Nats-Expected-Last-Subject-Sequence"] == "0"
    assert found.headers["Nats-Msg-Id"] == "m"


@scenario
async def test_duplicate_window(world: World) -> None:
    """A remembered message id is answered with the old sequence and not stored; the expectation is checked first."""
    t = await world.connect("a")
    name, p = await stream(world, t, duplicate_window=1)
    first = await t.append(f"{p}.x", b"1", message_id="id")
    again = await t.append(f"{p}.y", b"2", message_id="id")
    assert (again.sequence, again.duplicate) == (first.sequence, True)
    with pytest.raises(ConditionFailed):
        await t.append(f"{p}.x", b"1", message_id="id", expected=0)
    state = await t.stream_state(name)
    assert state is not None
    assert state.messages == 1
    await elapse(1.5)
    assert not (await t.append(f"{p}.x", b"3", message_id="id")).duplicate


@scenario
async def test_duplicate_window_outlives_the_message(world: World) -> None:
    """An id is remembered in the window also when its message was consumed; expected 0 alone would pass again."""
    t = await world.connect("a")
    name, p = await work_queue(world, t)
    await t.append(f"{p}.x", b"1", message_id="id", expected=0)
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    await t.ack(box.got[0].ack_subject)
    await t.flush()
    assert (await t.append(f"{p}.x", b"1", message_id="id", expected=0)).duplicate
    assert not (await t.append(f"{p}.x", b"1", expected=0)).duplicate
    await pull.stop()


@scenario
async def test_no_stream(world: World) -> None:
    """An append that no stream takes has no verdict."""
    t = await world.connect("a")
    with pytest.raises(OutcomeUnknown):
        await t.append(f"nobody.{world.number}", b"x", timeout=1)


@scenario
async def test_payload_too_large(world: World) -> None:
    """A payload above the server's limit is refused by an error that names the limit, before it is sent."""
    t = await world.connect("a")
    _, p = await stream(world, t)
    with pytest.raises(PayloadTooLarge):
        await t.append(f"{p}.x", b"x" * (t.server.max_payload + 1))
    assert (await t.append(f"{p}.x", b"x")).sequence == 1


@scenario
async def test_publish_is_stored(world: World) -> None:
    """A plain publish on a stream's subject is stored, and a request on it gets the stream's answer."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.publish(f"{p}.x", b"plain")
    reply = await t.request(f"{p}.x", b"asked")
    assert b'"seq":2' in reply.data.replace(b" ", b"")
    assert [one.data for one in await t.read(name, f"{p}.x")] == [b"plain", b"asked"]


@scenario
async def test_messages_per_subject(world: World) -> None:
    """A stream with a limit per subject keeps the newest ones."""
    t = await world.connect("a")
    name, p = await stream(world, t, messages_per_subject_max=2)
    for n in range(4):
        await t.append(f"{p}.x", str(n).encode())
    await t.append(f"{p}.y", b"y")
    assert [one.data for one in await t.read(name, f"{p}.>")] == [b"2", b"3", b"y"]


@scenario
async def test_bytes_max_discards_new(world: World) -> None:
    """A full stream with `discard new` stores nothing, which is no verdict: it takes again when there is room."""
    t = await world.connect("a")
    name, p = await stream(world, t, discard="new", bytes_max=2000)
    await t.append(f"{p}.x", b"x" * 1500)
    with pytest.raises(OutcomeUnknown):
        await t.append(f"{p}.y", b"x" * 1500)
    assert await t.last(name, f"{p}.y") is None
    await t.purge(name, f"{p}.x")
    await t.append(f"{p}.y", b"x" * 1500)


# -- rollup, TTL


@scenario
async def test_rollup(world: World) -> None:
    """A rollup removes the older messages of its own subject only, under its condition."""
    t = await world.connect("a")
    name, p = await stream(world, t, rollup=True)
    for n in range(3):
        await t.append(f"{p}.x", str(n).encode())
    await t.append(f"{p}.y", b"y")
    with pytest.raises(ConditionFailed):
        await t.append(f"{p}.x", b"all", expected=1, rollup=True)
    rolled = await t.append(f"{p}.x", b"all", expected=3, rollup=True)
    assert [one.data for one in await t.read(name, f"{p}.>")] == [b"y", b"all"]
    await t.append(f"{p}.x", b"next", expected=rolled.sequence)


@scenario
async def test_rollup_refused(world: World) -> None:
    """A stream without rollup refuses it and keeps what it has."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    await t.append(f"{p}.x", b"1")
    with pytest.raises(Refused) as refused:
        await t.append(f"{p}.x", b"all", rollup=True)
    assert refused.value.server_code == 10111
    assert [one.data for one in await t.read(name, f"{p}.x")] == [b"1"]


@scenario
async def test_ttl(world: World) -> None:
    """A message with a TTL is gone after it, its neighbours stay, and expected 0 passes again."""
    t = await world.connect("a")
    name, p = await stream(world, t, ttl=True)
    await t.append(f"{p}.stay", b"s")
    await t.append(f"{p}.x", b"x", ttl=1)
    with pytest.raises(ConditionFailed):
        await t.append(f"{p}.x", b"y", expected=0)
    await elapse(0.5)
    assert await t.last(name, f"{p}.x") is not None

    async def gone() -> bool:
        return await t.last(name, f"{p}.x") is None

    await until_true(gone, "the message expires")
    await t.append(f"{p}.x", b"y", expected=0)
    assert await t.last(name, f"{p}.stay") is not None


@scenario
async def test_ttl_refused(world: World) -> None:
    """A stream without TTL refuses it; one below a second counts as a second."""
    t = await world.connect("a")
    _, plain = await stream(world, t)
    with pytest.raises(Refused) as refused:
        await t.append(f"{plain}.x", b"x", ttl=1)
    assert refused.value.server_code == 10166
    name, expiring = await stream(world, t, ttl=True)
    await t.append(f"{expiring}.x", b"x", ttl=0.3)
    raw = await t.request(f"{expiring}.y", b"y", headers={"Nats-TTL": "500ms"})
    assert b"10165" in raw.data
    stored = await t.last(name, f"{expiring}.x")
    assert stored is not None
    assert stored.headers["Nats-TTL"] == "1s"


@scenario
async def test_expired_is_not_redelivered(world: World) -> None:
    """A message that expires while it waits for its acknowledgement never comes again."""
    t = await world.connect("a")
    name, p = await stream(world, t, ttl=True)
    await t.ensure(ConsumerAsset(stream=name, name="c", ack_wait=1.6))
    await t.append(f"{p}.x", b"x", ttl=1)
    box = Box(t)
    pull = await box.open(name, "c")
    await until(lambda: box.got, "the message is delivered")
    await elapse(2.2)
    assert box.counts == [1]
    state = await t.consumer_state(name, "c")
    assert state is not None
    assert state.unacknowledged == 0
    await pull.stop()


# -- deleting, reading


@scenario
async def test_delete_and_purge(world: World) -> None:
    """Single messages and whole subjects are removed, by wildcard too, and counted."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    for subject in ("a.1", "a.2", "b.1", "b.1"):
        await t.append(f"{p}.{subject}", b"x")
    assert await t.delete(name, 1)
    assert not await t.delete(name, 1)
    assert await t.get(name, 1) is None
    assert await t.purge(name, f"{p}.b.*") == 2
    assert await t.purge(name, f"{p}.b.*") == 0
    assert [one.subject for one in await t.read(name, f"{p}.>")] == [f"{p}.a.2"]


@scenario
async def test_read_pages(world: World) -> None:
    """A subject is read in pages, in order, from the leader and directly; a short page was the last."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    for n in range(7):
        await t.append(f"{p}.x.{n % 2}", str(n).encode())
    for direct in (False, True):
        assert await t.read(name, f"{p}.none", direct=direct) == []
        page = await t.read(name, f"{p}.x.*", limit=4, direct=direct)
        assert [one.sequence for one in page] == [1, 2, 3, 4]
        rest = await t.read(name, f"{p}.x.*", after=4, limit=4, direct=direct)
        assert [one.data for one in rest] == [b"4", b"5", b"6"]
        exact = await t.read(name, f"{p}.x.1", after=2, direct=direct)
        assert [one.sequence for one in exact] == [4, 6]
        one = await t.read(name, f"{p}.x.1", after=2, limit=1, direct=direct)
        assert one == exact[:1]
        assert await t.read(name, f"{p}.x.1", after=6, limit=1, direct=direct) == []
        everything = await t.read(name, f"{p}.>", after=5, limit=3, direct=direct)
        assert [one.sequence for one in everything] == [6, 7]


@scenario
async def test_last_and_get(world: World) -> None:
    """The last message of a subject and a message by number, or None; leader and direct agree on one replica."""
    t = await world.connect("a")
    name, p = await stream(world, t)
    for direct in (False, True):
        assert await t.last(name, f"{p}.x{direct}", direct=direct) is None
        for n in range(2):
            await t.append(f"{p}.x{direct}", str(n).encode())
        found = await t.last(name, f"{p}.x{direct}", direct=direct)
        assert found is not None
        assert found.data == b"1"
        assert await t.get(name, found.sequence, direct=direct) == found
        assert await t.get(name, 99, direct=direct) is None


@scenario
async def test_leader_reads_see_every_acknowledged_write(world: World) -> None:
    """What one connection's append acknowledged, another's leader read sees."""
    a, b = await world.connect("a"), await world.connect("b")
    name, p = await stream(world, a)
    for n in range(50):
        done = await a.append(f"{p}.x", str(n).encode())
        found = await b.last(name, f"{p}.x")
        assert found is not None
        assert found.sequence == done.sequence


@scenario
async def test_states_of_what_is_not_there(world: World) -> None:
    """A stream or consumer that does not exist has no state, and removing it says so."""
    t = await world.connect("a")
    assert await t.stream_state("NOSUCH") is None
    assert await t.consumer_state("NOSUCH", "c") is None
    assert not await t.remove("NOSUCH")
    name, _ = await stream(world, t)
    assert await t.consumer_state(name, "c") is None
    assert not await t.remove(name, "c")
