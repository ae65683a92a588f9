"""Real processes, real kills, and the books that they are checked against."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jetloom.engine import Client, Definitions
from jetloom.messages import Names
from jetloom.runtime import JournalLine
from jetloom.stores import namespace_assets, task_consumer
from jetloom.transport import EmbeddedServer, Transport, connect
from jetloom.workflows import Definition, Emit, Retry, Saga, Step, Wait

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 30.0

QUICK = Retry(max=5, initial=0.2)

DEFINITIONS = (
    Definition(
        id="near",
        steps=(
            Step("a", uses="local.do", saga=Saga("local.undo", retry=QUICK)),
            Step("b", uses="local.flaky", depends_on=("a",), retry=QUICK),
            Step("c", uses="local.emits", depends_on=("b",)),
        ),
    ),
    Definition(
        id="mixed",
        steps=(
            Step("a", uses="local.do", saga=Saga("far.undo", retry=QUICK)),
            Step("b", uses="far.emits", depends_on=("a",), saga=Saga("local.undo", retry=QUICK)),
            Step("w", wait=Wait(for_=0.5), depends_on=("a",)),
            Step("c", uses="far.fails", depends_on=("b", "w"), emit=(Emit("chaos.run.passed", {"at": "c"}),)),
            Step("d", uses="local.do", depends_on=("c",)),
        ),
    ),
    Definition(
        id="far",
        steps=(
            Step("a", uses="far.do", saga=Saga("far.undo", retry=QUICK)),
            Step("b", uses="far.flaky", depends_on=("a",), retry=QUICK),
            Step("w", wait=Wait(for_=6.0), depends_on=("a",)),
            Step("c", uses="far.fails", depends_on=("b", "w")),
        ),
    ),
)


class Child:
    """One process of the suite."""

    def __init__(self, kind: str, name: str, url: str, books: Path, options: Sequence[str] = ()) -> None:
        self.kind = kind
        self.name = name
        self._options = options
        self._url = url
        self._books = books
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        log = self._books.with_name(f"{self.name}.log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.chaos.process",
            self.kind,
            "--nats",
            self._url,
            "--name",
            self.name,
            "--books",
            str(self._books),
            *self._options,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
        )
        log.close()
        assert self.process.stdout is not None
        async with asyncio.timeout(READY_SECONDS):
            line = await self.process.stdout.readline()
        assert line == b"ready\n", f"{self.name} did not start: {line!r}"

    async def kill(self) -> None:
        """SIGKILL, and proof that it took effect."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        assert await self.process.wait() == -signal.SIGKILL

    def freeze(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)

    def frozen(self) -> bool:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def thaw(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGCONT)

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(10):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()


class World:
    """A server, a client, and what the journals and streams say in the end."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedServer(folder / "store", 0)
        self.names = Names()
        self.books = folder / "books.jsonl"
        self.children: dict[str, Child] = {}

    async def start(self) -> Client:
        await self.server.start()
        self.transport: Transport = await connect(self.server.url, name="chaos")
        for asset in namespace_assets(self.names):
            await self.transport.ensure(asset)
        for handler in ("do", "emits", "fails", "flaky", "undo"):
            for kind in ("far", "local"):
                await self.transport.ensure(task_consumer(self.names, f"{kind}.{handler}"))
        for definition in DEFINITIONS:
            await Definitions(self.transport, self.names).register(definition)
        self.client = Client(self.transport, self.names)
        return self.client

    async def child(self, kind: str, name: str, *options: str) -> Child:
        child = Child(kind, name, self.server.url, self.books, options)
        await child.start()
        self.children[name] = child
        return child

    async def stop(self) -> None:
        for child in self.children.values():
            await child.stop()
        await self.transport.close()
        await self.server.stop()

    def bodies(self) -> list[dict[str, Any]]:
        # The last line may be seen half written.
        whole, _, _ = self.books.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    async def events(self) -> Counter[str]:
        """How often each event id stands in the events stream."""
        found: Counter[str] = Counter()
        after = 0
        while True:
            page = await self.transport.read(self.names.events_stream, self.names.event(">"), after=after)
            for stored in page:
                found[stored.headers["ce-id"]] += 1
                after = stored.sequence
            if len(page) < 256:
                return found


def records_of(journal: Sequence[JournalLine], kind: str) -> list[tuple[float, dict[str, Any]]]:
    return [(line.at, record) for line in journal for record in line.records if record["t"] == kind]


def check_run(run: str, journal: Sequence[JournalLine]) -> list[str]:
    """What is wrong with one run's journal."""
    wrong: list[str] = []
    ends = records_of(journal, "finished")
    if len(ends) != 1 or journal[-1].n != len(journal):
        wrong.append(f"{run}: {len(ends)} ends, {len(journal)} entries up to {journal[-1].n}")
    if any(first.n + 1 != second.n for first, second in itertools.pairwise(journal)):
        wrong.append(f"{run}: ordinals have gaps")
    plans = [record["plan"] for _, record in records_of(journal, "undoing")]
    undone = [record["step"] for _, record in records_of(journal, "undo_completed")]
    if plans and list(plans[0]) != undone:
        wrong.append(f"{run}: planned to undo {plans[0]}, undid {undone}")
    completed = [record["step"] for _, record in records_of(journal, "completed")]
    if plans and [step for step in reversed(completed) if step in plans[0]] != list(plans[0]):
        wrong.append(f"{run}: completed {completed}, undo plan {plans[0]} is not backwards")
    return wrong


def check_bodies(
    journals: dict[str, Sequence[JournalLine]], bodies: list[dict[str, Any]], slack: float
) -> list[str]:
    """No body starts after its result is journaled. `slack`: seconds that a frozen process may be behind."""
    ended: dict[tuple[str, str], float] = {}
    for run, journal in journals.items():
        for at, record in records_of(journal, "completed"):
            ended[(run, record["step"])] = at
        for at, record in records_of(journal, "undo_completed"):
            ended[(run, f"undo={record['step']}")] = at
    late: defaultdict[str, int] = defaultdict(int)
    wrong: list[str] = []
    for body in bodies:
        done = ended.get((body["run"], body["unit"]))
        if body["what"] == "start" and done is not None and body["at"] > done + slack:
            late[body["unit"]] += 1
            wrong.append(
                f"{body['run']}: a body of {body['unit']} began {body['at'] - done:.3f} s after its result"
            )
    return wrong


def expected_events(journals: dict[str, Sequence[JournalLine]], incs: dict[str, int]) -> set[str]:
    return {
        f"{run}.{incs[run]}.{record['key']}"
        for run, journal in journals.items()
        for _, record in records_of(journal, "emitted")
    }
