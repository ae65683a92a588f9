"""Reading arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetloom.cli._common import Common, parse_duration, read_json
from jetloom.cli._session import load_settings
from jetloom.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("30s", 30), ("500ms", 0.5), ("5m", 300), ("2h", 7200), ("1d", 86400), ("1.5s", 1.5)],
)
def test_durations(text: str, seconds: float) -> None:
    """A duration is a number and a unit; without one it is seconds."""
    assert parse_duration(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "soon", "nan", "inf", "1 week"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """The message names the option and shows how to write it."""
    with pytest.raises(InvalidInput, match=r"--timeout.*30s, 5m"):
        parse_duration(text, "--timeout")


def test_json_comes_literally_or_from_a_file(tmp_path: Path) -> None:
    """`@file` is read; anything else is JSON itself."""
    path = tmp_path / "order.json"
    path.write_text('{"id": 1}')
    assert read_json(f"@{path}", "--input") == {"id": 1}
    assert read_json('"@x"', "--input") == "@x"
    assert read_json("null", "--input") is None


def test_what_is_no_json_is_refused_with_the_position(tmp_path: Path) -> None:
    """The message has the source, the byte and a way out."""
    with pytest.raises(InvalidInput, match=r"--input: not JSON: .*byte 1.*@file"):
        read_json("{id: 1}", "--input")
    with pytest.raises(InvalidInput, match="No such file"):
        read_json(f"@{tmp_path}/none.json", "--input")


def test_a_server_is_no_web_page() -> None:
    """A URL that can't be one of NATS is refused before anything is connected to."""
    with pytest.raises(InvalidInput, match="--nats http://x: expected one of nats, tls, ws, wss"):
        load_settings(Common(nats="nats://a, http://x"))
