"""The provider's HTTP side: slow, declining, timing out, as the card says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import cast

from aiohttp import web

from ._ledger import Answer, Ledger


class Card(StrEnum):
    """What a card's token makes the provider do."""

    OK = "card_ok"
    SLOW = "card_slow"
    """Charged at once, answered late, though within what a client waits."""
    DECLINED = "card_declined"
    TIMEOUT = "card_timeout"
    """Charged, and the first answer comes after every client has hung up."""
    LOST = "card_lost"
    """Charged, and the first answer is a 500."""
    BUSY = "card_busy"
    """The first request is refused with 503 before anything happened."""


SLOW_SECONDS = 0.4
HANG_SECONDS = 3.0
"""Longer than any client's time-out."""
NOISE_SECONDS = 0.02


def make_app(ledger: Ledger, *, seed: int = 0, hang_seconds: float = HANG_SECONDS) -> web.Application:
    """The provider on this ledger, which it closes at its end. Only the small noise in the answer times is random."""
    app = web.Application()
    provider = _Provider(ledger, random.Random(seed), hang_seconds)
    app.router.add_post("/charges", provider.charge)
    app.router.add_post("/charges/{key}/cancel", provider.cancel)
    app.router.add_get("/healthz", provider.healthz)
    app.on_cleanup.append(provider.close)
    return app


class _Provider:
    def __init__(self, ledger: Ledger, noise: random.Random, hang_seconds: float) -> None:
        self._ledger = ledger
        self._noise = noise
        self._hang_seconds = hang_seconds
        # SQLite blocks, and one writer is all it has.
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._refused: set[str] = set()

    async def close(self, _: web.Application) -> None:
        self._thread.shutdown()
        self._ledger.close()

    async def healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def charge(self, request: web.Request) -> web.Response:
        key = request.headers.get("Idempotency-Key", "")
        parsed = _parse(await request.json())
        if not key or parsed is None:
            return web.json_response({"error": "bad_request"}, status=400)
        order, amount_cents, card = parsed
        await asyncio.sleep(self._noise.random() * NOISE_SECONDS)
        if card == Card.BUSY and key not in self._refused:
            self._refused.add(key)
            return web.json_response({"error": "busy"}, status=503, headers={"Retry-After": "0"})
        answer = await self._blocking(
            lambda: self._ledger.charge(key, order, amount_cents, card, decline=card == Card.DECLINED)
        )
        if answer.first and card == Card.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        elif answer.first and card == Card.TIMEOUT:
            await asyncio.sleep(self._hang_seconds)
        elif answer.first and card == Card.LOST:
            return web.json_response({"error": "internal"}, status=500)
        return web.json_response(answer.body, status=answer.status)

    async def cancel(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        answer = await self._blocking(lambda: self._ledger.cancel(key))
        return web.json_response(answer.body, status=answer.status)

    async def _blocking(self, call: Callable[[], Answer]) -> Answer:
        # Shielded: a client that hangs up doesn't cancel what was asked.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, call))


def _parse(body: object) -> tuple[str, int, str] | None:
    if not isinstance(body, dict):
        return None
    fields = cast("dict[str, object]", body)
    match fields.get("order"), fields.get("amount_cents"), fields.get("card"):
        case str(order), int(amount_cents), str(card) if order and amount_cents > 0:
            return order, amount_cents, card
        case _:
            return None
