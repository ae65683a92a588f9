"""The composition root: what it is asked to run, and what it refuses before anything starts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import ClassVar

import aiohttp
import msgspec
import pytest

from jetloom.app import App, read_definitions, read_targets
from jetloom.config import Settings
from jetloom.errors import DefinitionInvalid, NatsUnavailable, StartFailed
from jetloom.runtime import Module, Runtime, on
from jetloom.stores import KeyValue
from jetloom.transport import connect
from jetloom.types import JSON

GOOD = """\
id: greet
steps:
  - id: compose
    uses: greeter.compose
"""


def test_targets_are_modules_files_and_folders(tmp_path: Path) -> None:
    """A folder stands for its workflow files, also in folders below; each file is taken once."""
    (tmp_path / "deep").mkdir()
    first, second = tmp_path / "a.yaml", tmp_path / "deep" / "b.yml"
    first.write_text(GOOD)
    second.write_text(GOOD)
    (tmp_path / "notes.txt").touch()
    found = read_targets(
        [str(tmp_path), str(first), "shop.orders:Orders", "shop.orders:Orders", "shop", "@x"]
    )
    assert found.files == (first, second)
    assert found.modules == ("shop.orders:Orders", "shop", "@x")


def test_every_target_that_is_neither_is_named(tmp_path: Path) -> None:
    """All of them at once, with a suggestion for a mistyped file."""
    (tmp_path / "orders.yaml").write_text(GOOD)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StartFailed) as caught:
        read_targets(["shop/orders", str(tmp_path / "order.yaml"), str(tmp_path / "empty")])
    message = caught.value.message
    assert message.count("\n  - ") == 3
    assert "package.module:Class" in message
    assert f"did you mean {tmp_path / 'orders.yaml'}?" in message
    assert "holds no workflow files" in message


def test_definitions_are_checked_all_at_once(tmp_path: Path) -> None:
    """The findings of every file come in one error, so that nothing is registered."""
    good, bad, worse = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    good.write_text(GOOD)
    bad.write_text("id: bad\nsteps:\n  - id: a\n    uses: x.y\n    depends_on: [missing]\n")
    worse.write_text("id: worse\nstepz: []\n")
    assert read_definitions([good]) == [(good, GOOD)]
    with pytest.raises(DefinitionInvalid) as caught:
        read_definitions([good, bad, worse])
    assert str(bad) in caught.value.message
    assert str(worse) in caught.value.message


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """Its name is in the error."""
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DefinitionInvalid, match=r"a\.yaml:1:1: not UTF-8"):
        read_definitions([path])


async def test_a_start_that_is_refused_leaves_nothing() -> None:
    """No connection is made for a target that can't be had, and the app is not started."""
    app = App(Settings(nats_url="nats://127.0.0.1:1"), ["no.such.module:Class"])
    with pytest.raises(StartFailed, match="no Python module"):
        await app.start()
    with pytest.raises(StartFailed, match="not started"):
        app.summary()
    await app.stop()
    await app.stop()


@pytest.mark.timeout(60)
async def test_a_killed_own_server_is_started_again(tmp_path: Path) -> None:
    """The process connects to it again by itself, and so can everybody else, at the same address."""
    app = App(Settings(), embedded=True, store=tmp_path / "store")
    await app.start()
    try:
        url = app.summary().nats_url
        app.kill()
        back = None
        while back is None:  # each try waits for an answer as long as its timeout says
            with contextlib.suppress(NatsUnavailable):
                back = await connect(url, timeout=1)
        assert back.server.version
        await back.close()
    finally:
        await app.stop(1)


class Told(msgspec.Struct, frozen=True):
    limit: int = 1


class Listener(Module):
    id = "listener"
    config = Told
    limits: ClassVar[list[int]] = []

    async def init(self, rt: Runtime) -> None:
        self.limits.append(rt.config_as(Told).limit)


LISTENER = f"{__name__}:Listener"


@pytest.mark.timeout(60)
async def test_the_live_configuration_counts_at_the_next_start(tmp_path: Path) -> None:
    """What stands in the bucket reaches the module; `/healthz` says how every part of the process is."""
    Listener.limits.clear()
    for _ in range(2):
        app = App(Settings(), [LISTENER], embedded=True, store=tmp_path / "store")
        await app.start()
        try:
            summary = app.summary()
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{summary.http_url}/healthz") as answer,
            ):
                found = await answer.json()
                assert (answer.status, found["modules"]) == (200, {"listener": "up"})
                assert {each["name"] for each in found["checks"]} == {
                    "nats",
                    "event loop",
                    "background tasks",
                }
            transport = await connect(summary.nats_url)
            bucket: KeyValue[JSON] = KeyValue(transport, "jetloom_config")
            await bucket.put("listener", {"limit": 20})
            await transport.close()
        finally:
            await app.stop(1)
    assert Listener.limits == [1, 20]


async def test_everything_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that can't be had, modules that can't serve, and settings that don't fit are one error."""
    monkeypatch.setenv("JETLOOM_LISTENER__LIMIT", "many")
    app = App(
        Settings(nats_url="nats://127.0.0.1:1"),
        ["no/such.yaml", "no.such.module", LISTENER, f"{__name__}:Silent"],
    )
    with pytest.raises(StartFailed) as caught:
        await app.start()
    message = caught.value.message
    for expected in (
        "no/such.yaml: no file or folder",
        "there is no Python module 'no'",
        "JETLOOM_LISTENER__LIMIT: Expected `int`",
        "Silent.heard: an event handler takes an Event[Payload]",
    ):
        assert expected in message
    assert "depends on" not in message


class Silent(Module):
    id = "silent"
    depends_on = ("what could not be loaded",)

    @on("a.b")
    async def heard(self, event: int) -> None: ...
