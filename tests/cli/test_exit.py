"""Exit codes and hints."""

from __future__ import annotations

import pytest

from jetloom import errors
from jetloom.cli._exit import NamespaceEmpty, exit_code, hint_for
from jetloom.errors import ErrorInfo


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidInput("x"), 2),
        (errors.DefinitionInvalid("a.yaml", ["a.yaml:1:1: x"]), 2),
        (errors.SchemaMismatch("input", ["x"]), 2),
        (errors.PayloadTooLarge("input", 10, 5), 2),
        (errors.StartFailed(["x"]), 2),
        (errors.RunNotFound("a"), 3),
        (errors.WorkflowNotFound("a"), 3),
        (NamespaceEmpty("jetloom", "nats://x"), 3),
        (errors.RunConflict("a"), 4),
        (errors.VersionConflict("a", "1"), 4),
        (errors.NatsUnavailable(["nats://x"]), 5),
        (errors.ServerTooOld("2.9", "2.14", "x"), 5),
        (errors.Disconnected("x"), 5),
        (errors.RunFailed("a", ErrorInfo("x")), 1),
        (errors.RunCancelled("a", ""), 1),
        (errors.AssetDrifted("A", ["x"]), 1),
        (errors.WaitTimeout("run a", 1), 124),
        (KeyboardInterrupt(), 130),
        (ValueError("x"), 1),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: BaseException, code: int) -> None:
    """The exit code says what kind of end it was."""
    assert exit_code(error) == code


def test_a_hint_says_what_to_do() -> None:
    """A run that is not there leads to the list of runs."""
    assert "jetloom runs list" in hint_for(errors.RunNotFound("a"))
    assert hint_for(ValueError("x")) == ""
