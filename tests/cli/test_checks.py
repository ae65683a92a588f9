"""`jetloom doctor`, `jetloom workflows` and the handlers that nobody serves, on the memory twin."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from jetloom.cli import _checks, _session
from jetloom.cli._checks import Check
from jetloom.cli._workflows import WorkflowRow
from jetloom.clock import SYSTEM_CLOCK
from jetloom.messages import Names, SettledAnswer, encode
from jetloom.runtime import RunView
from jetloom.stores import dlq_asset, events_asset, markers_asset
from jetloom.transport import ConsumerAsset, Incoming, StreamAsset, Transport
from jetloom.transport._memory import MemoryServer
from jetloom.workflows import Definition, Saga, Step
from tests.cli.conftest import ErrorDocument, Run, World
from tests.cli.memory import open_memory


def order(version: str) -> Definition:
    return Definition(
        id="order",
        version=version,
        description="fulfil",
        steps=(
            Step("reserve", uses="inventory.reserve", saga=Saga("inventory.release")),
            Step("charge", uses="payments.charge@2", depends_on=("reserve",), on_error="skip"),
        ),
        input_schema={"type": "object"},
    )


async def fill(transport: Transport, names: Names) -> None:
    """Two versions of a workflow, a task that waits for a handler, a dead letter; no engine."""
    for asset in (markers_asset(names), events_asset(names), dlq_asset(names)):
        await transport.ensure(asset)
    await transport.ensure(
        StreamAsset(name=names.workflows_stream, subjects=(f"$KV.{names.workflows_bucket}.>",))
    )
    await transport.ensure(
        StreamAsset(name=names.tasks_stream, subjects=(names.tasks_filter(),), retention="workqueue")
    )
    for handler in ("inventory.reserve", "payments.charge"):
        await transport.ensure(
            ConsumerAsset(
                stream=names.tasks_stream,
                name=names.task_consumer(handler),
                filters=(names.task_filter(handler),),
            )
        )
    for version in ("1", "2"):
        definition = order(version)
        await transport.append(names.workflow("order", version * 64), encode(definition), expected=0)
    await transport.append(names.task("payments.charge", "order-17", 12, "charge", 3), b"{}")
    await transport.append(names.dead_letter("orders", "paid"), b"{}")


@pytest.fixture(autouse=True)
def _namespace(world: World, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    world.open_transport = lambda: open_memory(world.names, fill)
    declared = [markers_asset(world.names), events_asset(world.names), dlq_asset(world.names)]

    def assets(_: object) -> list[StreamAsset]:
        return declared

    monkeypatch.setattr(_session.Session, "assets", assets)
    monkeypatch.setattr(_session, "embedded_check", lambda: Check("embedded server", "info", "none"))


class Report(msgspec.Struct):
    ok: bool
    checks: list[Check]

    def find(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)


def test_doctor_names_what_is_wrong(run: Run) -> None:
    """No engine is a failure; a task that nobody serves and dead letters are warnings; each says what to do."""
    ended = run("doctor", "--json")
    assert ended.code == 1
    report = ended.read(Report)
    assert not report.ok
    assert report.find("connection").status == "ok"
    assert report.find("engines").status == "fail"
    assert "no engine runs" in report.find("engines").text
    handlers = report.find("handlers")
    assert handlers.status == "warn"
    assert handlers.text == "1 task(s) wait for handler payments.charge (of order), and nobody serves it"
    assert report.find("dead letters").status == "warn"
    assert report.find("assets").text == "3 streams and consumers are as declared"
    assert "→ start one: jetloom run FOLDER --engine" in run("doctor").out


async def test_an_engine_that_answers_is_seen() -> None:
    """Any engine answers the question whether an attempt is settled."""
    names = Names()
    async with open_memory(names, fill) as transport:
        asked: asyncio.Queue[Incoming] = asyncio.Queue()
        subscription = await transport.subscribe(names.settled(), asked.put_nowait)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(_checks.check_engines(transport, names))
            query = await asked.get()
            await transport.publish(query.reply, encode(SettledAnswer(settled=True)))
        assert [check.status for check in task.result()] == ["ok"]
        await subscription.stop()


async def test_assets_that_are_missing_or_drifted_are_named() -> None:
    """Doctor creates nothing: a missing asset stays missing."""
    names = Names()
    transport = MemoryServer().connect("cli")
    declared = [markers_asset(names), events_asset(names)]
    checks = await _checks.check_assets(transport, declared)
    assert [check.status for check in checks] == ["fail"]
    assert await transport.stream_state(names.markers_stream) is None
    drifted = msgspec.structs.replace(markers_asset(names), messages_per_subject_max=7)
    await transport.ensure(drifted)
    checks = await _checks.check_assets(transport, declared)
    assert [(check.status, names.markers_stream in check.text) for check in checks] == [
        ("fail", True),
        ("warn", False),
    ]
    assert names.events_stream in checks[1].text
    await transport.close()


async def test_a_full_check_reads_all(world: World) -> None:
    """Every check runs, in the order in which it is read."""
    async with open_memory(world.names, fill) as transport:
        checks = await _checks.run_checks(transport, world.names, [dlq_asset(world.names)], SYSTEM_CLOCK)
    assert [check.name for check in checks] == [
        "connection",
        "server",
        "assets",
        "engines",
        "handlers",
        "events",
        "dead letters",
    ]


def test_show_names_a_handler_that_nobody_serves(run: Run) -> None:
    """The run's view has it among what it waits for."""
    view = run("runs", "show", "order-17", "--json").read(RunView)
    assert view.waits_for == [
        "message payment",
        "step charge: its task waits for handler payments.charge, which nobody serves; start the module that has it",
    ]


def test_workflows_are_listed_and_shown(run: Run) -> None:
    """The list has the latest registration of each; all versions are to be had."""
    rows = run("workflows", "list", "--json").read(list[WorkflowRow])
    assert [(row.name, row.version) for row in rows] == [("order", "2")]
    assert len(run("workflows", "list", "--all", "--json").read(list[WorkflowRow])) == 2
    assert "fulfil" in run("workflows", "list").out
    row = run("workflows", "show", "order", "--version", "1", "--json").read(WorkflowRow)
    assert row.fingerprint == "1" * 64
    assert row.handlers() == {"inventory.reserve", "inventory.release", "payments.charge"}
    assert "inventory.release" in run("workflows", "show", "order").out


def test_an_unknown_workflow_is_not_found(run: Run) -> None:
    """The message names what is registered."""
    document = run("workflows", "show", "ordr", "--json").read(ErrorDocument)
    assert document.exit_code == 3
    assert "order @ 1, order @ 2" in document.error.message
