"""Exit codes, and what each error says to do next."""

from __future__ import annotations

from typing import Final

from ..errors import (
    AssetDrifted,
    Conflict,
    Disconnected,
    InvalidInput,
    JetloomError,
    NatsUnavailable,
    NoResponders,
    NotFound,
    RequestTimeout,
    RunConflict,
    RunNotFound,
    SchemaMismatch,
    ServerTooOld,
    VersionConflict,
    WaitTimeout,
    WorkflowNotFound,
)

OK: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2
NOT_FOUND: Final = 3
CONFLICT: Final = 4
UNREACHABLE: Final = 5
TIMEOUT: Final = 124
INTERRUPTED: Final = 130

_CODES: tuple[tuple[type[JetloomError], int], ...] = (
    (InvalidInput, BAD_INPUT),
    (NotFound, NOT_FOUND),
    (Conflict, CONFLICT),
    (NatsUnavailable, UNREACHABLE),
    (ServerTooOld, UNREACHABLE),
    (Disconnected, UNREACHABLE),
    (WaitTimeout, TIMEOUT),
)

_HINTS: tuple[tuple[type[JetloomError], str], ...] = (
    (
        WorkflowNotFound,
        "`jetloom workflows list` names what is registered; `jetloom run FOLDER --engine` registers",
    ),
    (RunNotFound, "`jetloom runs list` names the runs of this namespace; check --namespace"),
    (SchemaMismatch, "`jetloom workflows show NAME` prints the schema; nothing was started"),
    (RunConflict, "`jetloom runs show RUN` prints what that run was started with"),
    (
        VersionConflict,
        "raise `version:` in the file; runs under way finish on the version that they started with",
    ),
    (ServerTooOld, "upgrade nats-server, or let `jetloom dev` start the embedded one"),
    (Disconnected, "look at the server; `jetloom doctor` says when it answers again"),
    (NoResponders, "`jetloom doctor` names the engines and handlers that answer"),
    (RequestTimeout, "the server answered before and does not now; `jetloom doctor` looks closer"),
    (AssetDrifted, "`jetloom doctor` lists every asset that differs"),
    (WaitTimeout, "`jetloom runs show RUN` says what it waits for; `jetloom runs result RUN` waits again"),
)


class NamespaceEmpty(NotFound):
    """The server answers, but jetloom never ran there under this namespace."""

    code = "namespace.empty"

    def __init__(self, namespace: str, url: str) -> None:
        super().__init__(
            f"namespace {namespace!r} has no streams on {url}: start an engine or a module there first "
            "(`jetloom dev`, `jetloom run`), or choose another with --namespace",
            namespace=namespace,
            url=url,
        )


class RunOver(Conflict):
    """The run has ended: nobody reads what would be sent to it."""

    code = "run.over"

    def __init__(self, run: str, status: str) -> None:
        super().__init__(
            f"run {run!r} has ended ({status}): nothing was sent, nobody would read it",
            run=run,
            status=status,
        )


def exit_code(error: BaseException) -> int:
    """The exit code that says what kind of end this was."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return FAILED


def hint_for(error: BaseException) -> str:
    """What to do next; empty when the message says it already."""
    for kind, hint in _HINTS:
        if isinstance(error, kind):
            return hint
    return ""
