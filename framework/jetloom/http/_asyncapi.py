"""The AsyncAPI 3.0 document of what modules declare: the events they handle, their endpoints, the tasks they take.

Source: the AsyncAPI specification 3.0.0, with NATS bindings 0.1.0. Subjects with wildcards become addresses with
parameters. Schemas stand in `components`, whatever type they come from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast

from ..bus import EventHandler
from ..messages import Names, encode
from ..rpc import Endpoint
from ..runtime import Plan, StepHandler
from ..types import JSON

VERSION = "3.0.0"

type Table = dict[str, JSON]

_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]+")

_EVENT_HEADERS: Table = {
    "type": "object",
    "description": "CloudEvents 1.0 in binary mode. All may be missing: plain JSON is an event as well.",
    "properties": {
        "ce-specversion": {"const": "1.0"},
        "ce-id": {"type": "string", "description": "the same for every delivery of an event"},
        "ce-type": {"type": "string"},
        "ce-source": {"type": "string"},
        "ce-time": {"type": "string", "format": "date-time"},
        "traceparent": {"type": "string"},
    },
}

_ERROR: Table = {
    "type": "object",
    "required": ["code"],
    "properties": {
        "code": {"type": "string", "examples": ["not_found"]},
        "message": {"type": "string"},
        "class": {"enum": ["retryable", "terminal", "rate_limited"]},
        "retry_after_ms": {"type": "integer"},
        "details": {"type": "object"},
    },
}


def asyncapi_document(
    plan: Plan, names: Names, *, title: str, version: str, server: str = "nats://127.0.0.1:4222"
) -> Table:
    """The document for the modules of a plan. `server` is where the reader finds NATS."""
    paper = _Paper(names)
    for module in plan.modules:
        declared = plan.declared[module.id]
        for handler in declared.events:
            paper.event(handler)
        for endpoint in declared.endpoints:
            paper.endpoint(module.id, endpoint)
        for step in declared.steps:
            paper.step(module.id, step)
    protocol, _, host = server.rpartition("://")
    return {
        "asyncapi": VERSION,
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "servers": {"nats": {"host": host, "protocol": protocol or "nats"}},
        "channels": paper.channels,
        "operations": paper.operations,
        "components": {"messages": paper.messages, "schemas": paper.schemas},
    }


class _Paper:
    """The document's tables while they are filled."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self.channels: Table = {}
        self.operations: Table = {}
        self.messages: Table = {}
        self.schemas: Table = {}
        self._shapes: dict[str, bytes] = {}

    def event(self, handler: EventHandler[object]) -> None:
        subject = self._names.event(handler.pattern)
        channel, known = _id("event", handler.pattern), f"{handler.module}.{handler.name}"
        message = _id(known)
        self._channel(channel, subject, message, f"events {handler.pattern}")
        self.messages[message] = {
            "name": handler.pattern,
            "contentType": "application/json",
            "headers": _EVENT_HEADERS,
            "payload": self._schema(known, handler.schema),
        }
        operation: Table = {
            "action": "receive",
            "summary": f"{handler.module} handles {handler.pattern}",
            "channel": _to("channels", channel),
            "messages": [_to("channels", channel, "messages", message)],
            "x-jetloom-mode": handler.mode,
        }
        for name in ("where", "key"):
            if text := getattr(handler, name):
                operation[f"x-jetloom-{name}"] = text
        self.operations[_id("on", known)] = operation

    def endpoint(self, module: str, endpoint: Endpoint) -> None:
        known = f"{module}.{endpoint.name}"
        channel, request, answer = _id("rpc", known), _id(known, "request"), _id(known, "response")
        self._channel(channel, endpoint.subject, request, f"requests of {known}")
        self.messages[request] = {
            "contentType": "application/json",
            "payload": self._schema(f"{known}.request", endpoint.request_schema or {"type": "null"}),
        }
        self.messages[answer] = {
            "contentType": "application/json",
            "payload": self._schema(f"{known}.response", endpoint.response_schema),
        }
        error = _id("error")
        self.messages[error] = {
            "summary": "an error: the header Nats-Service-Error-Code has its number",
            "contentType": "application/json",
            "payload": self._schema("error", _ERROR),
        }
        replies = _id("rpc", known, "reply")
        # Where to is the requester's choice: its reply subject.
        self.channels[replies] = {
            "address": None,
            "messages": {
                answer: _to("components", "messages", answer),
                error: _to("components", "messages", error),
            },
        }
        self.operations[_id("rpc", known)] = {
            "action": "receive",
            "summary": f"{module} answers {endpoint.name}"
            + (" in parts" if endpoint.parts is not None else ""),
            "channel": _to("channels", channel),
            "messages": [_to("channels", channel, "messages", request)],
            "bindings": {"nats": {"queue": endpoint.group, "bindingVersion": "0.1.0"}},
            "reply": {
                "channel": _to("channels", replies),
                "messages": [_to("channels", replies, "messages", name) for name in (answer, error)],
            },
        }

    def step(self, module: str, step: StepHandler) -> None:
        channel, message = _id("task", step.name), _id(step.name, "task")
        address = f"{self._names.namespace}.task.{step.name}.{{run}}.{{inc}}.{{step}}.{{attempt}}"
        self._channel(channel, address, message, f"tasks of {step.name}")
        self.messages[message] = {
            "contentType": "application/json",
            "summary": "what a workflow's step was given; the header Jetloom-Reply names where its result goes",
            "payload": self._schema("task", {"type": "object", "properties": {"input": {}}}),
        }
        self.operations[_id("step", step.name)] = {
            "action": "receive",
            "summary": f"{module} runs the step {step.name}",
            "channel": _to("channels", channel),
            "messages": [_to("channels", channel, "messages", message)],
        }

    def _channel(self, channel: str, subject: str, message: str, title: str) -> None:
        address, parameters = _address(subject)
        found = cast(
            "Table", self.channels.setdefault(channel, {"address": address, "title": title, "messages": {}})
        )
        if parameters:
            found["parameters"] = {name: {} for name in parameters}
        cast("Table", found["messages"])[message] = _to("components", "messages", message)

    def _schema(self, name: str, schema: Table | None) -> Table:
        """Puts a JSON Schema among the components, with the types that it defines; a reference to it."""
        found = dict(schema or {})
        definitions = cast("dict[str, Table]", found.pop("$defs", {}))
        renamed = {f"#/$defs/{each}": self._named(each, definitions) for each in definitions}
        for each, definition in definitions.items():
            self.schemas[renamed[f"#/$defs/{each}"]] = _redirected(definition, renamed)
        body = cast("Table", _redirected(found, renamed))
        if set(body) == {"$ref"}:
            return body
        own = _id(name)
        self.schemas[own] = body
        return _to("components", "schemas", own)

    def _named(self, name: str, definitions: dict[str, Table]) -> str:
        """The type's name; with a number behind it when another type has it already."""
        shape = encode(_reachable(name, definitions))
        wanted, number = _id(name), 1
        while self._shapes.setdefault(wanted, shape) != shape:
            number += 1
            wanted = f"{_id(name)}-{number}"
        return wanted


def _reachable(name: str, definitions: dict[str, Table]) -> Table:
    """A type with all that it refers to: what tells two types of one name apart."""
    found: Table = {}
    left = [name]
    while left:
        each = left.pop()
        if each not in found and each in definitions:
            found[each] = definitions[each]
            left += [other for other in definitions if f"#/$defs/{other}" in str(definitions[each])]
    return found


def _redirected(value: JSON, renamed: dict[str, str]) -> JSON:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference in renamed:
            return _to("components", "schemas", renamed[reference])
        return {key: _redirected(each, renamed) for key, each in value.items()}
    if isinstance(value, list):
        return [_redirected(each, renamed) for each in value]
    return value


def _address(subject: str) -> tuple[str, list[str]]:
    """A subject as an address: `*` and `>` become parameters; those that are there stay."""
    parameters: list[str] = []

    def tokens() -> Iterator[str]:
        for token in subject.split("."):
            if token in ("*", ">"):
                parameters.append(f"token{len(parameters) + 1}" if token == "*" else "rest")
                yield f"{{{parameters[-1]}}}"
            else:
                if token.startswith("{"):
                    parameters.append(token[1:-1])
                yield token

    return ".".join(tokens()), parameters


def _id(*parts: str) -> str:
    """A key that the specification allows."""
    text = "-".join(parts).replace("*", "any").replace(">", "all")
    return _NOT_IN_IDS.sub("-", text)


def _to(*path: str) -> Table:
    return {"$ref": "#/" + "/".join(path)}


def asyncapi_yaml(document: Table) -> str:
    """The document as YAML, in the order that the specification has."""
    import yaml

    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100).rstrip()
