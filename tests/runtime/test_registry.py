"""A target that is wrong says how."""

from __future__ import annotations

import pytest

from jetloom.errors import StartFailed
from jetloom.runtime import load_module, load_modules


def test_a_target_is_found() -> None:
    """`package.module:Class` gives the class."""
    assert load_module("tests.runtime.test_host:Base").id == "base"


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("orders:", "write package.module:Class"),
        ("nowhere.orders:Orders", "there is no Python module 'nowhere'"),
        ("tests.runtime.test_host:Basse", "did you mean Base"),
        ("tests.runtime.test_host:Order", "no subclass of jetloom.Module"),
    ],
)
def test_a_wrong_target_says_how(target: str, problem: str) -> None:
    """Each way to be wrong has an error of its own."""
    with pytest.raises(StartFailed, match=problem):
        load_module(target)


def test_all_wrong_targets_at_once() -> None:
    """Several wrong targets are one error."""
    with pytest.raises(StartFailed) as caught:
        load_modules(["orders:", "nowhere:X"])
    assert caught.value.message.count("'orders:'") == 1
    assert "nowhere" in caught.value.message
