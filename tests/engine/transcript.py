"""Plays transcripts: what the pure core decides, line by line, without a server, a clock or a loop.

A transcript is a text file. Lines that start with `>` are played; the lines below each of them, up to the next one, are
what the core answered. `pytest tests/engine --update-transcripts` writes the answers anew: review them as a diff.

    workflow {json of a definition}
    > e1 serves pay,undo            which handlers an engine has in its process
    > e1 at 5                       its clock, seconds
    > e1 start {"x": 1}             the next mailbox message arrives and is decided about (m1, m2 … in order)
    > e1 result pay 1 {"ok": 1}     … of the pending attempt 1 of step pay; `error pay 1 code class` for a failed one
    > e1 message go id1 {json}  ·  e1 cancel c1  ·  e1 action a1 retry  ·  e1 poke [lost m1]  ·  e1 wake NAME
    > e1 ends pay 1 {json}  ·  e1 fails pay 1 code class  ·  e1 stopped pay 1      a body in the process
    > e1 due NAME  ·  e1 takes m1  ·  e1 releases m1  ·  e1 suspects m1
    > e1 again m1                   the same message is offered again
    > e1 standing m1                what it is to the state, for this engine
    > e1 ack m1 key=value…          what must happen before it may be acknowledged (state_tick, received, quiet, …)
    > e1 body sure=yes|no current=yes|no settling=yes|no      whether a body may start
    > e1 resume sure=… released=… own=… answer=… patience=…   what to do with a live cover of another engine
    > e1 derives                    everything that must exist now
    > e1 loses its last entry       refused: the state is what the journal says

An entry is accepted unless the line begins with `refused`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import msgspec

from jetloom.engine import core
from jetloom.errors import ErrorClass, ErrorInfo
from jetloom.messages import (
    Action,
    Cancel,
    Entry,
    MailboxAddress,
    Record,
    Result,
    RunMessage,
    Start,
    encode,
    input_hash,
)
from jetloom.workflows import Compiled, Definition, compile_definition

ROOM = 512 * 1024


def _bytes(state: core.RunState) -> bytes:
    return msgspec.json.encode(state, order="deterministic")


class Player:
    """One run, any number of engines, one journal."""

    def __init__(self, definition: Definition) -> None:
        self.compiled: Compiled = compile_definition(definition)
        self.journal: list[tuple[Entry, tuple[Record, ...]]] = []
        self.messages: dict[str, core.Arrived] = {}
        self.held: dict[str, set[str]] = {}
        self.serves: dict[str, set[str]] = {}
        self.now = 0.0
        self.count = 0

    def state(self) -> core.RunState:
        state = core.RunState("r")
        for entry, records in self.journal:
            kept = core.copy_state(state)
            before, after = _bytes(kept), _bytes(core.fold_entry(core.copy_state(state), entry, records))
            state = core.fold_entry(state, entry, records)
            assert _bytes(state) == after, "a copy folds into the same"
            assert _bytes(kept) == before, "a copy is its own"
        return state

    # -- the language
    def play(self, line: str) -> list[str]:
        accepted = not line.startswith("refused ")
        engine, verb, *words = line.removeprefix("refused ").split(" ")
        self.held.setdefault(engine, set())
        self.serves.setdefault(engine, set())
        rest = " ".join(words)
        match verb:
            case "serves":
                self.serves[engine] = set(rest.split(","))
                return []
            case "at":
                self.now = float(rest)
                return []
            case "drops":
                self.held[engine].discard(rest)
                return []
            case "standing":
                return [core.standing(self.state(), self.messages[rest], engine).name.lower()]
            case "ack":
                return [self._ack(words[0], words[1:])]
            case "body":
                return [_body(_pairs(words))]
            case "resume":
                return [_resume(_pairs(words))]
            case "derives":
                return [_text(output) for output in core.derive(self.state())] or ["nothing"]
            case "suspicion":
                return [core.suspicious(self.state(), self.messages[words[0]], int(words[1]))]
            case "adopts":
                return self._adopt(engine, words, accepted)
            case _:
                return self._decide(engine, self._inputs(engine, verb, words), accepted)

    def _inputs(self, engine: str, verb: str, words: list[str]) -> list[core.Input]:
        match verb:
            case "start" | "result" | "error" | "message" | "cancel" | "action" | "poke" | "wake":
                return [self._arrive(engine, verb, words)]
            case "again":
                self.held[engine].add(words[0])
                return [self.messages[words[0]]]
            case "ends":
                return [core.BodyEnded(words[0], int(words[1]), output=_json(words[2:]))]
            case "fails":
                return [core.BodyEnded(words[0], int(words[1]), error=_error(words[2:]))]
            case "stopped":
                return [core.BodyEnded(words[0], int(words[1]), cancelled=True)]
            case "due":
                return [core.TimerDue(words[0])]
            case "takes":
                self.held[engine].add(words[0])
                return [core.TakeOver(words[0])]
            case "releases":
                return [core.Release(tuple(words))]
            case "suspects":
                return [core.Suspected(words[0])]
            case _:
                raise ValueError(f"unknown verb {verb}")

    def _arrive(self, engine: str, verb: str, words: list[str]) -> core.Arrived:
        self.count += 1
        ref = f"{'t' if verb == 'wake' else 'm'}{self.count}"
        state = self.state()
        lost: tuple[str, ...] = ()
        body: core.Arrived | Any = None
        match verb:
            case "start":
                value = _json(words)
                body = Start(
                    self.compiled.definition.id,
                    input_hash(self.compiled.definition.id, value),
                    "nonce",
                    input=value,
                    fingerprint=self.compiled.fingerprint,
                )
                address = MailboxAddress("start", "r")
            case "result" | "error":
                unit = words[0]
                handler = state.unit(unit).handler or unit
                address = MailboxAddress(
                    "result", "r", handler=handler, inc=state.inc or 1, step=unit, attempt=int(words[1])
                )
                body = (
                    Result("ok", output=_json(words[2:]))
                    if verb == "result"
                    else Result("error", error=_error(words[2:]))
                )
            case "message":
                address = MailboxAddress("message", "r", id=words[1], name=words[0])
                body = RunMessage(_json(words[2:]))
            case "cancel":
                address, body = MailboxAddress("cancel", "r", id=words[0]), Cancel("enough")
            case "action":
                address = MailboxAddress("action", "r", id=words[0])
                body = Action(cast("Any", words[1]))
            case "poke":
                address = MailboxAddress("poke", "r")
                lost = tuple(words[1:])
            case _:
                address = MailboxAddress("wake", "r", name=words[0], inc=state.inc)
        arrived = core.Arrived(ref, self.count, address, body, lost=lost)
        self.messages[ref] = arrived
        self.held[engine].add(ref)
        return arrived

    # -- deciding
    def _around(self, engine: str) -> core.Surroundings:
        return core.Surroundings(
            engine=engine,
            now=self.now,
            holding=self.held[engine].__contains__,
            serves=self.serves[engine].__contains__,
            random=lambda: 0.5,
        )

    def _decide(self, engine: str, inputs: list[core.Input], accepted: bool) -> list[str]:
        draft = core.Draft(self.state(), self.compiled, self._around(engine))
        try:
            core.decide(draft, inputs, room=ROOM)
        except core.NoCover:
            return ["no cover: read the leader's journal and decide again"]
        return self._append(draft, accepted)

    def _adopt(self, engine: str, words: list[str], accepted: bool) -> list[str]:
        waiting = self.messages[words[0]]
        message = self._arrive(engine, words[1], words[2:])
        draft = core.Draft(self.state(), self.compiled, self._around(engine))
        assert isinstance(waiting.body, Start)
        core.adopt(draft, waiting.body, waiting.sequence, message)
        return self._append(draft, accepted)

    def _append(self, draft: core.Draft, accepted: bool) -> list[str]:
        if not draft.records:
            return ["nothing changes"]
        core.close(draft.state, draft.stamp)
        stamp = draft.stamp
        entry = Entry(stamp.n, stamp.at, stamp.by, draft.state.inc, tuple(draft.records))
        outputs = [*draft.wants, *core.wanted_by(draft.state, stamp.n, draft.records)]
        lines = [f"{stamp.n} {stamp.by} at {stamp.at:g}"]
        lines += [f"  {_record(record)}" for record in draft.records]
        lines += [f"  out {_text(output)}" for output in outputs]
        if not accepted:
            return [*lines, "  refused: nothing of it is state"]
        self.journal.append((entry, tuple(draft.records)))
        folded = self.state()
        assert msgspec.json.encode(folded) == msgspec.json.encode(draft.state), (
            "the fold differs from the decision"
        )
        return [*lines, f"  is {folded.status.value}{_covers(folded)}"]

    def _ack(self, ref: str, words: list[str]) -> str:
        pairs = _pairs(words)
        hold = core.Hold(int(pairs.get("received", "1")), quiet=pairs.get("quiet") == "yes")
        return core.may_ack(
            self.state(),
            int(pairs.get("state", "2")),
            self.messages[ref],
            hold,
            outputs_open=pairs.get("outputs") == "open",
            derived=pairs.get("derived") == "yes",
        )


def _pairs(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def _body(pairs: dict[str, str]) -> str:
    hold = core.Hold(1, sure_since=5 if pairs["sure"] == "yes" else -1)
    tick = 6 if pairs["current"] == "yes" else 4
    return core.may_start(tick, hold, settling=pairs.get("settling") == "yes")


def _resume(pairs: dict[str, str]) -> str:
    return core.resume(
        sure=pairs.get("sure", "yes") == "yes",
        released=pairs.get("released") == "yes",
        own=pairs.get("own") == "yes",
        answer=cast("core.Answer", pairs.get("answer", "none")),
        patience_over=pairs.get("patience") == "over",
    )


def _json(words: list[str]) -> Any:
    return json.loads(" ".join(words)) if words else None


def _error(words: list[str]) -> ErrorInfo:
    return ErrorInfo(words[0], "it failed", ErrorClass(words[1]) if len(words) > 1 else ErrorClass.RETRYABLE)


def _record(record: Record) -> str:
    fields = json.loads(encode(record))
    name = fields.pop("t")
    for noise in ("hash", "nonce", "fingerprint", "actor"):
        fields.pop(noise, None)
    return " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in fields.items())])


def _text(output: core.Output) -> str:
    fields = json.loads(encode(output))
    return " ".join([type(output).__name__, *(f"{key}={json.dumps(value)}" for key, value in fields.items())])


def _covers(state: core.RunState) -> str:
    return "".join(
        f", {ref} held by {cover.holder} (work {cover.work}{', released' if cover.released else ''})"
        for ref, cover in state.covers.items()
    )


def replay(path: Path) -> str:
    """The transcript as the core answers it now."""
    lines: list[str] = []
    player: Player | None = None
    answered = False
    for line in path.read_text().splitlines():
        if line.startswith("workflow "):
            definition = msgspec.json.decode(line.removeprefix("workflow "), type=Definition)
            player = Player(definition)
            lines.append(line)
        elif line.startswith("> "):
            assert player is not None, f"{path.name} plays before it names a workflow"
            lines.append(line)
            lines += [f"  {answer}" for answer in player.play(line[2:])]
            answered = True
        elif not line.startswith("  ") or not answered:
            lines.append(line)
    return "\n".join(lines) + "\n"
