"""Universes of the real engine, seeds that once found a bug, and bugs that are planted to be found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation._planted import PLANTED, hunt
from tests.simulation._universe import run_universe

UNIVERSES = 500
CASES = 10
QUICKEST = (
    "no expected sequence",
    "undo in the wrong order",
    "ack before the outputs",
    "a timer's name used twice",
    "V before an ack",
)
SEEDS = tuple(
    line.split()[0]
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
)


def _survives(seed: int, *, nasty: bool = False) -> None:
    verdict = run_universe(seed, nasty=nasty)
    if verdict.broken:
        again = f"--seed {seed} --trace{' --nasty' if nasty else ''}"
        pytest.fail(
            f"universe {seed}: {verdict.text}\n"
            f"its story: .venv/bin/python -m tests.simulation {again}\n{verdict.errors}"
        )


@pytest.mark.parametrize("case", range(CASES))
def test_every_invariant_holds_in(case: int) -> None:
    """Whatever fails, every run ends once, with its events once and its undos in order."""
    each = UNIVERSES // CASES
    for seed in range(1 + case * each, 1 + (case + 1) * each):
        _survives(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_found_seed(seed: str) -> None:
    """What was once broken stays whole."""
    _survives(int(seed.removeprefix("nasty-")), nasty=seed.startswith("nasty-"))


@pytest.mark.parametrize("name", QUICKEST)
def test_planted_bug_is_found(name: str) -> None:
    """A rule taken out of the engine is missed by the checkers within a few universes."""
    assert name in PLANTED
    assert hunt(name, 200) is not None


def test_a_seed_is_repeatable() -> None:
    """The same seed tells the same story, to the last delivery."""
    assert run_universe(7).digest == run_universe(7).digest
