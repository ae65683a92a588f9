"""What workloads work with: options, a scope that starts servers and processes, samples, and results of them."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from ..errors import JetloomError
from ._load import Given
from ._machine import usage_of

if TYPE_CHECKING:
    from ..transport import EmbeddedServer
    from ._process import Child

ALWAYS = ", sync always"
"""What is added to the name of a case that ran on a server which syncs before it acknowledges."""
REDUCED = ", reduced"
"""What is added to the name of a case that is smaller than the one a target is about."""


class BenchFailed(JetloomError):
    """A workload gives no figure: its outcome was not what it has to be, or a part of it did not answer."""

    code = "bench.failed"


class MachineTooSmall(JetloomError):
    """The machine lacks what a workload needs; nothing was started."""

    code = "bench.machine"


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for. `repeat` 0 leaves the number of repetitions to the size."""

    workloads: tuple[str, ...] = ()
    size: Literal["full", "quick", "smoke"] = "full"
    """`smoke` proves that a workload runs, and measures nothing."""
    repeat: int = 0
    sync_always: bool = False
    peers: bool = False
    hotpath: bool | None = None

    @property
    def full(self) -> bool:
        return self.size == "full"

    @property
    def repetitions(self) -> int:
        return self.repeat or (3 if self.full else 1)


class Key(NamedTuple):
    workload: str
    case: str
    metric: str


class Rule(NamedTuple):
    """What a figure is compared with: another one of the same run (`of`), and bounds of the ratio, or of the value
    when there is no `of`."""

    of: Key | None = None
    at_least: float | None = None
    at_most: float | None = None


class Result(msgspec.Struct, frozen=True):
    """One figure. `ratio` is `value` divided by the figure that `of` names; `target` is about the ratio when there is
    one, otherwise about the value."""

    workload: str
    case: str
    metric: str
    value: float
    unit: str
    ratio: float | None = None
    of: str | None = None
    target: str | None = None
    met: bool | None = None


class Samples:
    """Figures by name, one for each repetition, in the order of their first appearance."""

    def __init__(self) -> None:
        self._values: dict[Key, list[float]] = {}
        self._units: dict[Key, str] = {}

    def add(self, key: Key, value: float, unit: str) -> None:
        self._values.setdefault(key, []).append(value)
        self._units[key] = unit

    def drop(self, workload: str, *, always: bool) -> None:
        """Forgets what a workload gave on one storage profile before it failed."""
        gone = [
            key for key in self._values if key.workload == workload and key.case.endswith(ALWAYS) is always
        ]
        for key in gone:
            del self._values[key], self._units[key]

    def median(self, key: Key) -> float | None:
        values = self._values.get(key)
        return statistics.median(values) if values else None

    def results(self, rules: Mapping[Key, Rule]) -> list[Result]:
        """A median for each figure, and where there were several, the distance of the extremes."""
        results: list[Result] = []
        for key, values in self._values.items():
            results.append(self._result(key, rules.get(key, Rule())))
            middle = statistics.median(values)
            if len(values) > 1 and middle:
                spread = (max(values) - min(values)) / abs(middle) * 100
                results.append(Result(*key[:2], f"{key.metric} spread", round(spread, 1), "%"))
        return results

    def _result(self, key: Key, rule: Rule) -> Result:
        value = statistics.median(self._values[key])
        base = self.median(rule.of) if rule.of is not None else None
        ratio = value / base if base else None
        judged = ratio if rule.of is not None else value
        target, met = None, None
        for sign, bound in (("≥", rule.at_least), ("≤", rule.at_most)):
            if bound is not None and judged is not None:
                target = f"{sign} {bound:g}"
                met = judged >= bound if sign == "≥" else judged <= bound
        return Result(
            *key,
            round(value, 4),
            self._units[key],
            round(ratio, 4) if ratio is not None else None,
            " ".join(rule.of) if rule.of is not None and ratio is not None else None,
            target,
            met,
        )


class Scope:
    """One workload on one storage profile: where it starts things, and where it puts what it finds."""

    def __init__(
        self,
        workload: str,
        options: Options,
        samples: Samples,
        folder: Path,
        say: Callable[[str], None],
        *,
        always: bool = False,
    ) -> None:
        self.workload = workload
        self.options = options
        self.folder = folder
        self.always = always
        self._samples = samples
        self._say = say
        self._started = 0
        self.failed: dict[str, str] = {}
        """Peers that gave no figures, and why."""

    @property
    def full(self) -> bool:
        return self.options.full

    def seconds(self, full: float) -> float:
        """How long a closed loop runs."""
        return self.pick(full, max(0.5, full / 4), 0.3)

    def pick[T](self, full: T, quick: T, smoke: T) -> T:
        """What belongs to the size that was asked for."""
        match self.options.size:
            case "full":
                return full
            case "quick":
                return quick
            case "smoke":
                return smoke

    def case(self, name: str, *, reduced: bool = False) -> str:
        return f"{name}{REDUCED if reduced else ''}{ALWAYS if self.always else ''}"

    def sample(self, case: str, metric: str, value: float, unit: str, *, reduced: bool = False) -> None:
        self._samples.add(Key(self.workload, self.case(case, reduced=reduced), metric), value, unit)

    def progress(self, text: str) -> None:
        self._say(f"{self.workload}{ALWAYS if self.always else ''}: {text}")

    def next(self) -> int:
        """A number that names a file or folder of this workload once."""
        self._started += 1
        return self._started

    @contextlib.asynccontextmanager
    async def server(self) -> AsyncGenerator[EmbeddedServer]:
        """A server with an empty store, which leaves with it."""
        import shutil

        from ..transport import EmbeddedServer

        store = self.folder / f"{self.workload}-{'always' if self.always else 'default'}-{self.next()}"
        server = EmbeddedServer(store, 0, sync="always" if self.always else "default")
        try:
            await server.start()
            yield server
        finally:
            # Nothing in the store is of use to anybody: the fast way down.
            server.kill()
            shutil.rmtree(store, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def child(self, role: str, config: Given) -> AsyncGenerator[Child]:
        from ._process import open_child

        async with open_child(role, config, self._log(role), self.environment) as child:
            yield child

    async def start_child(self, role: str, config: Given) -> Child:
        """One that is killed or stopped by the caller."""
        from ._process import start_child

        return await start_child(role, config, self._log(role), self.environment)

    @property
    def environment(self) -> dict[str, str]:
        hotpath = self.options.hotpath
        return {} if hotpath is None else {"JETLOOM_HOT_PATH": "on" if hotpath else "off"}

    def _log(self, role: str) -> Path:
        return self.folder / f"{self.workload}-{role}-{self.next()}.log"


class Meter:
    """CPU seconds and peak memory of processes between two moments."""

    def __init__(self, **pids: int | list[int]) -> None:
        self._pids = {part: [pid] if isinstance(pid, int) else pid for part, pid in pids.items()}
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        return {part: sum(usage_of(pid).cpu_seconds for pid in pids) for part, pids in self._pids.items()}

    def sample(self, scope: Scope, case: str, count: float, what: str, *, reduced: bool = False) -> None:
        """Puts CPU milliseconds per `what`, of which there were `count`, and the peaks."""
        after = self._read()
        if not any(after.values()):
            return
        for part, pids in self._pids.items():
            spent = (after[part] - self._before[part]) * 1e3 / max(count, 1)
            part = part.replace("_", " ")
            scope.sample(case, f"cpu {part}", spent, f"ms/{what}", reduced=reduced)
            peak = sum(usage_of(pid).peak for pid in pids) / 1e6
            scope.sample(case, f"peak memory {part}", peak, "MB", reduced=reduced)


type Run = Callable[[Scope], Awaitable[None]]


class Workload(NamedTuple):
    """`run` is called once for each repetition, unless it repeats itself (`once`)."""

    name: str
    about: str
    run: Run
    once: bool = False
    seconds_max: float = 900.0
    """After which it has failed: a full run ends by itself."""
    memory: int = 0
    """Bytes that the full size needs to be free."""
    disk: int = 0
