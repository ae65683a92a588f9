"""Planted bugs: rules of the protocol taken out of the engine, one at a time, to prove that the simulation sees it.

Each is a set of patches on the engine's functions, in force for one universe.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from jetloom.engine import _commit, _drive, _intake, _outputs, _run
from jetloom.engine._client import Client
from jetloom.engine._receive import Receiver
from jetloom.engine._run import Message, Run
from jetloom.engine._tasks import Worker
from jetloom.engine.core import Draft, PublishEvent, RunState, Standing, _covers, _decide, _saga, _steps
from jetloom.errors import ConditionFailed
from jetloom.messages import EventHeaders, Held, Record, encode, join_name, to_headers
from jetloom.runtime import Started
from jetloom.stores import JournalStore
from tests.simulation._universe import Verdict, run_universe

if TYPE_CHECKING:
    from jetloom.engine._shell import Shell
    from jetloom.engine.core import Arrived
    from jetloom.messages import Start

type Plant = Callable[[], AbstractContextManager[object]]

PLANTED: dict[str, Plant] = {}


def planted(name: str) -> Callable[[Callable[[], Generator[None]]], Plant]:
    """Registers a planted bug; the function it decorates is in force between its start and its yield's return."""

    def register(function: Callable[[], Generator[None]]) -> Plant:
        PLANTED[name] = contextmanager(function)
        return PLANTED[name]

    return register


def hunt(name: str, limit: int, first: int = 1) -> Verdict | None:
    """The first universe that is broken with this bug in the engine; None when none of `limit` is."""
    for seed in range(first, first + limit):
        with PLANTED[name]():
            verdict = run_universe(seed)
        if verdict.broken:
            return verdict
    return None


@contextmanager
def _patched(*patches: tuple[object, str, object]) -> Generator[None]:
    with ExitStack() as stack:
        for target, attribute, value in patches:
            stack.enter_context(patch.object(target, attribute, value))
        yield


# -- the rules of covers and acknowledgements
@planted("cover rule")
def _cover_rule() -> Generator[None]:
    """Any message at hand covers new work, also one that this entry does not apply."""
    lawful = Draft.cover

    def cover(self: Draft) -> str:
        messages = getattr(self.around.holding, "__self__", {})
        for ref in messages:
            if ref not in self.state.covers and ref not in self.applied:
                self._append(Held(ref))
                self._cover = ref
                return ref
        return lawful(self)

    with _patched((Draft, "cover", cover)):
        yield


@planted("leader read before an ack")
def _leader_read() -> Generator[None]:
    """A message is acknowledged on whatever state is at hand, however old."""

    def current(*_: object) -> bool:
        return True

    with _patched((_covers, "current", current)):
        yield


def _may_ack(**forced: bool) -> Callable[..., str]:
    lawful = _drive.may_ack

    def may_ack(*given: Any, **named: Any) -> str:
        return lawful(*given, **{**named, **forced})

    return may_ack


@planted("V before an ack")
def _derive_before_ack() -> Generator[None]:
    """What is spent is acknowledged without looking whether all that it caused exists."""
    with _patched((_drive, "may_ack", _may_ack(derived=True))):
        yield


@planted("V at resume")
def _derive_at_resume() -> Generator[None]:
    """Who takes a cover over takes it for its own doing from the beginning."""
    lawful = _commit._accepted

    def accepted(run: Run, line: Any, draft: Draft, before: int) -> None:
        lawful(run, line, draft, before)
        for record in draft.records:
            if isinstance(record, Held) and record.cover in run.messages:
                run.messages[record.cover].hold.mine = True

    lawful_derive = _drive.derive_again

    async def derive_again(shell: Any, run: Run, *, now: float) -> bool:
        return True if run.owing else await lawful_derive(shell, run, now=now)

    with _patched((_commit, "_accepted", accepted), (_drive, "derive_again", derive_again)):
        yield


@planted("dropping results under a lost cover")
def _lost_cover() -> Generator[None]:
    """A body whose cover moved on goes on, and its result counts."""

    def body_ended(draft: Draft, item: Any) -> None:
        _decide._ended(draft, item)

    def stop_bodies(*_: object) -> None:
        return

    with _patched((_drive.Driver, "_stop_bodies", stop_bodies), (_decide, "_body_ended", body_ended)):
        yield


@planted("nonce check")
def _nonce() -> Generator[None]:
    """An unknown outcome counts as accepted as soon as anything stands behind the expected entry."""
    lawful = _commit._look

    async def look(shell: Shell, run: Run, expected: int, nonce: str, error: Exception) -> Any:
        verdict = await lawful(shell, run, expected, nonce, error)
        unknown = not isinstance(error, ConditionFailed)
        return _commit.Outcome.ACCEPTED if unknown and verdict is _commit.Outcome.REFUSED else verdict

    with _patched((_commit, "_look", look)):
        yield


@planted("sureness")
def _sureness() -> Generator[None]:
    """A held message counts as ours however long ago the server last heard of it."""

    def sure(self: Message, now: float) -> bool:
        self.hold.sure_since = max(self.hold.sure_since, 0)
        return True

    with _patched((Message, "sure", sure)):
        yield


@planted("a worker's settled")
def _settled() -> Generator[None]:
    """A worker runs whatever is delivered again, without asking whether it was answered."""

    async def settled(*_: object) -> bool:
        return False

    with _patched((Worker, "_settled", settled)):
        yield


@planted("poked")
def _poked() -> Generator[None]:
    """A poke that finds nothing to do is acknowledged without a record of it."""
    lawful_apply, lawful_standing = _decide._apply_message, _drive.standing

    def apply_message(draft: Draft, item: Arrived) -> None:
        if item.address.kind != "poke" or any(ref in draft.state.covers for ref in item.lost):
            lawful_apply(draft, item)
            return
        _LOOKED.add((draft.around.engine, item.ref))

    def standing(state: RunState, message: Arrived, engine: str) -> Standing:
        if (engine, message.ref) in _LOOKED and not state.live(message.ref):
            return Standing.SPENT
        return lawful_standing(state, message, engine)

    lawful_may_ack = _drive.may_ack

    def may_ack(state: RunState, tick: int, message: Arrived, *given: Any, **named: Any) -> str:
        if message.address.kind == "poke" and not state.live(message.ref):
            return "ack"
        return lawful_may_ack(state, tick, message, *given, **named)

    _LOOKED.clear()
    with _patched(
        (_decide, "_apply_message", apply_message),
        (_drive, "standing", standing),
        (_intake, "standing", standing),
        (_drive, "may_ack", may_ack),
    ):
        yield


_LOOKED: set[tuple[str, str]] = set()


# -- writing
@planted("no expected sequence")
def _no_expected() -> Generator[None]:
    """An entry is appended whatever was written in between."""
    lawful: Callable[..., Any] = JournalStore.append

    async def append(self: JournalStore, run: str, data: bytes, **named: object) -> int:
        return int(await lawful(self, run, data, **{**named, "expected": None}))

    with _patched((JournalStore, "append", append)):
        yield


@planted("undo in the wrong order")
def _undo_order() -> Generator[None]:
    """Steps are undone in the order in which they completed."""
    lawful = _saga.plan_of

    def plan_of(draft: Draft) -> tuple[str, ...]:
        return lawful(draft)[::-1]

    with _patched((_decide, "plan_of", plan_of)):
        yield


@planted("a timer's name used twice")
def _timer_name() -> Generator[None]:
    """A retry's timer is named by its step alone."""

    def name(*parts: str | int) -> str:
        return join_name(*(parts[:2] if parts[0] == "retry" else parts))

    with _patched((_steps, "join_name", name)):
        yield


@planted("ack before the outputs")
def _ack_first() -> Generator[None]:
    """What an entry made spent is acknowledged before what the entry promised exists."""
    lawful = _drive.perform

    async def perform(shell: Shell, run: Run, *, now: float) -> bool:
        for message in list(run.messages.values()):
            state = run.state
            if state is not None and message.hold.quiet and not state.live(message.ref):
                run.messages.pop(message.ref)
                await shell.transport.ack(message.ack_subject)
        return await lawful(shell, run, now=now)

    with _patched((_drive, "perform", perform)):
        yield


# -- of our own
@planted("a lost answer's outputs")
def _lost_answer() -> Generator[None]:
    """An append that is found by its nonce is taken for done, its tasks, timers and events included."""
    lawful = _commit._look

    async def look(shell: Shell, run: Run, expected: int, nonce: str, error: Exception) -> Any:
        verdict = await lawful(shell, run, expected, nonce, error)
        if verdict is _commit.Outcome.ACCEPTED:
            run.derived = True
            _FOUND.add(id(run))
        return verdict

    lawful_own = _commit._own

    def own(run: Run, draft: Draft, before: int) -> None:
        if id(run) in _FOUND:
            _FOUND.discard(id(run))
            return
        lawful_own(run, draft, before)

    _FOUND.clear()
    with _patched((_commit, "_look", look), (_commit, "_own", own)):
        yield


_FOUND: set[int] = set()


@planted("events without a marker")
def _markers() -> Generator[None]:
    """An event is published again whenever it is not known to exist."""

    async def event(shell: Shell, run: Run, output: PublishEvent) -> None:
        event = output.event
        headers = EventHeaders(f"{run.id}.{run.inc}.{event.key}", event.type, "planted", shell.clock.now())
        subject = shell.names.emit(run.id, run.inc, event.key, event.type)
        await shell.transport.append(subject, encode(event.payload), headers=to_headers(headers))

    with _patched((_outputs, "_event", event)):
        yield


@planted("message ids forgotten")
def _message_ids() -> Generator[None]:
    """A message that comes again is another message."""
    lawful = _covers.changes

    def changes(state: RunState, message: Arrived) -> bool:
        if message.address.kind == "message" and state.finished is None:
            return not any(
                kept.id == message.address.id and kept.name == message.address.name for kept in state.kept
            )
        return lawful(state, message)

    with _patched((_covers, "changes", changes), (_decide, "changes", changes), (_run, "changes", changes)):
        yield


@planted("the waiting start answers")
def _waiting_start() -> Generator[None]:
    """A client believes a stored start, though the journal has another incarnation."""

    async def existing(self: Client, run: str, body: Start) -> Any:
        waiting = await self._waiting_start(run)
        return None if waiting is None else Started(run, waiting[0].sequence, waiting[1].nonce == body.nonce)

    async def fold(self: Client, run: str) -> RunState:
        return RunState(run)

    with _patched((Client, "_existing", existing), (Client, "_fold", fold)):
        yield


@planted("unknown runs swallow messages")
def _no_dead_letter() -> Generator[None]:
    """What nobody can apply is acknowledged and gone."""

    async def dead_letter(*_: object) -> None:
        return None

    with _patched((Receiver, "dead_letter", dead_letter)):
        yield


@planted("a resume without a record")
def _silent_resume() -> Generator[None]:
    """Who takes a cover over believes itself its holder, and does not say so in the journal."""
    lawful = _decide._take_over

    def take_over(draft: Draft, ref: str) -> None:
        cover = draft.state.covers.get(ref)
        if cover is None:
            return
        records: list[Record] = list(draft.records)
        lawful(draft, ref)
        draft.records[:] = records

    with _patched((_decide, "_take_over", take_over)):
        yield
