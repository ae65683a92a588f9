"""What a workflow is: the one model behind the YAML form and the Python builder.

Durations are seconds (float). Expressions are CEL source texts; a value in `with`, `output` or an emit's payload may
hold `${expr}`: alone it is the expression's value, within a longer text it is rendered into it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..types import JSON

type Backoff = Literal["exponential", "constant"]

RETRIES_DEFAULT = 3
STEPS_MAX = 100_000


class Retry(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tries after the first. Delay of retry k: `initial * 2**(k-1)` (or constant), at most `max_delay`, ± `jitter`."""

    max: int = RETRIES_DEFAULT
    backoff: Backoff = "exponential"
    initial: float = 1.0
    max_delay: float = 60.0
    jitter: float = 0.2


class Saga(msgspec.Struct, frozen=True, omit_defaults=True):
    """A step's undo. When a critical one fails for good, the run waits for a person; others are recorded and passed."""

    uses: str
    is_critical: bool = False
    retry: Retry = Retry()
    timeout: float | None = None


class Wait(msgspec.Struct, frozen=True, omit_defaults=True, rename={"for_": "for"}):
    """What a step waits for: a message by name, or a time (`for`, seconds or an expression that gives them)."""

    message: str | None = None
    for_: float | str | None = None
    timeout: float | None = None
    on_timeout: Literal["fail", "skip"] = "fail"


class Emit(msgspec.Struct, frozen=True, omit_defaults=True):
    """An event that a step's completion emits. `type` is `namespace.type`; `payload` may hold expressions."""

    type: str
    payload: JSON = None
    key: str | None = None


class Step(msgspec.Struct, frozen=True, omit_defaults=True, rename={"with_": "with"}):
    """One node of the graph. It has `uses` (a handler), or `wait`, or neither (it only emits or shapes its input)."""

    id: str
    name: str = ""
    uses: str | None = None
    depends_on: tuple[str, ...] = ()
    with_: dict[str, JSON] | None = None
    when: str | None = None
    retry: Retry = Retry()
    timeout: float | None = None
    on_error: Literal["fail", "skip"] = "fail"
    saga: Saga | None = None
    wait: Wait | None = None
    emit: tuple[Emit, ...] = ()
    output_schema: dict[str, JSON] | None = None


class Definition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A workflow. `retention` seconds that a finished run is kept; `timeout` seconds that a run may take."""

    id: str
    steps: tuple[Step, ...]
    name: str = ""
    description: str = ""
    version: str = "1"
    kind: Literal["workflow"] = "workflow"
    expose_to_ai: bool = False
    input_schema: dict[str, JSON] | None = None
    output_schema: dict[str, JSON] | None = None
    output: JSON = None
    timeout: float | None = None
    retention: float | None = None
    labels: dict[str, str] = {}
    on_cancel: Literal["compensate", "stop"] = "compensate"
    events: Literal["none", "lifecycle"] = "none"

    def step(self, step_id: str) -> Step:
        """Raises `KeyError` for an id that is not of this definition."""
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)
