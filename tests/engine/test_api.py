"""The engines' API subjects: what the reference says is asked and answered, with plain requests."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from jetloom.engine import Engine
from jetloom.messages import decode_plain
from jetloom.runtime import StepContext, StepHandler
from jetloom.telemetry import Metrics
from jetloom.transport import Reply
from jetloom.types import JSON
from tests.engine.real_world import RealWorld, real_world

VARYING = frozenset({"n", "fingerprint", "started_at", "ended_at"})
"""What differs from run to run: only its presence is compared."""

_BLOCK = re.compile(
    r"<!-- (?P<kind>workflow|request|answer|error)(: (?P<rest>.*?))? -->\n```\w+\n(?P<text>.*?)```", re.DOTALL
)


class Exchange(NamedTuple):
    """One request of the page, and what it says comes back. `until`: the run's status to wait for first."""

    verb: str
    until: str
    request: bytes
    answer: JSON
    error: str


def read_page(text: str) -> tuple[str, list[Exchange]]:
    """The page's workflow and exchanges, in its order."""
    workflow, exchanges = "", list[Exchange]()
    verb, until, request = "", "", b""
    for block in _BLOCK.finditer(text):
        kind, rest, body = block["kind"], block["rest"] or "", block["text"]
        if kind == "workflow":
            workflow = body
        elif kind == "request":
            verb, _, until = rest.partition(" until ")
            request = body.encode()
        else:
            answer = decode_plain(body.encode(), "the page")
            exchanges.append(Exchange(verb, until, request, answer, rest if kind == "error" else ""))
    return workflow, exchanges


def alike(found: JSON, said: JSON) -> JSON:
    """`found`, with the page's values where values vary."""
    if isinstance(found, dict) and isinstance(said, dict):
        return {
            name: said[name] if name in VARYING and name in said else alike(value, said.get(name))
            for name, value in found.items()
        }
    if isinstance(found, list) and isinstance(said, list) and len(found) == len(said):
        return [alike(one, other) for one, other in zip(found, said, strict=True)]
    return found


async def reserve(_: StepContext, __: JSON) -> JSON:
    return {"reserved": True}


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[RealWorld]:
    """A server, and an engine that answers on the API subjects."""
    async with real_world(folder) as world:
        handlers = {"shop.reserve": StepHandler("shop.reserve", reserve)}
        transport = await world.connect("engine")
        engine = Engine(
            transport, world.names, handlers=handlers, metrics=Metrics(process=False), sweep=False
        )
        await engine.start()
        try:
            yield world
        finally:
            await engine.stop(1.0)


async def ask(world: RealWorld, verb: str, request: bytes) -> Reply:
    return await world.transport.request(world.names.api(verb), request, timeout=10.0)


async def test_the_reference_shows_what_is_answered(tmp_path: Path, repo_root: Path) -> None:
    """Every request of the page gets the answer that stands below it."""
    workflow, exchanges = read_page((repo_root / "docs/reference/api.md").read_text(encoding="utf-8"))
    assert {each.verb for each in exchanges} == {"start", "message", "cancel", "action", "show"}
    async with serving(tmp_path) as world:
        await world.client.register(workflow)
        for each in exchanges:
            if each.until:
                await until_status(world, each)
            reply = await ask(world, each.verb, each.request)
            found = decode_plain(reply.data, "an answer")
            assert alike(found, each.answer) == each.answer
            assert reply.headers.get("Nats-Service-Error-Code", "") == each.error


async def until_status(world: RealWorld, exchange: Exchange) -> None:
    """Waits until the run that a request names has the status that it names."""

    async def holds() -> bool:
        reply = await ask(world, "show", exchange.request)
        return json.loads(reply.data)["status"] == exchange.until

    await world.until(holds, f"the run is {exchange.until}")


async def test_a_run_is_started_told_and_read_by_requests_alone(tmp_path: Path) -> None:
    """A message over the API ends the wait, and `show` has the output."""
    workflow = "id: order\nsteps:\n  - {id: approve, wait: {message: approved}}\n"
    async with serving(tmp_path) as world:
        await world.client.register(workflow)
        started = await ask(world, "start", b'{"workflow": "order", "token": "basket 7"}')
        run = json.loads(started.data)["run"]
        again = await ask(world, "start", b'{"workflow": "order", "token": "basket 7"}')
        assert json.loads(again.data) == {**json.loads(started.data), "started": False}
        told = {"run": run, "name": "approved", "payload": {"by": "kim"}, "id": "1"}
        await ask(world, "message", json.dumps(told).encode())

        async def ended() -> bool:
            reply = await ask(world, "show", json.dumps({"run": run}).encode())
            return json.loads(reply.data).get("output") == {"by": "kim"}

        await world.until(ended, "the run has its output")


async def test_what_can_not_be_done_is_said_by_number_and_code(tmp_path: Path) -> None:
    """Unknown fields, unknown workflows and another input for a known id have their numbers."""
    async with serving(tmp_path) as world:
        await world.client.register("id: order\nsteps:\n  - {id: wait, wait: {message: go}}\n")
        await ask(world, "start", b'{"workflow": "order", "id": "one", "input": 1}')
        expected = {
            b'{"workflow": "order", "ident": "one"}': ("400", "input.invalid"),
            b'{"workflow": "order", "id": "one", "token": "two"}': ("400", "input.invalid"),
            b'{"workflow": "odrer"}': ("404", "workflow.not_found"),
            b'{"workflow": "order", "id": "one", "input": 2}': ("409", "run.conflict"),
        }
        for request, (number, code) in expected.items():
            reply = await ask(world, "start", request)
            assert (reply.headers["Nats-Service-Error-Code"], json.loads(reply.data)["code"]) == (
                number,
                code,
            )
