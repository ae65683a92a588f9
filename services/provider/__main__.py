"""`python -m services.provider --port 8080 --ledger ledger.sqlite`"""

from __future__ import annotations

import argparse

from aiohttp import web

from . import Ledger, make_app


def main() -> None:
    """Serves until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m services.provider", description="a payment provider")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ledger", default="ledger.sqlite", help="SQLite file, made when missing")
    parser.add_argument("--seed", type=int, default=0, help="of the noise in the answer times")
    given = parser.parse_args()
    web.run_app(
        make_app(Ledger(given.ledger), seed=given.seed), host=given.host, port=given.port, shutdown_timeout=1
    )


if __name__ == "__main__":
    main()
