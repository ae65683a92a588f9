"""Real `jetloom` processes on a real server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import msgspec

from jetloom.app import Summary
from tests.cli.conftest import Ended

COMMAND_SECONDS = 60
"""Above any command's own limit, so that a test fails instead of hanging."""

GREET = """\
id: greet
version: "1"
input_schema:
  type: object
  required: [name]
  properties:
    name: { type: string, minLength: 1 }
steps:
  - id: compose
    uses: greeter.compose
    retry: { max: 0 }
    with:
      name: ${input.name}
output:
  said: ${steps.compose.text}
"""

STUCK = """\
id: stuck
version: "1"
steps:
  - id: wait
    uses: nobody.serves
"""


def environment() -> dict[str, str]:
    """Without anything that names a server or a setting."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("NATS_", "JETLOOM_"))}
    # A narrow terminal wraps sentences that tests look for.
    return found | {"COLUMNS": "200"}


class Live:
    """A `jetloom dev` that serves, and commands against its server."""

    def __init__(self, process: subprocess.Popen[str], summary: Summary, root: Path) -> None:
        self.process = process
        self.summary = summary
        self._root = root

    def run(self, *arguments: str) -> Ended:
        """One command, as a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "jetloom", *arguments, "--nats", self.summary.nats_url],
            cwd=self._root,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(COMMAND_SECONDS)


@contextlib.contextmanager
def serve_dev(folder: Path, root: Path, *targets: str) -> Generator[Live]:
    """`jetloom dev` with a server of its own whose store is in `folder`; gone at the end, whatever happens."""
    log = folder / "dev.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "jetloom", "dev", *targets, "--store", str(folder / "store"), "--json"],
            cwd=root,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, f"jetloom dev ended with {process.wait(COMMAND_SECONDS)}:\n{log.read_text()}"
            yield Live(process, msgspec.json.decode(line, type=Summary), root)
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(COMMAND_SECONDS)
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
