"""Work that kills whoever takes it: a person decides, with the frontier of a living engine at hand."""

from __future__ import annotations

import pytest

from jetloom.engine import core
from jetloom.messages import Action, MailboxAddress, Start, input_hash
from jetloom.types import RunStatus
from jetloom.workflows import Definition, Step, compile_definition

COMPILED = compile_definition(Definition(id="one", steps=(Step("a", uses="do.a"),)))


def _around() -> core.Surroundings:
    return core.Surroundings(
        engine="e", now=0.0, holding=lambda _: True, serves=lambda _: True, random=lambda: 0.5
    )


@pytest.mark.parametrize("kept", [True, False])
def test_a_retry_after_a_crash_loop_begins_again(kept: bool) -> None:
    """Whether the engine kept its frontier or built it anew, the step's next attempt starts."""
    state, frontier = core.RunState("r"), None

    def decide(item: core.Input) -> None:
        nonlocal frontier
        draft = core.Draft(state, COMPILED, _around(), frontier if kept else None)
        core.decide(draft, [item], room=1_000_000)
        core.close(draft.state, draft.stamp)
        frontier = draft.known_frontier

    start = Start("one", input_hash("one", None), "nonce", fingerprint=COMPILED.fingerprint)
    decide(core.Arrived("m1", 1, MailboxAddress("start", "r"), start))
    for _ in range(core.RESUMES_MAX + 1):
        decide(core.TakeOver("m1"))
    assert state.status is RunStatus.WAITING_HUMAN
    decide(core.Arrived("m2", 2, MailboxAddress("action", "r", id="x"), Action("retry")))
    assert state.running == {"a": 2}
