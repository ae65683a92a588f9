"""The payment provider, over real HTTP and on a real SQLite file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from services.provider import Card, Ledger, make_app

HANG_SECONDS = 1.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
async def server(path: Path) -> AsyncIterator[TestServer]:
    server = TestServer(make_app(Ledger(path), hang_seconds=HANG_SECONDS))
    await server.start_server()
    yield server
    await server.close()


@pytest.fixture
async def http(server: TestServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.make_url("/")) as session:
        yield session


async def charge(
    http: aiohttp.ClientSession, key: str, card: str = Card.OK, *, amount: int = 500, timeout: float = 5
) -> int:
    body = {"order": f"order-of-{key}", "amount_cents": amount, "card": card}
    async with http.post(
        "/charges", json=body, headers={"Idempotency-Key": key}, timeout=aiohttp.ClientTimeout(total=timeout)
    ) as answer:
        return answer.status


async def cancel(http: aiohttp.ClientSession, key: str) -> str:
    async with http.post(f"/charges/{key}/cancel") as answer:
        assert answer.status == 200
        return (await answer.json())["status"]


def movements(path: Path, key: str) -> list[tuple[str, int]]:
    """Read by another connection while the provider writes, as the bookkeeper does."""
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return db.execute(
            "SELECT kind, amount_cents FROM movements WHERE key = ? ORDER BY id", (key,)
        ).fetchall()
    finally:
        db.close()


async def test_same_key_same_answer(http: aiohttp.ClientSession, path: Path) -> None:
    """A key charges once, however often and however concurrently it is sent."""
    assert await asyncio.gather(*(charge(http, "k") for _ in range(10))) == [201] * 10
    assert movements(path, "k") == [("charge", 500)]


async def test_same_key_other_body(http: aiohttp.ClientSession, path: Path) -> None:
    """A key that comes with another body is refused, and moves nothing."""
    assert await charge(http, "k") == 201
    assert await charge(http, "k", amount=600) == 409
    assert movements(path, "k") == [("charge", 500)]


async def test_decline_is_for_ever(http: aiohttp.ClientSession, path: Path) -> None:
    """A declined key stays declined, and cancelling it moves nothing."""
    assert [await charge(http, "k", Card.DECLINED) for _ in range(2)] == [402, 402]
    assert await cancel(http, "k") == "declined"
    assert movements(path, "k") == []


async def test_times_out_after_it_has_charged(http: aiohttp.ClientSession, path: Path) -> None:
    """The client sees a time-out, the money is gone; the same key asks again and hears that it is charged."""
    with pytest.raises(TimeoutError):
        await charge(http, "k", Card.TIMEOUT, timeout=HANG_SECONDS / 5)
    assert movements(path, "k") == [("charge", 500)]
    assert await charge(http, "k", Card.TIMEOUT, timeout=HANG_SECONDS / 5) == 201
    assert movements(path, "k") == [("charge", 500)]


async def test_lost_and_busy(http: aiohttp.ClientSession, path: Path) -> None:
    """A 500 may hide a charge, a 503 hides none; both end charged once."""
    assert await charge(http, "lost", Card.LOST) == 500
    assert movements(path, "lost") == [("charge", 500)]
    assert await charge(http, "busy", Card.BUSY) == 503
    assert movements(path, "busy") == []
    assert [await charge(http, "lost", Card.LOST), await charge(http, "busy", Card.BUSY)] == [201, 201]
    assert movements(path, "lost") == movements(path, "busy") == [("charge", 500)]


async def test_cancel_is_idempotent(http: aiohttp.ClientSession, path: Path) -> None:
    """A refund happens once, however often it is asked, and the key can't charge again."""
    await charge(http, "k")
    assert [await cancel(http, "k") for _ in range(3)] == ["refunded"] * 3
    assert await charge(http, "k") == 410
    assert movements(path, "k") == [("charge", 500), ("refund", 500)]


async def test_cancel_before_the_charge(http: aiohttp.ClientSession, path: Path) -> None:
    """Cancelling what never happened voids the key: a charge that arrives later takes nothing."""
    assert await cancel(http, "k") == "voided"
    assert await charge(http, "k") == 410
    assert movements(path, "k") == []


async def test_ledger_survives_a_restart(path: Path) -> None:
    """What was answered is answered again by the next process."""
    first = Ledger(path)
    first.charge("k", "order-1", 500, Card.OK, decline=False)
    first.close()
    second = Ledger(path)
    again = second.charge("k", "order-1", 500, Card.OK, decline=False)
    second.close()
    assert (again.status, again.first) == (201, False)


@pytest.mark.parametrize("body", [[], {}, {"order": "o", "amount_cents": 0, "card": Card.OK}])
async def test_bad_request(http: aiohttp.ClientSession, body: object) -> None:
    """A body that is no charge is refused."""
    async with http.post("/charges", json=body, headers={"Idempotency-Key": "k"}) as answer:
        assert answer.status == 400
