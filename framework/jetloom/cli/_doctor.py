"""`jetloom doctor`: what is wrong with this namespace, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import JetloomError, NatsUnavailable, ServerTooOld
from . import _session
from ._common import Common
from ._emit import show
from ._exit import FAILED, OK, UNREACHABLE, hint_for
from ._process import run_command

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ._checks import Check

_DEFAULT = Common()


def doctor(*, common: Common = _DEFAULT) -> int:
    """Look for what is wrong: connection, server, assets, engines, handlers, events, dead letters.

    Changes nothing. Exit 1 when something fails, 5 when no usable server answers;
    warnings are exit 0.

    For example:

        jetloom doctor
        jetloom doctor --nats nats://nats:4222 --json
    """
    checks, code = run_command(lambda: _examine(common))

    def render() -> RenderableType:
        from ._render import check_table

        return check_table(checks)

    show(common.json, {"ok": code == OK, "checks": checks}, render)
    return code


async def _examine(common: Common) -> tuple[list[Check], int]:
    from ._checks import Check, run_checks

    try:
        async with _session.open_session(common) as session:
            checks = await run_checks(session.transport, session.names, session.assets(), session.clock)
    except (NatsUnavailable, ServerTooOld) as error:
        checks = [Check("connection", "fail", error.message, hint_for(error)), _session.embedded_check()]
        return checks, UNREACHABLE
    except JetloomError as error:
        return [Check("connection", "fail", error.message, hint_for(error))], FAILED
    checks.append(_session.embedded_check())
    return checks, FAILED if any(check.status == "fail" for check in checks) else OK
