"""The ledger: what was asked, what was answered, and every movement of money."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import NamedTuple, cast

_SCHEMA = """
CREATE TABLE IF NOT EXISTS charges (
    key TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('charged', 'declined', 'refunded', 'voided'))
) STRICT;
CREATE TABLE IF NOT EXISTS movements (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    order_id TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('charge', 'refund')),
    amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
    at REAL NOT NULL
) STRICT;
"""


class Answer(NamedTuple):
    """An HTTP status and its body. `first`: the key was not known before."""

    status: int
    body: dict[str, object]
    first: bool = False


class Ledger:
    """Blocking; used from one thread at a time. Each method is one transaction: a kill leaves all of it or nothing."""

    def __init__(self, path: str | Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def charge(self, key: str, order: str, amount_cents: int, card: str, *, decline: bool) -> Answer:
        """Takes the money, or declines, once per key."""
        body = json.dumps([order, amount_cents, card])
        with _Transaction(self._db):
            known = self._find(key)
            if known is None:
                status = "declined" if decline else "charged"
                self._db.execute("INSERT INTO charges VALUES (?, ?, ?)", (key, body, status))
                if status == "charged":
                    self._move(key, order, "charge", amount_cents)
                return self._answer(key, status, first=True)
            known_body, status = known
            if status == "voided":
                return self._answer(key, status)
            if known_body != body:
                return Answer(409, {"error": "idempotency_conflict", "key": key})
            return self._answer(key, status)

    def cancel(self, key: str) -> Answer:
        """Gives back what was taken. A key that was never used is voided: a charge that comes later takes nothing."""
        with _Transaction(self._db):
            known = self._find(key)
            if known is None:
                self._db.execute("INSERT INTO charges VALUES (?, '', 'voided')", (key,))
                return Answer(200, {"charge": key, "status": "voided"}, first=True)
            body, status = known
            if status == "charged":
                order, amount_cents, _ = cast("tuple[str, int, str]", json.loads(body))
                self._db.execute("UPDATE charges SET status = 'refunded' WHERE key = ?", (key,))
                self._move(key, order, "refund", amount_cents)
                status = "refunded"
            return Answer(200, {"charge": key, "status": status})

    def _find(self, key: str) -> tuple[str, str] | None:
        row = self._db.execute("SELECT body, status FROM charges WHERE key = ?", (key,)).fetchone()
        return cast("tuple[str, str] | None", row)

    def _move(self, key: str, order: str, kind: str, amount_cents: int) -> None:
        self._db.execute(
            "INSERT INTO movements (key, order_id, kind, amount_cents, at) VALUES (?, ?, ?, ?, ?)",
            (key, order, kind, amount_cents, time.time()),
        )

    @staticmethod
    def _answer(key: str, status: str, *, first: bool = False) -> Answer:
        match status:
            case "charged":
                return Answer(201, {"charge": key, "status": status}, first)
            case "declined":
                return Answer(402, {"error": "card_declined", "charge": key}, first)
            case _:
                return Answer(410, {"error": f"charge_{status}", "charge": key}, first)


class _Transaction:
    """Takes the write lock at the start, so that reading and writing are one."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
