"""A journal record in words. Its kinds are those of `jetloom.messages`; an unknown one is printed as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..types import JSON

TEXT_CHARACTERS_MAX = 160

_PLACES = {"here": "in the engine", "task": "as a task", "wait": "as a wait"}


def record_text(record: Mapping[str, JSON]) -> str:
    """One line for one record, such as `step reserve started (attempt 1, as a task)`."""
    kind = str(record.get("t", ""))
    sentence = _SENTENCES.get(kind)
    if sentence is None:
        return f"{kind} {_rest(record)}".rstrip()
    return _cut(sentence(_Fields(record)))


class _Fields:
    """Fields of a record as text; an absent one is empty."""

    def __init__(self, record: Mapping[str, JSON]) -> None:
        self._record = record

    def __getitem__(self, name: str) -> str:
        value = self._record.get(name)
        if value is None:
            return ""
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()

    def error(self) -> str:
        error = self._record.get("error")
        if not isinstance(error, dict):
            return "no reason recorded"
        return f"{error.get('code', 'error')}: {error.get('message', '')}".rstrip(": ")

    def suffix(self, name: str, text: str) -> str:
        return text.format(self[name]) if self[name] else ""

    def list(self, name: str) -> str:
        value = self._record.get(name)
        return ", ".join(str(item) for item in value) if isinstance(value, list) else ""


def _started(f: _Fields) -> str:
    return f"step {f['step']} started (attempt {f['attempt']}, {_PLACES.get(f['where'], f['where'])})"


def _failed(f: _Fields) -> str:
    return f"step {f['step']} attempt {f['attempt']} failed: {f.error()} → {f['next']}"


def _finished(f: _Fields) -> str:
    end = f.error() if f["error"] else f["output"]
    return f"run {f['status']}{': ' + end if end else ''}"


def _timer(f: _Fields) -> str:
    return f"timer {f['name']} set ({f['kind']}{f.suffix('step', ' of {}')})"


_SENTENCES: dict[str, Callable[[_Fields], str]] = {
    "run_started": lambda f: f"run of {f['workflow']} started by {_actor(f)} with {f['input'] or 'null'}",
    "driven": lambda _: "run is being driven",
    "settling": lambda f: f"nothing new starts; the run will be {f['status']}: {f.error()}",
    "undoing": lambda f: f"rollback begins: {f.list('plan') or 'nothing to undo'}",
    "paused": lambda _: "paused",
    "continued": lambda _: "continued",
    "parked": lambda f: f"waits for a person: {f['reason']}{f.suffix('step', ' (step {})')}",
    "finished": _finished,
    "started": _started,
    "completed": lambda f: f"step {f['step']} completed{f.suffix('output', ': {}')}",
    "failed": _failed,
    "skipped": lambda f: f"step {f['step']} skipped ({f['reason']})",
    "unknown": lambda f: f"step {f['step']} attempt {f['attempt']}: outcome unknown",
    "undo_started": lambda f: (
        f"undo of {f['step']} started (attempt {f['attempt']}, {_PLACES.get(f['where'], f['where'])})"
    ),
    "undo_completed": lambda f: f"undo of {f['step']} completed",
    "undo_failed": lambda f: f"undo of {f['step']} attempt {f['attempt']} failed: {f.error()} → {f['next']}",
    "held": lambda f: f"this engine holds {f['cover']}{f.suffix('instead_of', ' instead of {}')}",
    "released": lambda f: f"{f['cover']} handed back",
    "suspect": lambda f: f"message {f['message']} was delivered suspiciously often",
    "timer": _timer,
    "fired": lambda f: f"timer {f['name']} fired",
    "dropped": lambda f: f"timer {f['name']} dropped",
    "kept": lambda f: f"message {f['name']} ({f['id']}) arrived{f.suffix('payload', ': {}')}",
    "taken": lambda f: f"message {f['id']} taken by step {f['step']}",
    "cancelled": lambda f: f"cancel asked for by {_actor(f)}{f.suffix('reason', ': {}')}",
    "poked": lambda _: "looked at again",
    "deferred": lambda f: f"message {f['message']} kept until the definition is known",
    "action": lambda f: (
        f"{f['verb']}{f.suffix('step', ' of step {}')} by {_actor(f)}: {f['verdict'] or 'done'}"
    ),
    "emitted": lambda f: f"event {f['type']} ({f['key']}){f.suffix('payload', ': {}')}",
    "snapshot": lambda _: "the journal so far was rolled up",
    "nothing": lambda _: "no records",
}


def _actor(f: _Fields) -> str:
    raw = f["actor"]
    if not raw:
        return "system:jetloom"
    actor = msgspec.json.decode(raw, type=dict[str, str]) if raw.startswith("{") else {}
    return f"{actor.get('kind', 'system')}:{actor.get('id', raw)}"


def _rest(record: Mapping[str, JSON]) -> str:
    return _cut(msgspec.json.encode({name: value for name, value in record.items() if name != "t"}).decode())


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS_MAX else f"{text[:TEXT_CHARACTERS_MAX]}…"
