"""The omniscient log: every message that the server ever stored, and every run's journal folded as it is written.

It hangs on the memory server's streams, so what is rolled up, acknowledged or purged is still known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from jetloom.engine.core import Arrived, RunState, Stamp, apply, close, decode_body
from jetloom.messages import Entry, MailboxAddress, Record, Snapshot, decode_entry, decode_records
from jetloom.transport import Stored

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetloom.transport._memory_consumer import MemoryConsumer
    from jetloom.transport._memory_stream import MemoryStream
    from tests.simulation._world import World

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(RunState)


def encode_state(state: RunState) -> bytes:
    return _encoder.encode(state)


def same_state(state: RunState, encoded: bytes) -> bool:
    """Whether they are equal; sets have no order, so bytes alone don't tell."""
    mine = _encoder.encode(state)
    return mine == encoded or _decoder.decode(mine) == _decoder.decode(encoded)


def decode_state(data: bytes) -> RunState:
    return _decoder.decode(data)


class Truth:
    """One run's journal as the server has it, folded entry by entry."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.state = RunState(run)
        self.last = 0
        self.entries: list[Entry] = []
        self.encoded: dict[int, bytes] = {0: encode_state(self.state)}
        """The state after each entry, by the entry's sequence."""
        self.ordinals: dict[int, int] = {0: 0}
        self.ended: dict[tuple[str, int], tuple[float, str]] = {}
        """Attempts that are over: when that was journaled, and by which record."""
        self.timers: set[str] = set()
        self.takes: dict[str, int] = {}
        self.applied: set[str] = set()

    def records(self) -> list[tuple[Entry, Record]]:
        return [(entry, record) for entry in self.entries for record in entry.records]


class Ledger:
    """Watches a memory server's streams; tells the checks of every entry and every message that leaves."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.truths: dict[str, Truth] = {}
        self.waiting: dict[str, int] = {}
        """Messages and wakes stored for each run, without those of purges."""
        self.results: set[str] = set()
        """Subjects of all results that were ever stored."""
        self.started: set[str] = set()
        """Runs whose start was ever stored."""
        self.deliveries = 0
        self.redelivered: dict[str, int] = {}
        """Second and later deliveries, by run (mailbox, wakes) and by task subject."""
        self.dead: set[str] = set()
        self.robbed: set[str] = set()
        """Covers that the universe took away, as `run ref`."""
        names, server = world.names, world.server
        self.journals = server.stream(names.runs_stream(0))
        self.mailbox = server.stream(names.mailbox_stream(0))
        self.timers = server.stream(names.timers_stream(0))
        self.tasks = server.stream(names.tasks_stream)
        self.markers = server.stream(names.markers_stream)
        self.events = server.stream(names.events_stream)
        self.blobs = server.stream(names.blobs_stream)
        self.journals.listeners.append(self._journaled)
        self.mailbox.listeners.append(self._stored)
        self.timers.listeners.append(self._stored)
        server.stream(names.dlq_stream).listeners.append(self._buried)
        for stream in (self.mailbox, self.timers, self.tasks):
            self._watch_deletes(stream)
        for stream in (self.mailbox, self.timers, self.tasks):
            for consumer in stream.consumers.values():
                self.watch_consumer(consumer)

    # -- what is there
    def truth(self, run: str) -> Truth:
        found = self.truths.get(run)
        if found is None:
            found = self.truths[run] = Truth(run)
        return found

    def cover_stored(self, ref: str) -> bool:
        stream = self.timers if ref[0] == "t" else self.mailbox
        return int(ref[1:]) in stream.messages

    def arrived(self, stream: MemoryStream, message: Stored) -> Arrived | None:
        address = self.world.names.parse_mailbox(message.subject)
        if address is None:
            return None
        ref = f"{'t' if stream is self.timers else 'm'}{message.sequence}"
        body = decode_body(address, message.data)
        return Arrived(ref, message.sequence, address, body, len(message.data), message.at)

    def cover_message(self, ref: str) -> Arrived | None:
        stream = self.timers if ref[0] == "t" else self.mailbox
        message = stream.messages.get(int(ref[1:]))
        return self.arrived(stream, message) if message is not None else None

    def task_stored(self, subject: str) -> bool:
        return subject in self.tasks.subjects

    # -- hooks
    def watch_consumer(self, consumer: MemoryConsumer) -> None:
        deliver = consumer._deliver

        def watched(request: object, message: Stored) -> None:
            pending = consumer._pending.get(message.sequence)
            self.deliveries += 1
            if pending is not None:
                key = message.subject
                address = self.world.names.parse_mailbox(key)
                if address is not None:
                    key = address.run
                self.redelivered[key] = self.redelivered.get(key, 0) + 1
            deliver(request, message)  # pyright: ignore[reportArgumentType]

        consumer._deliver = watched

    def _watch_deletes(self, stream: MemoryStream) -> None:
        delete: Callable[[int], bool] = stream.delete

        def watched(sequence: int) -> bool:
            message = stream.messages.get(sequence)
            if message is None:
                return False
            gone = delete(sequence)
            self._left(stream, message)
            return gone

        stream.delete = watched

    def _stored(self, message: Stored) -> None:
        address = self.world.names.parse_mailbox(message.subject)
        if address is None or address.name == "purge":
            return
        self.waiting[address.run] = self.waiting.get(address.run, 0) + 1
        if address.kind == "result":
            self.results.add(message.subject)
        elif address.kind == "start":
            self.started.add(address.run)
        self.world.note(f"server stores {_short(address)} #{message.sequence} of {address.run}")

    def _left(self, stream: MemoryStream, message: Stored) -> None:
        if stream is self.tasks:
            self.world.checks.task_left(message)
            return
        address = self.world.names.parse_mailbox(message.subject)
        if address is None or address.name == "purge":
            return
        self.waiting[address.run] -= 1
        self.world.note(f"server drops {_short(address)} #{message.sequence} of {address.run}")
        arrived = self.arrived(stream, message)
        if arrived is not None:
            self.world.checks.message_left(arrived, f"{stream.asset.name}.{message.sequence}")

    def _buried(self, message: Stored) -> None:
        identity = message.headers.get("Nats-Msg-Id", "").removeprefix("engine.mailbox.")
        self.dead.add(identity)
        self.world.note(f"dead letter {identity}")

    def _journaled(self, message: Stored) -> None:
        run = self.world.names.run_of_journal(message.subject)
        truth = self.truth(run)
        entry = decode_entry(message.data)
        records = entry.records
        if entry.blob is not None:
            records = decode_records(self._blob(entry))
        snapshot = records[0] if records and isinstance(records[0], Snapshot) else None
        own = records[1:] if snapshot is not None else records
        kinds = " ".join(str(record.__struct_config__.tag) for record in records)
        self.world.note(
            f"journal {run} {entry.n} by {entry.by.rpartition('-')[0]} #{message.sequence}: {kinds}"
        )
        if truth.last and entry.n <= truth.state.n:
            self.world.violate("I2", f"{run}: entry {entry.n} after {truth.state.n}")
            return
        before = decode_state(truth.encoded[truth.last])
        if not self.world.checks.entry_comes(truth, entry, own):
            return
        state = truth.state
        if state.n == 0:
            state.inc = entry.inc
        if entry.blob is not None:
            state.stored = True
        stamp = Stamp(entry.n, entry.at, entry.by)
        for record in own:
            self.world.checks.record_comes(truth, before, entry, own, record)
            apply(state, record, stamp)
        close(state, stamp, entry.sent)
        truth.last = message.sequence
        truth.entries.append(Entry(entry.n, entry.at, entry.by, entry.inc, tuple(own), entry.sent))
        truth.encoded[message.sequence] = encode_state(state)
        truth.ordinals[message.sequence] = entry.n
        if snapshot is not None and not same_state(state, bytes(snapshot.state)):
            self.world.violate("I2", f"{run}: the snapshot in entry {entry.n} is not the fold from the start")
        self.world.checks.entry_came(truth, before, entry, own)

    def _blob(self, entry: Entry) -> bytes:
        blob = entry.blob
        if blob is None:
            return b""
        names = self.world.names
        chunks: list[bytes] = []
        for chunk in range(blob.chunks):
            found = self.blobs.last_of(names.blob(blob.root, blob.inc, blob.digest, chunk))
            if found is None:
                self.world.violate("blobs", f"{blob.root}: an entry names a blob that is not stored")
                return b"[]"
            chunks.append(found.data)
        return b"".join(chunks)


def _short(address: MailboxAddress) -> str:
    parts = (address.kind, address.name, address.id, address.step, str(address.attempt or ""))
    return ".".join(part for part in parts if part)
