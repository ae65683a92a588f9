"""The page about Python is what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_page_is_current(repo_root: Path) -> None:
    """`make docs` would change nothing."""
    done = subprocess.run(
        [sys.executable, "scripts/reference.py", "--check"],
        cwd=repo_root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
