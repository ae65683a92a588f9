"""Workflows written in Python: the same model, the same checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Self, cast

import msgspec

from ..errors import DefinitionInvalid
from ..schema import schema_of
from ._fields import Report
from ._finding import Finding
from ._model import Definition, Emit, Retry, Saga, Wait
from ._validate import check_workflow
from ._yaml import node_of

if TYPE_CHECKING:
    from ..types import JSON

type Duration = float | str | timedelta
"""Seconds, a text such as `1h30m`, or a timedelta."""
type Shape = Mapping[str, JSON] | type
"""A JSON Schema, or a type that has one."""


class Workflow:
    """Builds a definition step by step; `build()` checks it as a file is checked.

        fulfillment = Workflow("fulfillment", version="2")
        fulfillment.step("reserve", uses="inventory.reserve", saga=Saga("inventory.release"))
        fulfillment.step("pay", uses="payments.charge", after="reserve", with_={"order": "${input.id}"})
        definition = fulfillment.build()

    `type` arguments stand for their JSON Schema, `after` for `depends_on`, `with_` for `with`.
    """

    def __init__(
        self,
        id: str,
        *,
        version: str = "1",
        name: str = "",
        description: str = "",
        expose_to_ai: bool = False,
        input_schema: Shape | None = None,
        output_schema: Shape | None = None,
        output: JSON = None,
        timeout: Duration | None = None,
        retention: Duration | None = None,
        labels: Mapping[str, str] | None = None,
        on_cancel: Literal["compensate", "stop"] = "compensate",
        events: Literal["none", "lifecycle"] = "none",
    ) -> None:
        self.id = id
        self._fields: dict[str, object] = {
            "id": id,
            "version": version,
            "name": name,
            "description": description,
            "expose_to_ai": expose_to_ai,
            "input_schema": _schema(input_schema),
            "output_schema": _schema(output_schema),
            "output": output,
            "timeout": _seconds(timeout),
            "retention": _seconds(retention),
            "labels": dict(labels or {}),
            "on_cancel": on_cancel,
            "events": events,
        }
        self._steps: list[dict[str, object]] = []

    def step(
        self,
        id: str,
        *,
        uses: str | None = None,
        after: str | Sequence[str] = (),
        with_: Mapping[str, JSON] | None = None,
        when: str | None = None,
        retry: Retry | None = None,
        max_retries: int | None = None,
        timeout: Duration | None = None,
        on_error: Literal["fail", "skip"] = "fail",
        saga: Saga | str | None = None,
        wait: Wait | None = None,
        emit: Emit | Sequence[Emit] = (),
        output_schema: Shape | None = None,
        name: str = "",
    ) -> Self:
        """Adds a step. `saga` may be the undo's handler alone. Returns the workflow, for chains."""
        fields: dict[str, object] = {
            "id": id,
            "name": name,
            "uses": uses,
            "depends_on": [after] if isinstance(after, str) else list(after),
            "with": dict(with_) if with_ is not None else None,
            "when": when,
            "retry": _all_fields(retry),
            "max_retries": max_retries,
            "timeout": _seconds(timeout),
            "on_error": on_error,
            "saga": Saga(saga) if isinstance(saga, str) else saga,
            "wait": wait,
            "emit": [emit] if isinstance(emit, Emit) else list(emit),
            "output_schema": _schema(output_schema),
        }
        self._steps.append(fields)
        return self

    def build(self) -> Definition:
        """Raises `DefinitionInvalid` with all findings."""
        plain = cast("JSON", msgspec.to_builtins({**self._fields, "steps": self._steps}))
        report = Report("")
        definition = check_workflow(report, node_of(plain))
        if definition is None:
            raise DefinitionInvalid(f"workflow {self.id}", [str(finding) for finding in report.findings])
        return definition


def check_definition(definition: Definition) -> list[Finding]:
    """The findings of a definition that was built by hand or came from elsewhere."""
    report = Report("")
    check_workflow(report, node_of(cast("JSON", msgspec.to_builtins(definition))))
    return report.findings


def _schema(shape: Shape | None) -> JSON:
    if shape is None or isinstance(shape, Mapping):
        return cast("JSON", None if shape is None else dict(shape))
    return schema_of(shape)


def _seconds(duration: Duration | None) -> JSON:
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def _all_fields(retry: Retry | None) -> object:
    """`max` only where it was chosen, so that `max_retries` may stand beside the rest of a policy."""
    return None if retry is None else msgspec.to_builtins(retry)
