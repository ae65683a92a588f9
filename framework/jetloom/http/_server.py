"""A small HTTP server for metrics and health."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import StartFailed, invariant
from ..messages import encode
from ..runtime import Health
from ..telemetry import Metrics

if TYPE_CHECKING:
    from aiohttp import web

SHUTDOWN_SECONDS = 1.0
"""For answers that are being written at the stop; a scrape takes milliseconds."""


class HealthServer:
    """Serves one process on `host:port`; port 0 takes any free one, `port` says which after `start`."""

    def __init__(
        self, metrics: Metrics, health: Callable[[], Health], *, port: int = 0, host: str = "0.0.0.0"
    ) -> None:
        self._metrics = metrics
        self._health = health
        self._host = host
        self._wanted = port
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Returns when it listens. Raises `StartFailed` when the port is taken."""
        if self._runner is not None:
            return
        # aiohttp takes 0.2 s to import; only processes that serve pay for it.
        from aiohttp import web

        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/livez", self._serve_live)
        app.router.add_get("/readyz", self._serve_ready)
        app.router.add_get("/healthz", self._serve_health)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._wanted)
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise StartFailed(
                [f"port {self._wanted} of {self._host} can't be had: {error}; set JETLOOM_HTTP_PORT (0: any)"]
            ) from error
        self._runner = runner
        addresses = runner.addresses
        invariant(addresses, "a started site has an address")
        self.port = int(addresses[0][1])

    async def stop(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _serve_metrics(self, _: web.Request) -> web.Response:
        from aiohttp import web

        body, content_type = self._metrics.render()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _serve_live(self, _: web.Request) -> web.Response:
        health = self._health()
        return self._answer(health, health.live)

    async def _serve_ready(self, _: web.Request) -> web.Response:
        health = self._health()
        return self._answer(health, health.ready)

    async def _serve_health(self, _: web.Request) -> web.Response:
        health = self._health()
        return self._answer(health, health.live and health.ready)

    def _answer(self, health: Health, good: bool) -> web.Response:
        from aiohttp import web

        return web.Response(body=encode(health), status=200 if good else 503, content_type="application/json")
