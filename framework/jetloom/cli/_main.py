"""The command tree, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, Parameter

from . import (
    _asyncapi,
    _call,
    _config,
    _doctor,
    _events,
    _locks,
    _modules,
    _new,
    _runs,
    _schedules,
    _serve,
    _validate,
    _workflows,
)
from ._emit import print_error
from ._exit import BAD_INPUT, FAILED, INTERRUPTED, OK, exit_code, hint_for

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = """\
Durable workflows and asyncio modules on NATS.

First steps:

    jetloom dev greet.yaml greeter:Greeter
    jetloom start greet --input '"world"' --wait
    jetloom runs list
"""

_EPILOGUE = (
    "Every command has --json and --help. Exit codes: 0 ok, 1 failed, 2 bad input, 3 not found, 4 conflict, "
    "5 NATS unreachable, 124 timeout, 130 interrupted."
)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("jetloom")
    except PackageNotFoundError:
        return "unknown"


def build_app() -> App:
    """The whole command tree; `docs/reference/cli.md` is checked against it."""
    app = App(
        name="jetloom",
        help=_HELP,
        version=_version,
        help_format="plaintext",
        help_epilogue=_EPILOGUE,
        default_parameter=Parameter(show_default=False),
    )
    app.command(_new.new)
    app.command(_serve.dev)
    app.command(_serve.run)
    app.command(_validate.validate)
    app.command(_runs.start)
    app.command(_runs.app)
    app.command(_workflows.app)
    app.command(_schedules.app)
    app.command(_events.publish)
    app.command(_events.events)
    app.command(_events.dlq)
    app.command(_modules.app)
    app.command(_call.call)
    app.command(_config.app)
    app.command(_asyncapi.asyncapi)
    app.command(_locks.app)
    app.command(_doctor.doctor)
    # Beside the command line, and loaded by its name only when it is asked for.
    app.command("jetloom.bench:bench", name="bench")
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code. Never raises for what a user did."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    json = "--json" in tokens
    try:
        result: object = build_app()(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        print_error(
            str(error),
            hint="add --help for the arguments and examples",
            code="usage",
            exit_code=BAD_INPUT,
            json=json,
        )
        return BAD_INPUT
    except (KeyboardInterrupt, BrokenPipeError) as error:
        return _interrupted(error)
    except Exception as error:  # the supervisor of the command line: prints, and turns into an exit code
        return _report(error, json=json)
    return result if isinstance(result, int) else OK


def _report(error: Exception, *, json: bool) -> int:
    from ..errors import JetloomError

    code = exit_code(error)
    if isinstance(error, JetloomError):
        print_error(error.message, hint=hint_for(error), code=error.code, exit_code=code, json=json)
        return code
    if os.environ.get("JETLOOM_TRACEBACK"):
        raise error
    print_error(
        f"{type(error).__name__}: {error}",
        hint="a bug in jetloom or in what it loaded; JETLOOM_TRACEBACK=1 prints where",
        code="unexpected",
        exit_code=FAILED,
        json=json,
    )
    return FAILED


def _interrupted(error: BaseException) -> int:
    if isinstance(error, BrokenPipeError):
        # `jetloom events tail | head`: the reader has enough. Python must not complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return INTERRUPTED
