"""What the pure core decides, as transcripts: one for each row of "who dies when", and one for each kind of work."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.transcript import replay

FOLDER = Path(__file__).parent / "transcripts"
TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    """The core answers every line as the transcript says."""
    answered = replay(path)
    if request.config.getoption("--update-transcripts"):
        path.write_text(answered)
    assert answered == path.read_text()


def test_every_row_has_a_transcript() -> None:
    """No row of the table of deaths is without one."""
    assert len([path for path in TRANSCRIPTS if path.stem.startswith("dies_")]) >= 22
