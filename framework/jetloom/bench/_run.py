"""One run of the benchmark: checks, then the workloads one after the other, then what they gave."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ..clock import SYSTEM_CLOCK
from ..errors import JetloomError, NatsUnavailable
from ._child import loop_factory
from ._frame import MachineTooSmall, Options, Result, Samples, Scope, Workload
from ._machine import describe_machine, disk_available, git_commit, memory_available
from ._rules import RULES
from ._workloads import find_workloads


class Report(msgspec.Struct, frozen=True):
    """What a run prints with `--json`. `failed` in the header: why a workload gave no figures."""

    header: dict[str, object]
    results: list[Result]

    @property
    def failed(self) -> dict[str, str]:
        return msgspec.convert(self.header.get("failed", {}), dict[str, str])


def run_bench(options: Options, say: Callable[[str], None]) -> Report:
    """Runs what `options` name, on uvloop where it is to be had.

    Raises `InvalidInput`, `NatsUnavailable`, `MachineTooSmall` before anything is started. Ctrl-C raises
    `KeyboardInterrupt` when everything that was started is gone.
    """
    workloads = find_workloads(options.workloads)
    check_machine(workloads, options)
    header = make_header(options)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return runner.run(_run(workloads, options, header, say))
        except asyncio.CancelledError:
            # SIGTERM; asyncio makes the same of Ctrl-C.
            raise KeyboardInterrupt from None


def check_machine(workloads: Sequence[Workload], options: Options) -> None:
    """Raises `MachineTooSmall` with everything that the full size lacks."""
    if not options.full:
        return
    lacking: list[str] = []
    memory, disk = memory_available(), disk_available()
    for workload in workloads:
        for what, found, needed in (
            ("memory", memory, workload.memory),
            ("disk for temporary files", disk, workload.disk),
        ):
            if found and needed > found:
                lacking.append(
                    f"{workload.name} needs {needed / 1e9:.1f} GB of {what}, {found / 1e9:.1f} GB are free"
                )
    if lacking:
        raise MachineTooSmall(
            f"{'; '.join(lacking)}; --size quick runs smaller ones, or name other workloads"
        )


def make_header(options: Options) -> dict[str, object]:
    """Machine, versions and settings. Raises `NatsUnavailable` without a server that is new enough."""
    from importlib.metadata import version

    from ..transport import find_server

    tried: list[str] = []
    server = find_server(tried)
    if server is None:
        raise NatsUnavailable(tried)
    try:
        loop = f"uvloop {version('uvloop')}"
    except ImportError:
        loop = "asyncio"
    return {
        "jetloom": version("jetloom"),
        "commit": git_commit(),
        "date": datetime.fromtimestamp(SYSTEM_CLOCK.now(), UTC).isoformat(timespec="seconds"),
        **describe_machine(),
        "server": str(server),
        "nats_py": version("nats-py"),
        "loop": loop,
        "profile": "one server, file storage, 1 replica; default sync"
        + (", then sync_interval: always" if options.sync_always else ""),
        "size": options.size,
        "repetitions": options.repetitions,
        "hot_path": {None: "as configured", True: "on", False: "off"}[options.hotpath],
        "failed": {},
    }


async def _run(
    workloads: Sequence[Workload], options: Options, header: dict[str, object], say: Callable[[str], None]
) -> Report:
    samples, failed = Samples(), dict[str, str]()
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    profiles = (False, True) if options.sync_always else (False,)
    began = SYSTEM_CLOCK.monotonic()
    with tempfile.TemporaryDirectory(prefix="jetloom-bench-") as folder:
        for always in profiles:
            for workload in workloads:
                scope = Scope(workload.name, options, samples, Path(folder), say, always=always)
                await _run_one(workload, scope, samples, failed)
    header = {**header, "seconds": round(SYSTEM_CLOCK.monotonic() - began, 1), "failed": failed}
    return Report(header, samples.results(RULES))


async def _run_one(workload: Workload, scope: Scope, samples: Samples, failed: dict[str, str]) -> None:
    repetitions = 1 if workload.once else scope.options.repetitions
    try:
        async with asyncio.timeout(workload.seconds_max):
            for number in range(repetitions):
                if repetitions > 1:
                    scope.progress(f"repetition {number + 1} of {repetitions}")
                await workload.run(scope)
    except TimeoutError:
        reason = f"did not end within {workload.seconds_max:g} s"
    except JetloomError as error:
        reason = error.message
    else:
        reason = ""
    for peer, why in scope.failed.items():
        failed[f"{scope.case(workload.name)}, {peer}"] = why
    if not reason:
        return
    samples.drop(workload.name, always=scope.always)
    failed[scope.case(workload.name)] = reason
    scope.progress(f"no figures: {reason}")
