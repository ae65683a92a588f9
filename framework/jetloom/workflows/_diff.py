"""How two versions of a definition differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from ._fingerprint import contents_of

if TYPE_CHECKING:
    from ..types import JSON
    from ._model import Definition

VALUE_CHARACTERS_MAX = 80
"""Of a value that a line shows."""


def diff(before: Definition, after: Definition) -> list[str]:
    """One line for each place: `steps.pay.retry.max: 3 → 10`, `steps.gift: added`, `labels.team: removed`.

    Steps are compared by their ids, and dependencies as sets; where they stand means nothing.
    """
    lines: list[str] = []
    _compare(_view(before), _view(after), "", lines)
    return lines


def _view(definition: Definition) -> dict[str, JSON]:
    plain = contents_of(definition)
    steps: dict[str, JSON] = {}
    for step in cast("list[dict[str, JSON]]", plain["steps"]):
        inside = {name: value for name, value in step.items() if name != "id"}
        needed = inside.get("depends_on")
        if isinstance(needed, list | tuple):
            inside["depends_on"] = {str(other): True for other in needed}
        steps[str(step["id"])] = inside
    plain["steps"] = steps
    return plain


def _compare(before: JSON, after: JSON, path: str, lines: list[str]) -> None:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inner = f"{path}.{name}" if path else name
            if name not in after:
                lines.append(f"{inner}: removed{_aside(before[name])}")
            elif name not in before:
                lines.append(f"{inner}: added{_aside(after[name])}")
            else:
                _compare(before[name], after[name], inner, lines)
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple):
        for index in range(max(len(before), len(after))):
            inner = f"{path}[{index}]"
            if index >= len(after):
                lines.append(f"{inner}: removed{_aside(before[index])}")
            elif index >= len(before):
                lines.append(f"{inner}: added{_aside(after[index])}")
            else:
                _compare(before[index], after[index], inner, lines)
    elif type(before) is not type(after) or before != after:
        lines.append(f"{path}: {_shown(before)} → {_shown(after)}")


def _aside(value: JSON) -> str:
    """A plain value beside what was added or removed; whole steps and mappings would say too much."""
    return "" if isinstance(value, dict | list | tuple) or value is True else f" ({_shown(value)})"


def _shown(value: JSON) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}…"
