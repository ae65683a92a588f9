"""A process that serves nothing, for the tests of signals: `python -m tests.cli.serving FOLDER MODE`.

It leaves a file in FOLDER for each thing that happened. Modes: `calm`; `stuck`, whose drain blocks the event loop;
`slow`, whose start never returns; `broken`, whose start fails.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from jetloom.cli._process import run_service, serve
from jetloom.errors import StartFailed


class Recorder:
    def __init__(self, folder: Path, mode: str) -> None:
        self.folder = folder
        self.mode = mode

    def mark(self, name: str) -> None:
        (self.folder / name).touch()

    async def start(self) -> None:
        if self.mode == "broken":
            raise StartFailed(["broken on purpose"])
        if self.mode == "slow":
            self.mark("starting")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.mark("start-cancelled")
                raise

    async def stop(self, deadline: float = 10.0) -> None:
        self.mark("stopping")
        if self.mode == "stuck":
            time.sleep(60)  # noqa: ASYNC251
        self.mark("stopped")

    def kill(self) -> None:
        self.mark("killed")


def main() -> int:
    recorder = Recorder(Path(sys.argv[1]), sys.argv[2])
    try:
        return run_service(
            lambda: serve(
                recorder,
                deadline=5,
                ready=lambda: recorder.mark("ready"),
                draining=recorder.mark,
            )
        )
    except StartFailed:
        return 2


if __name__ == "__main__":
    sys.exit(main())
