"""`python -m services.demo`: the shop, two SIGKILLs, and the books."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, cast

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError
from rich.console import Console

from jetloom import JetloomError

from ._processes import ChildFailed
from ._shop import ENGINES, MODULES, Shop, open_shop
from ._show import Report, show_progress, show_report, to_json, where_to_look
from ._watch import Watch
from .books import balance, read_orders
from .generate import COUNT, FOLDER

PLACE_SECONDS = 0.005
"""Between two orders: faster than two engines on a small machine fulfil them, so that a kill meets work."""
END_SECONDS = 60.0
BOOKS_SECONDS = 15.0
DEAD_SECONDS = 0.5
"""How long a killed process stays dead."""
ACK_WAIT_SECONDS = 10.0
"""After which the server gives a dead worker's task to another: the default of the worker contract."""
KILLABLE = (*MODULES, "labels")
INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    orders: int
    kill: bool
    dev: bool
    json: bool
    seed: int


def parse(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m services.demo", description="the shop, two SIGKILLs, the books"
    )
    parser.add_argument("--orders", type=int, default=None, help=f"the first N of {COUNT} (with --dev: none)")
    parser.add_argument("--no-kill", action="store_true", help="kill nothing")
    parser.add_argument("--dev", action="store_true", help="leave everything running and say where to look")
    parser.add_argument("--json", action="store_true", help="one JSON document at the end, nothing before")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the choice of victims; otherwise a new one"
    )
    given = parser.parse_args(arguments)
    orders = given.orders if given.orders is not None else (0 if given.dev else COUNT)
    if not 0 <= orders <= COUNT:
        parser.error(f"--orders must be 0 to {COUNT}")
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10_000)
    return Options(orders, not given.no_kill, given.dev, given.json, seed)


async def demo(options: Options, console: Console) -> int:
    """Returns the exit code: 0 when the books are right."""
    began = time.monotonic()
    console.print(
        f"starting a server, {len(ENGINES)} engines, {len(MODULES)} services, a worker, the provider …"
    )
    async with open_shop() as shop:
        console.print(
            f"ready after {time.monotonic() - began:.1f} s: {shop.nats_url}, logs in {shop.folder}/logs",
            soft_wrap=True,
        )
        report = None
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(shop.watch())
                if options.orders:
                    report = await fulfil(options, shop, console, began)
                    print_report(report, options, console)
                    if report.wrong:
                        print("\n".join(shop.complaints()), file=sys.stderr)
                if options.dev:
                    if not options.orders:
                        await deliver_stock(shop)
                    where_to_look(shop, console)
                watching.cancel()
                if options.dev:
                    await shop.keep_alive(lambda text: console.print(text, highlight=False, soft_wrap=True))
        except BaseExceptionGroup as group:
            raise first_of(group) from None
    return 1 if report is not None and report.wrong else 0


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first, out of the groups around it."""
    error = group.exceptions[0]
    return (
        first_of(cast("BaseExceptionGroup[BaseException]", error))
        if isinstance(error, BaseExceptionGroup)
        else error
    )


async def fulfil(options: Options, shop: Shop, console: Console, began: float) -> Report:
    """Delivers stock, places the orders, kills half way, waits for the ends, and checks the books."""
    orders = read_orders(FOLDER / "orders.jsonl", options.orders)
    await deliver_stock(shop)
    async with connection(shop) as nc:
        watch = Watch(nc)
        await watch.start()
        kills: list[str] = []
        async with asyncio.TaskGroup() as group:
            progress = group.create_task(show_progress(watch, len(orders), console))
            placing = group.create_task(place_orders(nc, options.orders))
            if options.kill and await watch.wait_ended(len(orders) // 2, END_SECONDS):
                kills = await kill_two(shop, watch, random.Random(options.seed), console)
            await placing
            if not await watch.wait_ended(len(orders), END_SECONDS):
                console.print(f"{len(orders) - watch.ended} runs have not ended after {END_SECONDS:g} s")
            progress.cancel()
        await watch.stop()
    books, wrong = await balance(shop.nats_url, shop.ledger, orders, patience=BOOKS_SECONDS)
    if options.kill and len(kills) < 2:
        wrong.append("nothing was killed: the orders did not get half way")
    run = watch.most_eventful()
    timeline = watch.timeline(run) if run else []
    return Report(books, wrong, kills, time.monotonic() - began, options.seed, run, timeline)


async def deliver_stock(shop: Shop) -> None:
    """Publishes what came in, and waits until the inventory has it: orders compete for what is there."""
    rows = [json.loads(line) for line in (FOLDER / "stock.jsonl").read_text(encoding="utf-8").splitlines()]
    async with connection(shop) as nc:
        js = JetStreamContext(nc)
        for row in rows:
            await publish(js, "shop.stock.delivered", row)
        end = time.monotonic() + END_SECONDS
        while await pieces(js) < sum(row["quantity"] for row in rows):
            if time.monotonic() > end:
                raise ChildFailed(
                    f"the stock did not arrive in {END_SECONDS:g} s\n{shop.children['inventory'].tail()}"
                )
            await asyncio.sleep(0.1)


async def pieces(js: JetStreamContext) -> int:
    """How many pieces stand on the shelves."""
    total = 0
    for product in {json.loads(line)["product"] for line in (FOLDER / "stock.jsonl").open(encoding="utf-8")}:
        with contextlib.suppress(NotFoundError):
            found = await js.get_last_msg("KV_jetloom_kv_stock", f"$KV.jetloom_kv_stock.{product}")
            total += int(json.loads(found.data or b"{}").get("available", 0))
    return total


async def place_orders(nc: Client, count: int) -> None:
    """Plain JSON on the events' subject: whoever has a NATS client can order."""
    js = JetStreamContext(nc)
    for line in (FOLDER / "orders.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
        await publish(js, "shop.order.placed", cast("dict[str, Any]", json.loads(line))["order"])
        await asyncio.sleep(PLACE_SECONDS)


async def publish(js: JetStreamContext, event_type: str, payload: dict[str, Any]) -> None:
    # The id lets the server refuse a copy when an answer was lost and the publish is repeated.
    headers = {"Nats-Msg-Id": f"{event_type}-{payload['id']}"}
    await js.publish(f"jetloom.events.{event_type}", json.dumps(payload).encode(), headers=headers)


async def kill_two(shop: Shop, watch: Watch, dice: random.Random, console: Console) -> list[str]:
    """SIGKILLs one engine and one service, and starts them again. Says so when it happens."""
    said: list[str] = []
    victims = (dice.choice(ENGINES), dice.choice(KILLABLE))
    for name in victims:
        pid = shop.children[name].pid
        await shop.children[name].kill()
        under_way = len(watch.runs) - watch.ended
        said.append(
            f"killed {name} (pid {pid}) with SIGKILL, {watch.ended} runs ended, {under_way} under way"
        )
        console.print(said[-1], style="bold yellow", highlight=False, soft_wrap=True)
    await asyncio.sleep(DEAD_SECONDS)
    await asyncio.gather(*(shop.start_again(name) for name in victims))
    console.print(
        f"{' and '.join(victims)} run again; what they held comes back within {ACK_WAIT_SECONDS:g} s",
        highlight=False,
        soft_wrap=True,
    )
    return said


@contextlib.asynccontextmanager
async def connection(shop: Shop) -> AsyncGenerator[Client]:
    nc = Client()
    await nc.connect(shop.nats_url, name="demo")
    try:
        yield nc
    finally:
        await nc.close()


def print_report(report: Report, options: Options, console: Console) -> None:
    if options.json:
        print(to_json(report), flush=True)
    else:
        show_report(report, console)


async def _until_signal(options: Options, console: Console) -> int:
    """SIGTERM ends the demo as Ctrl-C does: every process is stopped."""
    main = asyncio.current_task()
    assert main is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, main.cancel)
    return await demo(options, console)


def main() -> int:
    options = parse()
    console = Console(quiet=options.json)
    try:
        return asyncio.run(_until_signal(options, console))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except (ChildFailed, JetloomError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
