"""The client: starts, steers and reads runs. It needs no engine to be up, only the streams."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import (
    ConditionFailed,
    DecodeFailed,
    DefinitionInvalid,
    Disconnected,
    InvalidInput,
    OutcomeUnknown,
    RequestTimeout,
    RunConflict,
    RunNotFound,
    WaitTimeout,
)
from ..messages import (
    H_ACTOR,
    H_NEW,
    H_VERSION,
    VERSION,
    Action,
    ActionVerb,
    Cancel,
    Names,
    RunMessage,
    Start,
    check_run_id,
    encode,
    input_hash,
    through_codec,
)
from ..runtime import JournalLine, RunSummary, RunView, Started
from ..stores import BlobStore, IndexStore, JournalStore, Line, task_consumer
from ..telemetry import current
from ..transport import Incoming, Stored, Transport
from ..types import JSON, SYSTEM, Actor, RunStatus
from ..workflows import Compiled, Definition, check_definition, load_text
from ._definitions import Definitions
from ._ends import POLL, Ends
from ._view import fold_lines, journal_lines, view_of
from .core import RunState, decode_body, handler_of

START_TRIES = 40
PAUSE_FIRST = 0.02
PAUSE_MAX = 1.0
LIST_MAX = 1_000


class Client:
    """The `Workflows` of a module, of the command line, and of any program."""

    def __init__(
        self, transport: Transport, names: Names, *, clock: Clock = SYSTEM_CLOCK, actor: Actor | None = None
    ) -> None:
        self._transport = transport
        self._names = names
        self._clock = clock
        self._actor = actor
        self._definitions = Definitions(transport, names, clock)
        self._journals = JournalStore(transport, names, BlobStore(transport, names))
        self._index = IndexStore(transport, names)
        self._ends = Ends(transport, names, clock, self._journals)

    async def stop(self) -> None:
        """Ends what the client keeps open: nothing until the first `run`. It may be used again afterwards."""
        await self._ends.stop()

    # -- definitions
    async def register(self, text: str, *, source: str = "") -> Sequence[str]:
        names: list[str] = []
        for definition in load_text(text, source):
            await self._register(definition)
            names.append(definition.id)
        return names

    async def _register(self, definition: Definition) -> str:
        """The definition, and the consumers of the handlers that it names; its fingerprint."""
        fingerprint = await self._definitions.register(definition)
        handlers = {handler_of(step.uses) for step in definition.steps if step.uses is not None}
        handlers |= {handler_of(step.saga.uses) for step in definition.steps if step.saga is not None}
        for handler in sorted(handlers):
            await self._transport.ensure(task_consumer(self._names, handler))
        return fingerprint

    async def _compiled(self, workflow: str | Definition) -> Compiled:
        """A registered workflow by name, or an inline definition, which is checked and registered first."""
        if isinstance(workflow, str):
            return await self._definitions.get(workflow)
        findings = check_definition(workflow)
        if findings:
            raise DefinitionInvalid(workflow.id, [str(finding) for finding in findings])
        return await self._definitions.get(workflow.id, await self._register(workflow))

    async def workflow(self, name: str, fingerprint: str = "") -> Compiled:
        """Raises `WorkflowNotFound`."""
        return await self._definitions.get(name, fingerprint)

    async def workflows(self) -> Sequence[Compiled]:
        """Every registered definition, oldest first."""
        from ..workflows import compile_definition

        return [compile_definition(definition) for definition in await self._definitions.all()]

    # -- S: start
    async def start(
        self,
        workflow: str | Definition,
        input: JSON = None,
        *,
        id: str | None = None,
        token: str | None = None,
        labels: Mapping[str, str] | None = None,
        not_before: datetime | None = None,
        timeout: timedelta | None = None,
        actor: Actor | None = None,
    ) -> Started:
        body, run = await self._prepare(workflow, input, id, token, labels, not_before, timeout, actor)
        return await self._start(run, body, new=id is None and token is None)

    async def run(
        self,
        workflow: str | Definition,
        input: JSON = None,
        *,
        id: str | None = None,
        token: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: timedelta | None = None,
        patience: timedelta | None = None,
        actor: Actor | None = None,
    ) -> JSON:
        seconds = patience.total_seconds() if patience is not None else None
        body, run = await self._prepare(workflow, input, id, token, labels, None, timeout, actor)
        end = await self._ends.expect()
        try:
            body = msgspec.structs.replace(body, notify=end.inbox)
            started = await self._start(run, body, new=id is None and token is None)
            if not started.started:
                # Whoever started it is told, not we.
                return await self._ends.listen(run, seconds, lambda: self._must_exist(run))
            return await self._ends.told(run, end, seconds, lambda: self._must_exist(run))
        except TimeoutError as error:
            raise WaitTimeout(f"run {run!r}", seconds or 0.0) from error
        finally:
            self._ends.forget(end)

    async def _prepare(
        self,
        workflow: str | Definition,
        input: JSON,
        id: str | None,
        token: str | None,
        labels: Mapping[str, str] | None,
        not_before: datetime | None,
        timeout: timedelta | None,
        actor: Actor | None,
    ) -> tuple[Start, str]:
        """The start of a run that is wanted, and the run's id."""
        if id is not None and token is not None:
            raise InvalidInput(
                "a run id and a token were given: a token is a run id's origin, give one of them"
            )
        compiled = await self._compiled(workflow)
        value = through_codec(input)
        compiled.check_input(value)
        body = Start(
            compiled.definition.id,
            input_hash(compiled.definition.id, value),
            self._clock.token(),
            input=value,
            fingerprint=compiled.fingerprint,
            actor=self._who(actor),
            labels={**compiled.definition.labels, **(labels or {})},
            not_before=not_before.timestamp() if not_before is not None else None,
            timeout=timeout.total_seconds() if timeout is not None else None,
            trace=current().trace,
            trace_state=current().trace_state,
        )
        return body, self._run_id(compiled.definition.id, id, token)

    def _run_id(self, workflow: str, given: str | None, token: str | None) -> str:
        if given is not None:
            return check_run_id(given)
        if token is not None:
            return check_run_id(f"{workflow}-{hashlib.sha256(token.encode()).hexdigest()[:32]}"[-100:])
        return check_run_id(f"{workflow}-{self._clock.token()[:20]}"[-100:])

    async def _start(self, run: str, body: Start, *, new: bool) -> Started:
        subject, data, pause = self._names.start(run), encode(body), PAUSE_FIRST
        for attempt in range(START_TRIES):
            first_and_new = new and attempt == 0
            headers = {H_VERSION: VERSION, H_ACTOR: str(body.actor)}
            if first_and_new:
                headers[H_NEW] = "1"
            try:
                try:
                    appended = await self._transport.append(subject, data, headers=headers, expected=0)
                except ConditionFailed:
                    found = await self._existing(run, body)
                    if found is not None:
                        return found
                    continue
                if first_and_new:
                    return Started(run, appended.sequence, True)
                # A start leaves the mailbox only after the journal holds it, so this look is sound.
                state = await self._fold(run)
            except (OutcomeUnknown, RequestTimeout, Disconnected):
                # The same nonce again tells this start from another's, whatever became of it.
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_MAX)
                continue
            if state.n == 0 or state.inc == appended.sequence:
                return Started(run, appended.sequence, True)
            return self._answer(run, body, state)
        raise OutcomeUnknown(subject, f"{START_TRIES} tries; start it again with the same id or token")

    async def _existing(self, run: str, body: Start) -> Started | None:
        """Who is there already: the waiting start, then the journal, which alone answers when there is one."""
        waiting = await self._waiting_start(run)
        state = await self._fold(run)
        if state.n:
            return self._answer(run, body, state)
        if waiting is None:
            return None
        stored, start = waiting
        if start.nonce == body.nonce:
            return Started(run, stored.sequence, True)
        if start.hash != body.hash:
            raise RunConflict(run)
        return Started(run, stored.sequence, False)

    def _answer(self, run: str, body: Start, state: RunState) -> Started:
        known = state.started
        if known is not None and known.nonce == body.nonce:
            return Started(run, state.inc, True)
        if known is None or known.hash != body.hash:
            raise RunConflict(run)
        return Started(run, state.inc, False)

    async def _waiting_start(self, run: str) -> tuple[Stored, Start] | None:
        subject = self._names.start(run)
        stored = await self._transport.last(self._names.mailbox_stream(self._names.shard(run)), subject)
        address = self._names.parse_mailbox(subject)
        if stored is None or address is None:
            return None
        body = decode_body(address, stored.data)
        return (stored, body) if isinstance(body, Start) else None

    # -- steering
    async def message(
        self, run: str, name: str, payload: JSON = None, *, id: str | None = None, actor: Actor | None = None
    ) -> None:
        await self._must_exist(run)
        identity = id if id is not None else self._clock.token()
        body = RunMessage(through_codec(payload), self._who(actor))
        await self._tell(self._names.message(run, name, identity), encode(body), body.actor)

    async def cancel(
        self, run: str, *, reason: str = "", compensate: bool | None = None, actor: Actor | None = None
    ) -> None:
        await self._must_exist(run)
        body = Cancel(reason, self._who(actor), compensate)
        await self._tell(self._names.cancel(run, self._clock.token()), encode(body), body.actor)

    async def action(
        self, run: str, verb: ActionVerb, *, step: str = "", reason: str = "", actor: Actor | None = None
    ) -> None:
        await self._must_exist(run)
        body = Action(verb, step, reason=reason, actor=self._who(actor))
        await self._tell(self._names.action(run, self._clock.token()), encode(body), body.actor)

    async def _tell(self, subject: str, data: bytes, actor: Actor) -> None:
        pause = PAUSE_FIRST
        for _ in range(START_TRIES):
            try:
                headers = {H_VERSION: VERSION, H_ACTOR: str(actor)}
                await self._transport.append(subject, data, headers=headers, expected=0)
                return
            except ConditionFailed:
                return
            except OutcomeUnknown:
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_MAX)
        raise OutcomeUnknown(subject, f"{START_TRIES} tries; send it again with the same id")

    async def _must_exist(self, run: str) -> None:
        check_run_id(run)
        # A start that was taken between the first two looks has a journal now.
        if (
            (await self._fold(run)).n == 0
            and await self._waiting_start(run) is None
            and (await self._fold(run)).n == 0
        ):
            raise RunNotFound(run)

    # -- reading
    async def show(self, run: str) -> RunView:
        check_run_id(run)
        state = await self._fold(run)
        if state.n == 0:
            waiting = await self._waiting_start(run)
            state = await self._fold(run)
            if state.n == 0:
                if waiting is None:
                    raise RunNotFound(run)
                stored, start = waiting
                return RunView(
                    run,
                    stored.sequence,
                    start.workflow,
                    RunStatus.PENDING,
                    input=start.input,
                    actor=start.actor,
                    labels=dict(start.labels),
                    fingerprint=start.fingerprint,
                    waits_for=["an engine"],
                )
        started = state.started
        compiled = None
        if started is not None:
            compiled = await self._definitions.find(started.workflow, started.fingerprint)
        return view_of(state, compiled)

    async def result(self, run: str, *, timeout: timedelta | None = None) -> JSON:
        check_run_id(run)
        seconds = timeout.total_seconds() if timeout is not None else None
        try:
            return await self._ends.listen(run, seconds, lambda: self._must_exist(run))
        except TimeoutError as error:
            raise WaitTimeout(f"run {run!r}", seconds or 0.0) from error

    async def journal(self, run: str, *, after: int = 0) -> Sequence[JournalLine]:
        check_run_id(run)
        lines = await self._journals.read(run)
        if not lines and await self._waiting_start(run) is None:
            raise RunNotFound(run)
        return journal_lines(lines, after)

    async def tail(self, run: str, *, after: int = 0) -> AsyncIterator[JournalLine]:
        changed = asyncio.Event()

        def note(_: Incoming) -> None:
            changed.set()

        subscription = await self._transport.subscribe(self._names.journal(run), note)
        try:
            while True:
                changed.clear()
                for line in await self.journal(run, after=after):
                    after = line.n
                    yield line
                    if any(record.get("t") == "finished" for record in line.records):
                        return
                if (await self._fold(run)).finished is not None and not await self.journal(run, after=after):
                    return
                try:
                    async with asyncio.timeout(POLL):
                        await changed.wait()
                except TimeoutError:
                    continue
        finally:
            await subscription.stop()

    async def list(
        self, *, status: RunStatus | None = None, workflow: str | None = None, limit: int = 50, after: int = 0
    ) -> tuple[Sequence[RunSummary], int]:
        limit = min(max(1, limit), LIST_MAX)
        rows = await self._index.page(status=status, workflow=workflow, after=after, limit=limit)
        summaries: list[RunSummary] = []
        for row in rows:
            # The index is a projection: a row is shown as what its journal says now.
            state = await self._fold(row.run)
            if state.n and state.inc == row.value.inc and (status is None or state.status is status):
                summaries.append(RunSummary(row.run, row.workflow, state.status, state.inc, row.value.since))
        return summaries, rows[-1].position if len(rows) == limit else 0

    async def lines(self, run: str) -> Sequence[Line]:
        """The journal as it is stored."""
        return await self._journals.read(run)

    async def _fold(self, run: str) -> RunState:
        try:
            return fold_lines(run, await self._journals.read(run))
        except DecodeFailed:
            # A rollup passed under the reader more often than it could start over.
            return fold_lines(run, await self._journals.read(run))

    def _who(self, actor: Actor | None) -> Actor:
        return actor or self._actor or current().actor or SYSTEM
