"""The two servers that these tests run on."""

from __future__ import annotations

from tests.runtime.world import run_on

__all__ = ["run_on"]
