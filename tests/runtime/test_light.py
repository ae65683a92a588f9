"""Declaring a module loads next to nothing."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("aiohttp", "asyncio", "celpy", "cronsim", "nats", "opentelemetry", "prometheus_client", "yaml")


def test_what_declares_a_module_is_light() -> None:
    """The decorators load no library but msgspec: what serves a module loads where one is served."""
    code = (
        "import sys\nfrom jetloom import Module, StepContext, Undo, endpoint, every, health, on, step\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
