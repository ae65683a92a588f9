"""From nodes to the model: fields, their types, and what may not stand together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, cast

from ..errors import NameInvalid
from ..messages import check_event_type, check_handler
from ..schema import SchemaInvalid, compile_schema
from ._durations import parse_duration
from ._fields import NOT_YET, Fields, Report, kind_of
from ._finding import did_you_mean
from ._model import RETRIES_DEFAULT, STEPS_MAX, Definition, Emit, Retry, Saga, Step, Wait
from ._texts import EMIT_SCOPE, Reading, Texts
from ._yaml import Node

if TYPE_CHECKING:
    from ..types import JSON

ID = re.compile(r"[a-z][a-z0-9_-]*")
ID_CHARACTERS_MAX = 100
"""Of a workflow's or step's id: both stand in subjects, which end far below the server's limit of 4 KiB."""
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
RETRIES_MAX = 10_000
"""Of one step: each is an entry of the journal, which has a limit."""
EMITS_MAX = 100
"""Events that one step declares: they travel in the entry that ends it."""
RETENTION_MIN = 3_600.0
"""Seconds. Below it an event or a late message could outlive the run that it belongs to."""

WORKFLOW_FIELDS = (
    "id", "name", "description", "kind", "version", "expose_to_ai", "input_schema", "output_schema", "output",
    "steps", "timeout", "retention", "labels", "on_cancel", "events",
)  # fmt: skip
WORKFLOW_NOT_YET = ("concurrency", "rate_limit", "priority")
STEP_FIELDS = (
    "id", "name", "uses", "depends_on", "with", "when", "retry", "max_retries", "timeout", "on_error", "saga",
    "wait", "emit", "output_schema",
)  # fmt: skip
STEP_NOT_YET = (
    "foreach", "max_parallel", "workflow", "stop", "fallback", "escalation", "unknown_outcome",
)  # fmt: skip


class ReadStep(NamedTuple):
    """A step as far as it could be read, with the places that later checks point at."""

    step: Step
    node: Node
    path: str
    id_node: Node
    depends_on: tuple[tuple[str, Node], ...]
    readings: list[Reading]
    emit_nodes: tuple[Node, ...]


class ReadWorkflow(NamedTuple):
    definition: Definition
    steps: list[ReadStep]
    output_readings: list[Reading]
    """What the workflow's own output reads."""


def read_workflow(report: Report, node: Node, path: str = "") -> ReadWorkflow | None:
    """The model of a node. Where there are findings it is what could be read, and only good for more findings."""
    if not isinstance(node.value, dict):
        report.add(node, path, f"expected a workflow, found {kind_of(node)}", "write id: and steps:")
        return None
    fields = Fields(report, node, path, WORKFLOW_FIELDS, WORKFLOW_NOT_YET)
    if fields.find("id") is None:
        fields.missing("id", "write id: and a name such as order-fulfilment")
    workflow = _identifier(fields, "id")
    kind = fields.find("kind")
    if kind is not None and kind.value == "pipeline":
        fields.complain("kind", f"pipeline {NOT_YET}", "write steps with depends_on")
    else:
        fields.choice("kind", ("workflow",), "workflow")
    nodes = _step_nodes(fields)
    ids = frozenset(name for name in map(_id_of, nodes) if name)
    texts = Texts(report, ids)
    steps = [_read_step(report, each, index, path, texts) for index, each in enumerate(nodes)]
    output = fields.find("output")
    definition = Definition(
        id=workflow,
        steps=tuple(read.step for read in steps if read is not None),
        name=fields.text("name"),
        description=fields.text("description"),
        version=_version(fields),
        expose_to_ai=fields.flag("expose_to_ai"),
        input_schema=_schema(fields, "input_schema"),
        output_schema=_schema(fields, "output_schema"),
        output=output.plain() if output is not None else None,
        timeout=fields.seconds("timeout"),
        retention=_retention(fields),
        labels=_labels(fields),
        on_cancel=fields.choice("on_cancel", ("compensate", "stop"), "compensate"),
        events=fields.choice("events", ("none", "lifecycle"), "none"),
    )
    readings = texts.template(output, fields.of("output")) if output is not None else []
    return ReadWorkflow(definition, [read for read in steps if read is not None], readings)


# -- the workflow's own fields
def _identifier(fields: Fields, name: str) -> str:
    node = fields.find(name)
    text = fields.text(name)
    if node is None or not isinstance(node.value, str):
        return text
    if not ID.fullmatch(text) or len(text) > ID_CHARACTERS_MAX:
        better = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_0123456789")[:ID_CHARACTERS_MAX]
        fields.complain(
            name,
            f"{text!r} is no id: expected lower-case letters, digits, _ and -, beginning with a letter",
            f"write {better}" if ID.fullmatch(better) else "",
        )
    return text


def _version(fields: Fields) -> str:
    node = fields.find("version")
    text = fields.text("version", "1")
    if node is not None and isinstance(node.value, str) and not VERSION.fullmatch(text):
        fields.complain("version", f"{text!r} is no version", 'write something like "1" or "2026.11"')
    return text


def _schema(fields: Fields, name: str) -> dict[str, JSON] | None:
    schema = fields.mapping(name, "write a JSON Schema such as type: object")
    if schema is None:
        return None
    try:
        compile_schema(schema)
    except SchemaInvalid as error:
        node, path = cast("Node", fields.find(name)), fields.of(name)
        for part in error.path:
            value = node.value
            if isinstance(value, dict) and part in value:
                node = value[str(part)]
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                node = value[part]
            else:
                break
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
        suggestion = did_you_mean(node.value, _SCHEMA_TYPES) if isinstance(node.value, str) else ""
        fields.report.add(node, path, f"bad schema: {error.reason}", suggestion)
    return schema


_SCHEMA_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


def _retention(fields: Fields) -> float | None:
    seconds = fields.seconds("retention")
    if seconds is not None and seconds < RETENTION_MIN:
        fields.complain("retention", f"expected at least 1 h, found {seconds:g} s", "write 1h or more")
        return None
    return seconds


def _labels(fields: Fields) -> dict[str, str]:
    node = fields.find("labels")
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        fields.complain(
            "labels", f"expected a mapping of texts, found {kind_of(node)}", "write labels: {team: shop}"
        )
        return {}
    inside = Fields(fields.report, node, fields.of("labels"), node.value)
    return {name: inside.text(name) for name in node.value}


def _step_nodes(fields: Fields) -> list[Node]:
    node = fields.find("steps")
    if node is None:
        fields.missing("steps", "write steps: and a list of them")
        return []
    if not isinstance(node.value, list):
        suggestion = "begin each step with - id:" if isinstance(node.value, dict) else ""
        fields.complain("steps", f"expected a list of steps, found {kind_of(node)}", suggestion)
        return []
    if not node.value:
        fields.complain("steps", "a workflow has at least one step")
    if len(node.value) > STEPS_MAX:
        fields.complain(
            "steps", f"{len(node.value)} steps, the limit is {STEPS_MAX}", "split it into several workflows"
        )
        return []
    return node.value


def _id_of(node: Node) -> str:
    found = node.value.get("id") if isinstance(node.value, dict) else None
    return found.value if found is not None and isinstance(found.value, str) else ""


# -- steps
def _read_step(report: Report, node: Node, index: int, owner: str, texts: Texts) -> ReadStep | None:
    name = _id_of(node)
    path = f"{owner}.steps" if owner else "steps"
    path += f".{name}" if name else f"[{index}]"
    if not isinstance(node.value, dict):
        report.add(node, path, f"expected a step, found {kind_of(node)}", "begin each step with - id:")
        return None
    fields = Fields(report, node, path, STEP_FIELDS, STEP_NOT_YET)
    id_node = fields.find("id")
    if id_node is None:
        fields.missing("id", "every step has an id such as reserve")
    _identifier(fields, "id")
    readings: list[Reading] = []
    depends_on = _depends_on(fields)
    emits, emit_nodes = _emits(fields, texts, readings)
    saga = _saga(fields)
    step = Step(
        id=name,
        name=fields.text("name"),
        uses=_uses(fields),
        depends_on=tuple(other for other, _ in depends_on),
        with_=_with(fields, texts, readings),
        when=_when(fields, texts, readings),
        retry=_retry(fields, "retry", shorthand=True),
        timeout=fields.seconds("timeout"),
        on_error=fields.choice("on_error", ("fail", "skip"), "fail"),
        saga=saga,
        wait=_wait(fields, texts, readings),
        emit=emits,
        output_schema=_schema(fields, "output_schema"),
    )
    _check_combinations(fields, len(depends_on))
    return ReadStep(step, node, path, id_node or node, depends_on, readings, emit_nodes)


_DOES = ("uses", "wait", "emit", "with", "output_schema", "workflow", "stop")
"""What makes a step do something: without any of them it only passes its input on."""


def _check_combinations(fields: Fields, dependencies: int) -> None:
    # Two dependencies are a join: its output holds theirs by id.
    if dependencies < 2 and not any(fields.find(name) is not None for name in _DOES):
        fields.report.add(
            fields.node, fields.path, "this step does nothing", "write uses, wait, emit or with"
        )
    if fields.find("wait") is not None:
        if fields.find("uses") is not None:
            fields.complain_key(
                "wait",
                "a step waits or uses a handler, not both",
                "make the wait a step of its own, before this one",
            )
            return
        if fields.find("timeout") is not None:
            fields.complain_key("timeout", "a waiting step has its limit in wait", "write wait: {timeout: …}")
        if fields.find("with") is not None:
            fields.complain_key("with", "a waiting step has no input", "leave it out")
    if fields.find("uses") is None:
        idle = (
            ("retry", "max_retries")
            if fields.find("wait") is not None
            else ("retry", "max_retries", "timeout")
        )
        for name in idle:
            found = fields.find(name)
            # An empty one says nothing: so a default is written that somebody gave.
            if found is not None and found.value != {}:
                fields.complain_key(
                    name, f"{name} does nothing in a step without uses", "leave it out, or write uses"
                )


def _depends_on(fields: Fields) -> tuple[tuple[str, Node], ...]:
    node = fields.find("depends_on")
    if node is None:
        return ()
    items = node.value if isinstance(node.value, list) else [node]
    found: dict[str, Node] = {}
    for item in items:
        if not isinstance(item.value, str):
            fields.report.add(
                item, fields.of("depends_on"), f"expected the id of a step, found {kind_of(item)}"
            )
        elif item.value in found:
            fields.report.add(item, fields.of("depends_on"), f"{item.value} is named twice", "name it once")
        else:
            found[item.value] = item
    return tuple(found.items())


def _uses(fields: Fields, name: str = "uses") -> str | None:
    node = fields.find(name)
    text = fields.text(name)
    if node is None or not text:
        if node is not None and node.value == "":
            fields.complain(name, "expected the name of a handler, found nothing")
        return None
    if text.startswith("nats:"):
        fields.complain(name, f"nats:… {NOT_YET}", "serve it as a handler, and name that")
        return text
    handler, at, version = text.partition("@")
    if at and not VERSION.fullmatch(version):
        fields.complain(name, f"{version!r} is no version of a handler", f"write {handler}@1")
    try:
        check_handler(handler)
    except NameInvalid:
        better = re.sub(r"[^a-z0-9_.-]+", "_", handler.lower()).strip("._-")
        fields.complain(
            name,
            f"{handler!r} is no handler: expected dotted lower-case words such as orders.reserve",
            f"write {better}" if better and better != handler else "",
        )
    return text


def _with(fields: Fields, texts: Texts, readings: list[Reading]) -> dict[str, JSON] | None:
    value = fields.mapping("with", "write with: {order: ${input.id}}")
    node = fields.find("with")
    if value is not None and node is not None:
        readings += texts.template(node, fields.of("with"))
    return value


def _when(fields: Fields, texts: Texts, readings: list[Reading]) -> str | None:
    node = fields.find("when")
    if node is None:
        return None
    source = (
        node.raw if isinstance(node.value, bool) and node.raw in ("true", "false") else fields.text("when")
    )
    if not source:
        if node.value == "":
            fields.complain("when", "an expression is missing")
        return None
    bare = _unwrapped(source)
    if bare is not None:
        fields.complain("when", "when is an expression already", f"write {bare}")
        return None
    readings += texts.expression(node, fields.of("when"), source)
    return source


def _unwrapped(text: str) -> str | None:
    """The expression of a text that is one `${…}`."""
    text = text.strip()
    return (
        text[2:-1].strip() if text.startswith("${") and text.endswith("}") and "${" not in text[2:] else None
    )


def _retry(fields: Fields, name: str, *, shorthand: bool) -> Retry:
    node = fields.find(name)
    most = RETRIES_DEFAULT
    has_shorthand = shorthand and fields.find("max_retries") is not None
    if has_shorthand:
        most = fields.integer("max_retries", RETRIES_DEFAULT, RETRIES_MAX)
    if node is None:
        return Retry(max=most)
    if not isinstance(node.value, dict):
        number = isinstance(node.value, int) and not isinstance(node.value, bool)
        suggestion = f"write retry: {{max: {node.raw}}}" if number else "write retry: {max: 5, initial: 1s}"
        fields.complain(name, f"expected a mapping, found {kind_of(node)}", suggestion)
        return Retry(max=most)
    inside = Fields(
        fields.report, node, fields.of(name), ("max", "backoff", "initial", "max_delay", "jitter")
    )
    if has_shorthand and inside.find("max") is not None:
        fields.complain_key("max_retries", "retry.max and max_retries say the same", "keep one of them")
    default = Retry()
    initial, max_delay = inside.seconds("initial", zero=True), inside.seconds("max_delay", zero=True)
    return Retry(
        max=inside.integer("max", most, RETRIES_MAX),
        backoff=inside.choice("backoff", ("exponential", "constant"), "exponential"),
        initial=default.initial if initial is None else initial,
        max_delay=default.max_delay if max_delay is None else max_delay,
        jitter=inside.fraction("jitter", default.jitter),
    )


def _saga(fields: Fields) -> Saga | None:
    node = fields.find("saga")
    if node is None:
        return None
    if not isinstance(node.value, dict):
        suggestion = f"write saga: {{uses: {node.value}}}" if isinstance(node.value, str) else ""
        fields.complain("saga", f"expected a mapping, found {kind_of(node)}", suggestion)
        return None
    inside = Fields(
        fields.report, node, fields.of("saga"), ("uses", "is_critical", "retry", "timeout"), ("max_retries",)
    )
    if inside.find("uses") is None:
        inside.missing("uses", "name the handler that undoes the step")
    return Saga(
        uses=_uses(inside) or "",
        is_critical=inside.flag("is_critical"),
        retry=_retry(inside, "retry", shorthand=False),
        timeout=inside.seconds("timeout"),
    )


def _wait(fields: Fields, texts: Texts, readings: list[Reading]) -> Wait | None:
    node = fields.find("wait")
    if node is None:
        return None
    if not isinstance(node.value, dict):
        duration = isinstance(node.value, int | float) or (
            isinstance(node.value, str) and parse_duration(node.value) is not None
        )
        suggestion = f"write wait: {{for: {node.raw}}}" if duration else "write wait: {message: approved}"
        fields.complain("wait", f"expected a mapping, found {kind_of(node)}", suggestion)
        return None
    inside = Fields(
        fields.report, node, fields.of("wait"), ("message", "for", "timeout", "on_timeout"), ("until",)
    )
    message, duration = inside.find("message"), inside.find("for")
    if message is not None and duration is not None:
        inside.complain_key("for", "a step waits for a message or for a time, not both", "make it two steps")
    elif message is None and duration is None and inside.find("until") is None:
        inside.missing("message or for", "write message: approved, or for: 5m")
    name = inside.text("message")
    if message is not None and message.value == "":
        inside.complain("message", "a message has a name")
    timeout = inside.seconds("timeout")
    if duration is not None and message is None and inside.find("timeout") is not None:
        inside.complain_key("timeout", "a wait for a time has no timeout", "leave it out")
    if inside.find("on_timeout") is not None and inside.find("timeout") is None:
        inside.complain_key(
            "on_timeout", "on_timeout without timeout never happens", "write timeout: 1h beside it"
        )
    return Wait(
        message=name or None,
        for_=_wait_for(inside, texts, readings),
        timeout=timeout,
        on_timeout=inside.choice("on_timeout", ("fail", "skip"), "fail"),
    )


def _wait_for(fields: Fields, texts: Texts, readings: list[Reading]) -> float | str | None:
    node = fields.find("for")
    if node is None:
        return None
    if not isinstance(node.value, str) or parse_duration(node.value) is not None:
        return fields.seconds("for", zero=True)
    source = _unwrapped(node.value) or node.value
    before = len(fields.report.findings)
    readings += texts.expression(node, fields.of("for"), source)
    if len(fields.report.findings) > before and re.match(r"\s*\d", source):
        # Whoever begins with a digit meant a duration.
        del fields.report.findings[before:]
        fields.seconds("for")
    return source


def _emits(
    fields: Fields, texts: Texts, readings: list[Reading]
) -> tuple[tuple[Emit, ...], tuple[Node, ...]]:
    node = fields.find("emit")
    if node is None:
        return (), ()
    items = node.value if isinstance(node.value, list) else [node]
    if len(items) > EMITS_MAX:
        fields.complain(
            "emit", f"{len(items)} events, the limit is {EMITS_MAX}", "emit one event with a list"
        )
        return (), ()
    emits: list[Emit] = []
    for index, item in enumerate(items):
        path = f"{fields.of('emit')}[{index}]" if isinstance(node.value, list) else fields.of("emit")
        if not isinstance(item.value, dict):
            suggestion = f"write emit: {{type: {item.value}}}" if isinstance(item.value, str) else ""
            fields.report.add(item, path, f"expected a mapping, found {kind_of(item)}", suggestion)
            continue
        emits.append(_emit(Fields(fields.report, item, path, ("type", "payload", "key")), texts, readings))
    return tuple(emits), tuple(item for item in items if isinstance(item.value, dict))


def _emit(fields: Fields, texts: Texts, readings: list[Reading]) -> Emit:
    if fields.find("type") is None:
        fields.missing("type", "write type: shop.order.paid")
    kind = fields.text("type")
    if kind:
        try:
            check_event_type(kind)
        except NameInvalid:
            fields.complain(
                "type",
                f"{kind!r} is no event type: expected namespace.type in letters, digits, _ and -",
                "write something like shop.order.paid",
            )
    payload, key = fields.find("payload"), fields.find("key")
    if payload is not None:
        readings += texts.template(payload, fields.of("payload"), EMIT_SCOPE)
    if key is not None:
        if key.value == "":
            fields.complain("key", "a key is no empty text", "leave it out for one of its own")
        elif isinstance(key.value, str):
            readings += texts.template(key, fields.of("key"), EMIT_SCOPE)
    return Emit(kind, payload.plain() if payload is not None else None, fields.text("key") or None)
