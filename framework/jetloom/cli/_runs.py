"""`jetloom start` and `jetloom runs …`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from ..errors import InvalidInput
from . import _session
from ._common import Common, current_actor, parse_duration, read_json
from ._emit import print_json, say, show
from ._process import run_command

if TYPE_CHECKING:
    from ..messages import ActionVerb
    from ..runtime import RunView
    from ._session import Session

app = App(name="runs", help="Look at runs, steer them, wait for them.", help_format="plaintext")

_DEFAULT = Common()

type StatusName = Literal[
    "pending", "running", "waiting", "waiting_human", "compensating", "completed", "failed", "cancelled"
]


def start(
    workflow: str,
    /,
    *,
    input: str = "null",
    id: str | None = None,
    label: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    wait: Annotated[bool, Parameter(negative=())] = False,
    timeout: str | None = None,
    common: Common = _DEFAULT,
) -> None:
    """Start a run of a workflow, and wait for its end with --wait.

    The same --id with the same input answers with the run that exists; with
    another input it is a conflict (exit 4). Input that does not fit the workflow's
    schema is refused before a run exists (exit 2).

    For example:

        jetloom start order --input '{"id": 17, "items": []}' --id order-17
        jetloom start order --input @order.json --wait --timeout 30s

    Parameters
    ----------
    workflow
        A registered workflow's name.
    input
        The run's input: JSON, @file or @- for stdin.
    id
        The run's id: 1-100 characters of A-Z a-z 0-9 _ -. Otherwise one is made.
    label
        name=value, to find the run by; may be given several times.
    wait
        Print the run's output when it has ended. A failed run is exit 1.
    timeout
        With --wait: how long to wait (30s, 5m); the run itself goes on (exit 124).
    """
    value = read_json(input, "--input")
    labels = _read_labels(label)
    patience = _read_timeout(timeout)
    if patience is not None and not wait:
        raise InvalidInput("--timeout says how long to wait: add --wait")

    async def main() -> None:
        async with _session.open_session(common) as session:
            started = await session.workflows.start(
                workflow, value, id=id, labels=labels, actor=current_actor()
            )
            if not wait:
                show(
                    common.json,
                    started,
                    lambda: f"run {started.run} {'started' if started.started else 'exists already'}",
                )
                return
            if not common.json:
                say(f"run {started.run} {'started' if started.started else 'exists already'}")
            from ._watch import wait_for_end

            output = await wait_for_end(session.workflows, started.run, patience, quiet=common.json)
            if common.json:
                print_json({**_plain(started), "status": "completed", "output": output})
            else:
                print_json(output)

    run_command(main)


@app.command(name="list")
def list_runs(
    *,
    status: StatusName | None = None,
    workflow: str | None = None,
    limit: int = 50,
    after: int = 0,
    common: Common = _DEFAULT,
) -> None:
    """List runs, by status and workflow.

    For example:

        jetloom runs list --status waiting_human
        jetloom runs list --workflow order --limit 200 --json

    Parameters
    ----------
    status
        Only runs of this status.
    workflow
        Only runs of this workflow.
    limit
        Rows of a page, 1 to 1000.
    after
        The cursor that the page before ended with.
    """
    from ..types import RunStatus

    if not 1 <= limit <= 1000:
        raise InvalidInput(f"--limit {limit}: 1 to 1000 fit a page; use --after for the next one")

    async def main() -> None:
        from ._render import run_table

        async with _session.open_session(common) as session:
            rows, cursor = await session.workflows.list(
                status=RunStatus(status) if status else None, workflow=workflow, limit=limit, after=after
            )
            now = session.clock.now()
            show(common.json, {"runs": list(rows), "next": cursor}, lambda: run_table(rows, now=now))
            if cursor and not common.json:
                say(f"more: add --after {cursor}")

    run_command(main)


@app.command(name="show")
def show_run(run: str, /, *, common: Common = _DEFAULT) -> None:
    """Show a run: status, steps with attempts and durations, what it waits for.

    A task that nobody serves is named here, and by `jetloom doctor`.

    For example:

        jetloom runs show order-17
        jetloom runs show order-17 --json | jq '.steps[].status'

    Parameters
    ----------
    run
        The run's id.
    """

    async def main() -> None:
        from ._render import run_view

        async with _session.open_session(common) as session:
            view = await with_unserved(session, await session.workflows.show(run))
            now = session.clock.now()
            show(common.json, view, lambda: run_view(view, now=now))

    run_command(main)


@app.command
def journal(run: str, /, *, after: int = 0, common: Common = _DEFAULT) -> None:
    """Print a run's journal: every entry, who wrote it, what it records.

    For example:

        jetloom runs journal order-17
        jetloom runs journal order-17 --after 12 --json

    Parameters
    ----------
    run
        The run's id.
    after
        Only entries after this ordinal.
    """

    async def main() -> None:
        from ._render import journal as render

        async with _session.open_session(common) as session:
            lines = await session.workflows.journal(run, after=after)
            show(common.json, list(lines), lambda: render(lines))

    run_command(main)


@app.command
def tail(run: str, /, *, after: int = 0, common: Common = _DEFAULT) -> None:
    """Print a run's journal as it grows, until the run ends. With --json: one entry a line.

    For example:

        jetloom runs tail order-17
        jetloom runs tail order-17 --json | jq -c '.records[]'

    Parameters
    ----------
    run
        The run's id.
    after
        Only entries after this ordinal.
    """

    async def main() -> None:
        from ._render import journal_line

        async with _session.open_session(common) as session:
            async for line in session.workflows.tail(run, after=after):
                show(common.json, line, lambda line=line: journal_line(line))

    run_command(main)


@app.command
def cancel(
    run: str,
    /,
    *,
    reason: str = "",
    compensate: Annotated[bool | None, Parameter(negative="--no-compensate")] = None,
    wait: Annotated[bool, Parameter(negative=())] = False,
    timeout: str | None = None,
    common: Common = _DEFAULT,
) -> None:
    """Ask a run to stop: what runs is stopped, what completed is undone.

    The request is durable. A run that has ended stays as it is.

    For example:

        jetloom runs cancel order-17 --reason 'customer called'
        jetloom runs cancel order-17 --no-compensate --wait

    Parameters
    ----------
    run
        The run's id.
    reason
        Why; recorded in the journal.
    compensate
        Undo what completed, or leave it. Otherwise as the workflow's `on_cancel` says.
    wait
        Return when the run has ended.
    timeout
        With --wait: how long to wait (30s, 5m).
    """
    patience = _read_timeout(timeout)
    if patience is not None and not wait:
        raise InvalidInput("--timeout says how long to wait: add --wait")

    async def main() -> None:
        import contextlib

        from ..errors import RunCancelled, RunFailed
        from ._watch import wait_for_end

        async with _session.open_session(common) as session:
            before = (await session.workflows.show(run)).status
            if before.final:
                answer = {"run": run, "status": str(before)}
                show(common.json, answer, lambda: f"run {run} has ended already: {before}")
                return
            await session.workflows.cancel(run, reason=reason, compensate=compensate, actor=current_actor())
            status = "cancel requested"
            if wait:
                # How it ended is the answer, and it is shown below.
                with contextlib.suppress(RunCancelled, RunFailed):
                    await wait_for_end(session.workflows, run, patience, quiet=common.json)
                status = str((await session.workflows.show(run)).status)
            show(common.json, {"run": run, "status": status}, lambda: f"run {run}: {status}")

    run_command(main)


@app.command
def result(run: str, /, *, timeout: str | None = None, common: Common = _DEFAULT) -> None:
    """Wait for a run's end and print its output.

    A failed or cancelled run is exit 1, with its error.

    For example:

        jetloom runs result order-17 --timeout 1m

    Parameters
    ----------
    run
        The run's id.
    timeout
        How long to wait (30s, 5m); the run itself goes on (exit 124).
    """
    patience = _read_timeout(timeout)

    async def main() -> None:
        async with _session.open_session(common) as session:
            from ._watch import wait_for_end

            output = await wait_for_end(session.workflows, run, patience, quiet=common.json)
            print_json({"run": run, "status": "completed", "output": output} if common.json else output)

    run_command(main)


@app.command
def message(
    run: str, name: str, payload: str = "null", /, *, id: str | None = None, common: Common = _DEFAULT
) -> None:
    """Send a message to a run, for a step that waits for it.

    For example:

        jetloom runs message order-17 approved '{"by": "kim"}'

    Parameters
    ----------
    run
        The run's id.
    name
        The message's name, as the step's `wait` has it.
    payload
        JSON, @file or @- for stdin.
    id
        An id of your own: the same one sent twice is one message.
    """
    value = read_json(payload, "the payload")

    async def main() -> None:
        async with _session.open_session(common) as session:
            await _require_going(session, run)
            await session.workflows.message(run, name, value, id=id, actor=current_actor())
            show(common.json, {"run": run, "message": name}, lambda: f"message {name} sent to {run}")

    run_command(main)


@app.command
def action(
    run: str,
    verb: Literal["retry", "skip", "approve", "reject", "pause", "resume"],
    /,
    *,
    step: str = "",
    reason: str = "",
    common: Common = _DEFAULT,
) -> None:
    """Decide about a run that waits for a person.

    For example:

        jetloom runs action order-17 retry --step charge --reason 'provider is back'

    Parameters
    ----------
    run
        The run's id.
    verb
        What to do.
    step
        The step it is about, when there are several.
    reason
        Why; recorded in the journal.
    """
    chosen: ActionVerb = verb

    async def main() -> None:
        async with _session.open_session(common) as session:
            await _require_going(session, run)
            await session.workflows.action(run, chosen, step=step, reason=reason, actor=current_actor())
            show(common.json, {"run": run, "action": chosen}, lambda: f"{chosen} requested for {run}")

    run_command(main)


async def _require_going(session: Session, run: str) -> None:
    """Raises `RunOver`, so that nobody believes that an ended run was reached. One that ends now is not noticed."""
    from ._exit import RunOver

    status = (await session.workflows.show(run)).status
    if status.final:
        raise RunOver(run, status)


async def with_unserved(session: Session, view: RunView) -> RunView:
    """The view, with the handlers named whose tasks wait while no worker pulls them."""
    from ._checks import unserved_handlers

    tasks = {
        step.uses.partition("@")[0]: step.id
        for step in view.steps
        if step.where == "task" and step.status in ("running", "retrying", "fallback") and step.uses
    }
    if not tasks:
        return view
    idle = await unserved_handlers(session.transport, session.names, tasks)
    notes = [
        f"step {tasks[handler]}: its task waits for handler {handler}, which nobody serves; "
        "start the module that has it"
        for handler in idle
    ]
    return msgspec.structs.replace(view, waits_for=[*view.waits_for, *notes]) if notes else view


def _read_timeout(text: str | None) -> timedelta | None:
    return None if text is None else timedelta(seconds=parse_duration(text, "--timeout"))


def _read_labels(labels: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for label in labels:
        name, separator, value = label.partition("=")
        if not separator or not name:
            raise InvalidInput(f"--label {label!r}: write name=value")
        found[name] = value
    return found


def _plain(struct: msgspec.Struct) -> dict[str, object]:
    return msgspec.structs.asdict(struct)
