"""What the machine is, and what a process has used: read from /proc, so empty where there is none."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Usage(NamedTuple):
    """`peak` is the largest resident memory so far, in bytes. All 0 when it can't be told."""

    cpu_seconds: float = 0.0
    peak: int = 0


def usage_of(pid: int) -> Usage:
    """Of one process with all of its threads."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(") ")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        status = (PROC / str(pid) / "status").read_text()
    except (OSError, IndexError, ValueError):
        return Usage()
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), _kilobytes(status, "VmHWM:") * 1024)


def resident_of(pid: int) -> int:
    """Bytes that are resident now; 0 when it can't be told."""
    try:
        return _kilobytes((PROC / str(pid) / "status").read_text(), "VmRSS:") * 1024
    except OSError:
        return 0


def memory_available() -> int:
    """Bytes; 0 when it can't be told."""
    try:
        return _kilobytes((PROC / "meminfo").read_text(), "MemAvailable:") * 1024
    except OSError:
        return 0


def disk_available() -> int:
    """Bytes where stores are made."""
    return shutil.disk_usage(tempfile.gettempdir()).free


def describe_machine() -> dict[str, str | int | float]:
    """What a reader needs to know before the figures mean anything."""
    text = _read(PROC / "cpuinfo")
    models = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "memory_gib": round(_kilobytes(_read(PROC / "meminfo"), "MemTotal:") / 1024 / 1024, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 2),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def git_commit() -> str:
    """Of the source tree that this code runs from; empty outside of one. Ends in `+` when files differ."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _kilobytes(text: str, name: str) -> int:
    for line in text.splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
