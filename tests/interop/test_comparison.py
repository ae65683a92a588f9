"""The modules of the comparison with FastStream do what the page says, in as many lines as it says."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from nats.aio.client import Client as NatsClient
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from .kit import listen, load, plain_client, serving, until, until_true

_BLOCK = re.compile(r"<!-- (\w+), (\w+) -->\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\| \[[^|]*\]\([^|]*\) \| (\d+) \| (\d+) \|$", re.MULTILINE)
BOOKINGS = (
    {"id": "a1", "account": "ann", "cents": 100},
    {"id": "n1", "account": "new", "cents": 5},
    {"id": "n2", "account": "new", "cents": 7},
    {"id": "b1", "account": "bob", "cents": 0},
    {"id": "x1", "account": "bob"},
    {"id": "b2", "account": "bob", "cents": 30},
)
"""The account `new` fails twice; one has no amount, one does not decode."""


@pytest.fixture
def text(repo_root: Path) -> str:
    return (repo_root / "docs/explanation/faststream.md").read_text(encoding="utf-8")


def codes(text: str) -> dict[tuple[str, str], str]:
    return {(name, framework): code for name, framework, code in _BLOCK.findall(text)}


def count(code: str) -> int:
    return sum(1 for line in code.splitlines() if line.strip())


class Balances(dict[str, int]):
    """The books: an account that is opened late, and the order in which amounts were booked."""

    def __init__(self) -> None:
        super().__init__({"ann": 0, "bob": 0, "new": 0})
        self.refusals = 2
        self.booked: list[tuple[str, int]] = []

    def __getitem__(self, account: str) -> int:
        if account == "new" and self.refusals:
            self.refusals -= 1
            raise KeyError(account)
        return super().__getitem__(account)

    def __setitem__(self, account: str, cents: int) -> None:
        self.booked.append((account, cents - super().__getitem__(account)))
        super().__setitem__(account, cents)


@asynccontextmanager
async def faststream(code: str, url: str) -> AsyncGenerator[dict[str, Any]]:
    scope = load(code, url=url)
    await scope["app"].start()
    try:
        yield scope
    finally:
        await scope["app"].stop()


def test_the_page_counts_right(text: str) -> None:
    """The table has the number of lines of each module on the page."""
    found = codes(text)
    rows = _ROW.findall(text)
    wanted = [
        (str(count(found[name, "jetloom"])), str(count(found[name, "faststream"])))
        for name in ("stock", "ledger")
    ]
    assert rows == wanted


async def check_stock(client: NatsClient, events: str, endpoint: str) -> None:
    js = JetStreamContext(client)
    told = await listen(client, f"{events}.shop.stock.reserved")
    await js.publish(
        f"{events}.shop.order.placed", json.dumps({"id": "o", "item": "pen", "pieces": 3}).encode()
    )
    assert json.loads((await told.next_msg(timeout=10)).data) == {"order": "o"}
    answer = await client.request(endpoint, json.dumps("pen").encode(), timeout=10)
    assert json.loads(answer.data) == 7


async def test_stock_with_jetloom(text: str, url: str) -> None:
    """An order is reserved, that is published, and the endpoint says what is left."""
    scope = load(codes(text)["stock", "jetloom"], url=url)
    async with serving(url, scope["Stock"]()), plain_client(url) as client:
        await check_stock(client, "jetloom.events", "jetloom.rpc.stock.left")


async def test_stock_with_faststream(text: str, url: str) -> None:
    """The same of FastStream's module."""
    async with faststream(codes(text)["stock", "faststream"], url), plain_client(url) as client:
        await check_stock(client, "events", "rpc.stock.left")


async def test_failures_with_jetloom(text: str, url: str) -> None:
    """An order that does not decode is a dead letter after one delivery; a request that fails is answered."""
    scope = load(codes(text)["stock", "jetloom"], url=url)
    async with serving(url, scope["Stock"]()), plain_client(url) as client:
        await JetStreamContext(client).publish("jetloom.events.shop.order.placed", b"{}")

        async def kept() -> list[dict[str, str]]:
            return await letters_of(client, "JETLOOM_DLQ")

        await until_true(kept, "the dead letter is kept")
        [letter] = await kept()
        assert json.loads(letter["Jetloom-Dlq"])["deliveries"] == 1
        answer = await client.request("jetloom.rpc.stock.left", b'"sword"', timeout=10)
        assert (answer.headers or {})["Nats-Service-Error-Code"] == "500"


async def test_failures_with_faststream(text: str, url: str) -> None:
    """An order that does not decode comes again and again; a request that fails has no answer."""
    async with faststream(codes(text)["stock", "faststream"], url), plain_client(url) as client:
        await JetStreamContext(client).publish("events.shop.order.placed", b"{}")

        async def comes_again() -> bool:
            info = await JetStreamContext(client).consumer_info("EVENTS", "stock-reserve")
            return info.delivered is not None and info.delivered.consumer_seq > 5

        await until_true(comes_again, "it was delivered more than five times")
        with pytest.raises(NatsTimeout):
            await client.request("rpc.stock.left", b'"sword"', timeout=0.5)
        await JetStreamContext(client).purge_stream("EVENTS")


async def check_ledger(
    client: NatsClient,
    prefix: str,
    balances: Balances,
    exported: Callable[[], list[str]],
    letters: Callable[[], Awaitable[list[tuple[str, str]]]],
) -> None:
    js = JetStreamContext(client)
    for booking in BOOKINGS:
        await js.publish(f"{prefix}bank.booking.made", json.dumps(booking).encode())
    await until(lambda: len(balances.booked) == 4, "all that can be booked is")
    assert dict(balances) == {"ann": 100, "bob": 30, "new": 12}
    assert [cents for account, cents in balances.booked if account == "new"] == [5, 7]
    await until(
        lambda: set(exported()) == {"a1", "n1", "n2", "b1", "b2"}, "all that can be read was exported"
    )

    async def kept() -> bool:
        return len(await letters()) == 3

    await until_true(kept, "three dead letters are kept")
    found = sorted(await letters())
    assert [handler for handler, _ in found] == ["book", "book", "export"]
    assert any("a booking needs an amount" in reason for _, reason in found)
    assert sum("cents" in reason for _, reason in found) == 2


async def letters_of(client: NatsClient, stream: str) -> list[dict[str, str]]:
    js = JetStreamContext(client)
    last = (await js.stream_info(stream)).state.last_seq
    return [read_headers(await js.get_msg(stream, number)) for number in range(1, last + 1)]


async def test_ledger_with_jetloom(text: str, url: str) -> None:
    """Bookings of an account stay in order over retries; what can't be handled is kept; the rest is exported."""
    ledger: Any = load(codes(text)["ledger", "jetloom"], url=url)["Ledger"]()
    async with serving(url, ledger), plain_client(url) as client:
        ledger.balances = balances = Balances()

        async def letters() -> list[tuple[str, str]]:
            found = [json.loads(each["Jetloom-Dlq"]) for each in await letters_of(client, "JETLOOM_DLQ")]
            assert all(
                each["subject"] == "jetloom.events.bank.booking.made" and each["stack"] for each in found
            )
            return [(each["handler"], each["reason"]) for each in found]

        await check_ledger(client, "jetloom.events.", balances, lambda: ledger.exported, letters)


async def test_ledger_with_faststream(text: str, url: str) -> None:
    """The same of FastStream's module."""
    async with faststream(codes(text)["ledger", "faststream"], url) as scope, plain_client(url) as client:
        scope["balances"] = balances = Balances()

        async def letters() -> list[tuple[str, str]]:
            found = await letters_of(client, "LETTERS")
            assert all(each["subject"] == "bank.booking.made" and each["stack"] for each in found)
            return [(each["handler"], each["reason"]) for each in found]

        await check_ledger(client, "", balances, lambda: scope["exported"], letters)


def read_headers(message: RawStreamMsg) -> dict[str, str]:
    return cast("dict[str, str]", message.headers or {})  # pyright: ignore[reportUnknownMemberType]
