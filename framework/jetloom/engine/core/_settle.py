"""The turn from going forward to coming to an end."""

from __future__ import annotations

from ...errors import ErrorInfo
from ...messages import Settling, TimerDropped
from ._draft import Draft

CANCEL_GRACE = 10.0
"""Seconds that a started attempt has to end before its outcome counts as unknown.

Above HOLD: it is always scheduled.
"""

_DROPPED = ("retry", "sleep", "timeout", "run", "start")


def settle(draft: Draft, status: str, error: ErrorInfo, *, compensate: bool) -> None:
    """Nothing new starts from here; what is started ends, or counts as unknown after CANCEL_GRACE."""
    state = draft.state
    if state.phase != "open":
        return
    for timer in [timer for timer in state.timers.values() if timer.kind in _DROPPED]:
        draft.add(TimerDropped(timer.name))
    draft.add(Settling("cancelled" if status == "cancelled" else "failed", error, compensate))
    if state.running:
        draft.set_timer("grace", draft.around.now + CANCEL_GRACE, "grace")
