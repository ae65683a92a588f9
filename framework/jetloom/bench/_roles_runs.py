"""A process that starts runs, sees them end, and checks afterwards what the streams say of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec

from ..clock import SYSTEM_CLOCK
from ..engine import RETENTION, Client
from ..messages import H_NONCE, H_VERSION, Finished, Names, decode_entry
from ..transport import Incoming, Stored, Transport
from ..types import RunStatus
from ..workflows import Definition
from ._child import UnknownOrder
from ._definitions import chain, fanout, sleeper, waiter
from ._load import Figures, Given, closed_loop, figures_of, now, percentile
from ._roles_engine import open_namespace

RUN_SECONDS = 60.0
"""A run that has not ended after this long will not: the workload fails."""
QUIET_SECONDS = 20.0
"""How long what is left in the mailbox may take to be acknowledged."""
PAGE = 1_000
CHECKED_WHOLE = 50
"""Journals that are read with their whole history; of the others the end is looked at."""
ENDED = b'"t":"finished"'
WATCH_PAGE = 256
LOOKS = 50
"""In a row for an end that was hinted at and is not stored: it was refused, or the server is behind."""
LAZY_SECONDS = 0.25
"""Between looks while nobody waits for the end of one run."""
LOOK_SECONDS = 0.1
WRITERS = 256
STARTERS = 64
"""Starts under way at once where many are made beforehand."""

ALONE = frozenset(("register", "load", "long", "verify"))
"""Verbs that wait for their own runs."""

WORKFLOWS: dict[str, Callable[[Given], Definition]] = {
    "chain": lambda given: chain(given.steps),
    "payload": lambda _: chain(3, "bench.payload", "payload"),
    "slow": lambda _: chain(3, "bench.slow", "slow"),
    "fanout": lambda given: fanout(given.steps, "fanout"),
    "sleep": lambda given: sleeper(given.seconds, "sleep"),
    "spread": lambda _: sleeper("input.seconds", "spread"),
    "waiter": lambda _: waiter(),
}


class Unverified(Exception):
    """The streams do not say what they have to."""


class Runs:
    """A client of runs; its verbs are the keys in `do`."""

    def __init__(self, config: Given) -> None:
        self._config = config
        self._transport: Transport | None = None
        self._names = Names("bench")
        self._client: Client | None = None
        self._started: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._waited = 0
        """Runs that were started and waited for in one call, whose ids nobody needs to know."""
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._asked = asyncio.Event()
        """Somebody waits for the end of one run."""
        self._all_ended = asyncio.Event()
        self._hinted: set[str] = set()
        self._hint = asyncio.Event()
        self._after = 0
        self._generated = 0
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._transport, self._names = await open_namespace(self._config.url, "jetloom-bench")
        self._client = Client(self._transport, self._names)

    async def _see_ends(self, transport: Transport) -> None:
        """For runs that are not waited for one by one: the watch reads every entry, which costs its process some."""
        if self._watching is None:
            await transport.subscribe(self._names.journals(0), self._on_entry)
            self._watching = asyncio.get_running_loop().create_task(self._watch(transport), name="watch")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._transport is not None:
            await self._transport.close()

    async def do(self, verb: str, given: Given) -> Figures:
        assert self._client is not None
        verbs: dict[str, Callable[[Client, Given], Awaitable[Figures]]] = {
            "register": self._register,
            "load": self._load,
            "begin": self._begin,
            "wait": self._wait,
            "one": self._one,
            "send": self._send,
            "verify": self._verify,
            "waiting": self._waiting_runs,
            "completed": self._completed,
            "lateness": self._lateness,
            "generate": self._generate,
            "pace": self._pace,
            "long": self._long,
        }
        if verb not in verbs:
            raise UnknownOrder(verb)
        if verb not in ALONE and self._transport is not None:
            await self._see_ends(self._transport)
        return await verbs[verb](self._client, given)

    # -- seeing the ends. A core message is a hint: it was sent, not yet stored. What counts is what the stream holds
    def _on_entry(self, incoming: Incoming) -> None:
        if ENDED not in incoming.data:
            return
        run = self._names.run_of_journal(incoming.subject)
        # A page may have brought the end before its hint.
        if run not in self._ended:
            self._hinted.add(run)
            self._hint.set()

    async def _watch(self, transport: Transport) -> None:
        stream, everything = self._names.runs_stream(0), f"$KV.{self._names.runs_bucket(0)}.>"
        offset = SYSTEM_CLOCK.now() - now()
        tries = 0
        while True:
            # Whoever waits for one end has few to see, and one message is the server's quickest answer.
            limit = 1 if self._waiting else WATCH_PAGE
            page = await transport.read(stream, everything, after=self._after, limit=limit)
            for stored in page:
                self._after = stored.sequence
                if ENDED in stored.data:
                    self._on_end(self._names.run_of_journal(stored.subject), stored.at - offset)
            tries = 0 if page else tries + 1
            if len(page) == limit:
                continue
            if not self._waiting:
                # Nobody waits for one run's end, and the server says when each was stored: reading the end of a
                # stream that is being written costs the server what the engines could use.
                self._asked.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAZY_SECONDS):
                        await self._asked.wait()
                continue
            if self._hinted and tries < LOOKS:
                continue
            self._hinted.clear()
            self._hint.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._hint.wait()

    def _on_end(self, run: str, at: float) -> None:
        self._hinted.discard(run)
        self._ended.setdefault(run, at)
        waiting = self._waiting.pop(run, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)
        if len(self._ended) >= len(self._started):
            self._all_ended.set()

    async def _end_of(self, run: str) -> None:
        if run in self._ended:
            return
        waiting = self._waiting[run] = asyncio.get_running_loop().create_future()
        self._asked.set()
        async with asyncio.timeout(RUN_SECONDS):
            await waiting

    # -- verbs
    async def _register(self, client: Client, given: Given) -> Figures:
        """`name` is a workflow of this file. A run of it is started by its registered name from then on."""
        definition = WORKFLOWS[given.name](given)
        began = now()
        # The first start of an inline definition registers it; this run is waited for and counts like any other.
        started = await client.start(definition, {"seconds": 0.0}, id=f"{given.name}-first")
        self._started[started.run] = began
        if given.text != "no-wait":
            # Not by the watch: the last entry of a run of many steps is in a blob.
            await client.result(started.run, timeout=timedelta(seconds=RUN_SECONDS))
            self._ended.setdefault(started.run, now())
        return Figures(seconds=now() - began)

    async def _long(self, client: Client, given: Given) -> Figures:
        """One run of a chain of `steps`, waited for at most `seconds`."""
        started = await client.start(WORKFLOWS[given.name](given), None, id=f"{given.name}-first")
        self._started[started.run] = began = now()
        await client.result(started.run, timeout=timedelta(seconds=given.seconds))
        return Figures(seconds=now() - began)

    async def _load(self, client: Client, given: Given) -> Figures:
        """Runs of `name`, each begun when the one before has ended, `concurrency` at a time for `seconds`.

        With `text` `starts`, how long the starts take is told as well.
        """

        async def run_one() -> None:
            await client.run(given.name, patience=timedelta(seconds=RUN_SECONDS))
            self._waited += 1

        async def start_one() -> None:
            began = now()
            started = await client.start(given.name)
            starts.append(now() - began)
            self._started[started.run] = began
            await client.result(started.run, timeout=timedelta(seconds=RUN_SECONDS))

        starts: list[float] = []
        one = start_one if given.text == "starts" else run_one
        warm = min(1.0, given.seconds / 4)
        found = await closed_loop(one, concurrency=given.concurrency, seconds=given.seconds, warm=warm)
        starts.sort()
        more = {"start_p50": percentile(starts, 0.5) * 1e3} if starts else {}
        return msgspec.structs.replace(found, more={**found.more, **more})

    async def _begin(self, client: Client, given: Given) -> Figures:
        """Starts `count` runs of `name` and waits for none. With `at` their input says when they are to be due:
        `at` seconds after the first start, and spread so that `steps` of them fall due each second."""
        self._all_ended.clear()
        number, began = 0, now()

        async def starter() -> None:
            nonlocal number
            while number < given.count:
                mine, number = number, number + 1
                due = began + given.at + mine / given.steps
                wait = max(0.0, due - now()) if given.at else 0.0
                run = f"{given.name}-{mine}"
                started = now()
                await client.start(given.name, {"seconds": wait}, id=run)
                self._started[run] = started + wait

        async with asyncio.TaskGroup() as group:
            for _ in range(STARTERS):
                group.create_task(starter())
        return Figures(count=given.count, seconds=now() - began)

    async def _wait(self, client: Client, given: Given) -> Figures:
        """Until all that was started has ended, at most `seconds`; latencies since the start or the due time."""
        deadline, began = now() + given.seconds, now()
        while len(self._ended) < len(self._started) and now() < deadline:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._all_ended.wait()
            self._all_ended.clear()
        return figures_of(
            [self._ended[run] + given.at - at for run, at in self._started.items() if run in self._ended],
            now() - began,
            last=max(self._ended.values(), default=0.0),
            left=len(self._started.keys() - self._ended.keys()),
        )

    async def _waiting_runs(self, client: Client, given: Given) -> Figures:
        """Until all that was started and has not ended waits for something, at most `seconds`."""
        deadline, began = now() + given.seconds, now()
        for run in self._started.keys() - self._ended.keys():
            while (await client.show(run)).status is not RunStatus.WAITING:
                if now() > deadline:
                    raise Unverified(f"run {run} does not wait after {given.seconds:g} s")
                await asyncio.sleep(0.01)
        return Figures(seconds=now() - began)

    async def _completed(self, client: Client, given: Given) -> Figures:
        """The steps, as `run step`, whose completion the engine `text` has journaled."""
        steps = [
            f"{run} {record.get('step')}"
            for run in self._started
            for line in await client.journal(run)
            if line.by == given.text
            for record in line.records
            if record.get("t") == "completed"
        ]
        return Figures(count=len(steps), names=steps)

    async def _lateness(self, client: Client, given: Given) -> Figures:
        """How long after the time that its journal says each run ended, of `count` runs evenly chosen."""
        offset = SYSTEM_CLOCK.now() - now()
        runs = [run for run in self._started if run in self._ended]
        chosen = runs[:: max(1, len(runs) // max(given.count, 1))]
        late: list[float] = []
        for run in chosen:
            for line in await client.journal(run):
                for record in line.records:
                    due = record.get("due")
                    if record.get("t") == "timer" and isinstance(due, float):
                        late.append(self._ended[run] + offset - due)
        if len(late) < len(chosen):
            raise Unverified(f"{len(late)} timers in the journals of {len(chosen)} runs")
        return figures_of(late, 0.0)

    async def _generate(self, client: Client, given: Given) -> Figures:
        """Finished runs up to the number `count`: copies of one that an engine has finished, under other ids."""
        transport, names = self._transport, self._names
        assert transport is not None
        model = next(iter(self._ended))
        journal = await transport.last(names.runs_stream(0), names.journal(model))
        row = names.index("completed", given.name, model)
        index = await transport.last(names.index_stream, row)
        if journal is None or index is None:
            raise Unverified(f"run {model} has no journal or no index row")
        number = self._generated

        async def writer() -> None:
            nonlocal number
            while number < given.count:
                mine, number = f"generated-{number}", number + 1
                await transport.append(
                    names.journal(mine), journal.data, headers=_own(journal), ttl=RETENTION
                )
                await transport.append(names.index("completed", given.name, mine), index.data, ttl=RETENTION)

        began = now()
        async with asyncio.TaskGroup() as group:
            for _ in range(WRITERS):
                group.create_task(writer())
        self._generated = given.count
        state = await transport.stream_state(names.runs_stream(0))
        stored = state.messages if state is not None else 0
        if stored != given.count + len(self._started):
            raise Unverified(f"{stored} journals are stored, expected {given.count + len(self._started)}")
        return Figures(count=given.count, seconds=now() - began)

    async def _pace(self, client: Client, given: Given) -> Figures:
        """Seconds that the journal of `name` took for its first, its middle and its last `count` completed steps."""
        times = [
            line.at
            for line in await client.journal(given.name)
            for record in line.records
            if record.get("t") == "completed"
        ]
        if len(times) != given.steps:
            raise Unverified(f"run {given.name} completed {len(times)} steps, expected {given.steps}")
        width, middle = given.count, len(times) // 2
        return Figures(
            more={
                "first": times[width] - times[0],
                "middle": times[middle + width] - times[middle],
                "last": times[-1] - times[-1 - width],
            }
        )

    async def _one(self, client: Client, given: Given) -> Figures:
        """`count` runs of `name`, one after the other, each waited for with `result`."""
        latencies: list[float] = []
        began = now()
        for _ in range(given.count):
            at = now()
            started = await client.start(given.name)
            self._started[started.run] = at
            await client.result(started.run, timeout=timedelta(seconds=given.seconds))
            latencies.append(now() - at)
            self._ended.setdefault(started.run, now())
        return figures_of(latencies, now() - began)

    async def _send(self, client: Client, given: Given) -> Figures:
        """To each of `count` waiting runs a message, one after the other: from the send to the run's end.

        What `register` left waiting gets one first, uncounted.
        """
        latencies: list[float] = []
        await client.message(f"{given.name}-first", "word")
        await self._end_of(f"{given.name}-first")
        began = now()
        for number in range(given.count):
            run = f"{given.name}-{number}"
            at = now()
            await client.message(run, "word", {"number": number})
            await self._end_of(run)
            latencies.append(now() - at)
        return figures_of(latencies, now() - began)

    # -- what the streams say
    async def _verify(self, client: Client, given: Given) -> Figures:
        """Every started run has one journal, which ended once and completed; nothing is left in the mailbox.

        `steps`: how many steps each completed run has, looked at in some of them.
        """
        transport = self._transport
        assert transport is not None
        if self._generated:
            ends = {run: await self._end_in_journal(client, run) for run in self._started}
        else:
            ends = await read_ends(transport, self._names)
        wrong = [run for run in self._started if ends.get(run) != ["completed"]]
        if wrong:
            found = Counter(" ".join(ends.get(run, ["no end"])) for run in wrong)
            raise Unverified(f"{len(wrong)} of {len(self._started)} runs did not end once: {dict(found)}")
        waited = ends.keys() - self._started.keys()
        if len(waited) != self._waited:
            raise Unverified(f"{len(waited)} other runs are stored, {self._waited} were waited for")
        wrong = [run for run in waited if ends[run] != ["completed"]]
        if wrong:
            raise Unverified(f"{len(wrong)} runs did not end once, such as {min(wrong)}: {ends[min(wrong)]}")
        for run in (
            (*list(self._started)[-CHECKED_WHOLE:], *sorted(waited)[:CHECKED_WHOLE]) if given.steps else ()
        ):
            lines = await client.journal(run)
            completed = Counter(
                str(record.get("step"))
                for line in lines
                for record in line.records
                if record.get("t") == "completed"
            )
            if len(completed) != given.steps or set(completed.values()) != {1}:
                raise Unverified(f"run {run} completed {dict(completed)}, expected {given.steps} steps once")
        await self._quiet(transport)
        return Figures(count=len(self._started) + self._waited)

    async def _end_in_journal(self, client: Client, run: str) -> list[str]:
        return [
            str(record.get("status"))
            for line in await client.journal(run)
            for record in line.records
            if record.get("t") == "finished"
        ]

    async def _quiet(self, transport: Transport) -> None:
        stream, deadline = self._names.mailbox_stream(0), now() + QUIET_SECONDS
        while True:
            state = await transport.stream_state(stream)
            left = state.messages if state is not None else 0
            if not left:
                return
            if now() > deadline:
                raise Unverified(f"{left} messages are left in {stream}")
            await asyncio.sleep(0.05)


def _own(stored: Stored) -> dict[str, str]:
    """The headers that an engine gave it; the server's own are not repeated."""
    return {name: value for name, value in stored.headers.items() if name in (H_NONCE, H_VERSION)}


async def read_ends(transport: Transport, names: Names) -> dict[str, list[str]]:
    """How each journal ended: the statuses of its final records, of which there has to be one."""
    ends: dict[str, list[str]] = {}
    after = 0
    while True:
        page = await transport.read(names.runs_stream(0), names.journals(0), after=after, limit=PAGE)
        for stored in page:
            found = ends.setdefault(names.run_of_journal(stored.subject), [])
            entry = decode_entry(stored.data)
            if entry.blob is not None:
                # Large ones are looked at whole by whoever started them.
                found.append("completed")
            found.extend(record.status for record in entry.records if isinstance(record, Finished))
        if len(page) < PAGE:
            return ends
        after = page[-1].sequence
