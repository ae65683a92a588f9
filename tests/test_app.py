"""The composition root: what it is asked to run, and what it refuses before anything starts."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from jetloom.app import App, read_definitions, read_targets
from jetloom.config import Settings
from jetloom.errors import DefinitionInvalid, NatsUnavailable, StartFailed
from jetloom.transport import connect

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
    assert message.count("; ") == 3  # between the three problems, and before the suggestion
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
