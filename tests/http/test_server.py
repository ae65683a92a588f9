"""Metrics and health over HTTP."""

from __future__ import annotations

import aiohttp
import pytest

from jetloom.errors import StartFailed
from jetloom.http import HealthServer
from jetloom.runtime import CheckResult, Health
from jetloom.telemetry import Metrics


async def test_metrics_and_health_are_served() -> None:
    """`/metrics` is what Prometheus reads; `/livez` and `/readyz` answer 503 with the reasons when they should."""
    health = Health(live=True, ready=True, modules={"orders": "up"})
    metrics = Metrics()
    metrics.counter("jetloom_resumes_total").inc()
    server = HealthServer(metrics, lambda: health, host="127.0.0.1")
    await server.start()
    await server.start()
    base = f"http://127.0.0.1:{server.port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{base}/metrics") as answer:
            assert answer.status == 200
            assert "jetloom_resumes_total 1.0" in await answer.text()
        async with session.get(f"{base}/readyz") as answer:
            assert (answer.status, (await answer.json())["modules"]) == (200, {"orders": "up"})
        health = Health(live=True, ready=False, modules={}, problems=["not connected to NATS"])
        async with session.get(f"{base}/readyz") as answer:
            assert (answer.status, (await answer.json())["problems"]) == (503, ["not connected to NATS"])
        async with session.get(f"{base}/livez") as answer:
            assert answer.status == 200
        async with session.get(f"{base}/healthz") as answer:
            assert answer.status == 503
        failing = CheckResult("db", "live", False, "orders", "refused")
        health = Health(live=False, ready=False, modules={"orders": "up"}, checks=[failing])
        async with session.get(f"{base}/livez") as answer:
            assert answer.status == 503
        async with session.get(f"{base}/healthz") as answer:
            assert (await answer.json())["checks"] == [
                {"name": "db", "kind": "live", "ok": False, "module": "orders", "detail": "refused"}
            ]
        health = Health(live=True, ready=True, modules={})
        async with session.get(f"{base}/healthz") as answer:
            assert answer.status == 200
        with pytest.raises(StartFailed, match="JETLOOM_HTTP_PORT"):
            await HealthServer(metrics, lambda: health, port=server.port, host="127.0.0.1").start()
    await server.stop()
    await server.stop()
