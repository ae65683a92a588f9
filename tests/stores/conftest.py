"""The two servers that these tests run on."""

from __future__ import annotations

from tests.runtime.world import modules_url, run_on

__all__ = ["modules_url", "run_on"]
