"""`jetloom workflows …`: what is registered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from cyclopts import App

from ..errors import WorkflowNotFound
from ..types import JSON  # msgspec reads the annotation
from . import _session
from ._common import Common
from ._emit import show
from ._process import run_command

if TYPE_CHECKING:
    from ..messages import Names
    from ..transport import Transport

app = App(name="workflows", help="Look at the workflows that are registered.", help_format="plaintext")

PAGE = 256
"""Definitions read in one request."""

_DEFAULT = Common()


class StepRow(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    uses: str = ""
    depends_on: tuple[str, ...] = ()
    undo: str = ""
    on_error: str = "fail"


class WorkflowRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A registered definition, as it is listed."""

    name: str
    version: str
    fingerprint: str
    registered_at: float
    description: str = ""
    steps: tuple[StepRow, ...] = ()
    input_schema: dict[str, JSON] | None = None

    def handlers(self) -> set[str]:
        """Names of the handlers that its steps and undos use; NATS services are none."""
        used = {name for step in self.steps for name in (step.uses, step.undo)}
        return {name.partition("@")[0] for name in used if name and not name.startswith("nats:")}


@app.command(name="list")
def list_workflows(*, all: bool = False, common: Common = _DEFAULT) -> None:
    """List the registered workflows, the latest registration of each.

    For example:

        jetloom workflows list
        jetloom workflows list --all --json

    Parameters
    ----------
    all
        Every registered version.
    """

    async def main() -> None:
        from ._render import workflow_table

        async with _session.open_session(common) as session:
            rows = await read_workflows(session.transport, session.names)
            chosen = rows if all else latest(rows)
            show(common.json, chosen, lambda: workflow_table(chosen))

    run_command(main)


@app.command(name="show")
def show_workflow(name: str, /, *, version: str | None = None, common: Common = _DEFAULT) -> None:
    """Show a workflow: its steps, handlers, undos and input schema.

    For example:

        jetloom workflows show order
        jetloom workflows show order --version 2 --json

    Parameters
    ----------
    name
        The workflow's name.
    version
        A version; otherwise the one that was registered last.
    """

    async def main() -> None:
        from ._render import workflow_view

        async with _session.open_session(common) as session:
            rows = await read_workflows(session.transport, session.names)
            matching = [row for row in rows if row.name == name and version in (None, row.version)]
            if not matching:
                known = sorted({f"{row.name} @ {row.version}" for row in rows})
                raise WorkflowNotFound(name if version is None else f"{name} @ {version}", known)
            row = matching[-1]
            show(common.json, row, lambda: workflow_view(row))

    run_command(main)


def latest(rows: list[WorkflowRow]) -> list[WorkflowRow]:
    """The row of each name that was registered last; `rows` in the order of registration."""
    return sorted({row.name: row for row in rows}.values(), key=lambda row: row.name)


async def read_workflows(transport: Transport, names: Names) -> list[WorkflowRow]:
    """Every registered definition, in the order of registration; none when the bucket is missing."""
    from ..messages import bucket_key

    if await transport.stream_state(names.workflows_stream) is None:
        return []
    subject = bucket_key(names.workflows_bucket, ">")
    rows: list[WorkflowRow] = []
    after = 0
    while True:
        page = await transport.read(names.workflows_stream, subject, after=after, limit=PAGE)
        for stored in page:
            row = to_row(stored.subject, stored.data, stored.at)
            if row is not None:
                rows.append(row)
        if len(page) < PAGE:
            return rows
        after = page[-1].sequence


def to_row(subject: str, data: bytes, at: float) -> WorkflowRow | None:
    """A stored definition as a row; None for a key that was deleted, or that another version of jetloom wrote."""
    from ..workflows import Definition

    try:
        definition = msgspec.json.decode(data, type=Definition)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    return WorkflowRow(
        name=definition.id,
        version=definition.version,
        fingerprint=subject.rpartition(".")[2],
        registered_at=at,
        description=definition.description,
        steps=tuple(
            StepRow(
                id=step.id,
                uses=step.uses or "",
                depends_on=step.depends_on,
                undo=step.saga.uses if step.saga else "",
                on_error=step.on_error,
            )
            for step in definition.steps
        ),
        input_schema=definition.input_schema,
    )
