"""The shop as processes: a server, the provider, the services and two engines."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from jetloom.transport import EmbeddedServer

from ._processes import Child, ChildFailed, free_port, stop_all

MODULES = {
    "orders": "services.orders:Orders",
    "inventory": "services.inventory:Inventory",
    "payments": "services.payments:Payments",
    "shipping": "services.shipping:Shipping",
    "notifications": "services.notifications:Notifications",
    "loyalty": "services.loyalty:Loyalty",
}
ENGINES = ("engine-1", "engine-2")
WORKFLOWS = "services/workflows"


@dataclass(frozen=True)
class Shop:
    """Everything that runs, and where it keeps its things."""

    folder: Path
    nats_url: str
    ledger: Path
    children: dict[str, Child]
    http: aiohttp.ClientSession

    async def start_again(self, name: str) -> None:
        await self.children[name].start()
        await self.children[name].wait_ready(self.http)

    async def keep_alive(self, say: Callable[[str], None]) -> None:
        """Never returns; what ends, for whatever reason, is started again, as a supervisor would."""
        while True:
            await asyncio.sleep(0.2)
            for name, child in self.children.items():
                if not child.alive:
                    before = child.pid
                    await self.start_again(name)
                    say(f"{name} (pid {before}) ended; it runs again as pid {child.pid}")

    def complaints(self) -> list[str]:
        """The ends of the logs that hold errors."""
        return [child.tail() for child in self.children.values() if child.complains()]

    async def watch(self) -> None:
        """Never returns; raises `ChildFailed` when a process ends that nobody killed."""
        while True:
            await asyncio.sleep(0.2)
            for name, child in self.children.items():
                if not child.alive and not child.killed:
                    raise ChildFailed(f"{name} ended by itself\n{child.tail()}")


@contextlib.asynccontextmanager
async def open_shop() -> AsyncGenerator[Shop]:
    """Starts everything in a new temporary folder; at the end both are gone."""
    with tempfile.TemporaryDirectory(prefix="jetloom-demo-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        logs = folder / "logs"
        logs.mkdir()
        server = EmbeddedServer(folder / "store")
        await server.start()
        children: dict[str, Child] = {}
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as http:
                shop = Shop(folder, server.url, folder / "ledger.sqlite", children, http)
                children.update(_make_children(shop, logs))
                for child in children.values():
                    await child.start()
                await asyncio.gather(*(child.wait_ready(http) for child in children.values()))
                yield shop
        finally:
            await asyncio.shield(_stop(server, children))


async def _stop(server: EmbeddedServer, children: dict[str, Child]) -> None:
    await stop_all(children.values())
    await server.stop()


def _make_children(shop: Shop, logs: Path) -> dict[str, Child]:
    port = free_port()
    base = {name: value for name, value in os.environ.items() if not name.startswith(("JETLOOM_", "NATS_"))}
    base |= {
        "NATS_URL": shop.nats_url,
        "PYTHONUNBUFFERED": "1",
        "JETLOOM_LOG_FORMAT": "text",
        "JETLOOM_PAYMENTS__PROVIDER_URL": f"http://127.0.0.1:{port}",
    }

    def program(name: str, *arguments: str, ready: str) -> Child:
        return Child(name, ["-m", *arguments], logs=logs, environment=base, ready=ready)

    def process(name: str, *arguments: str) -> Child:
        metrics = free_port()
        environment = {**base, "JETLOOM_HTTP_PORT": str(metrics)}
        ready = f"http://127.0.0.1:{metrics}/readyz"
        return Child(
            name, ["-m", "jetloom", "run", *arguments], logs=logs, environment=environment, ready=ready
        )

    provider = ("services.provider", "--port", str(port), "--ledger", str(shop.ledger))
    children = [
        *(process(name, WORKFLOWS, "--engine") for name in ENGINES),
        *(process(name, target) for name, target in MODULES.items()),
        program("labels", "services.labels.worker", ready="serving labels.print"),
        program("provider", *provider, ready=f"http://127.0.0.1:{port}/healthz"),
    ]
    return {child.name: child for child in children}
