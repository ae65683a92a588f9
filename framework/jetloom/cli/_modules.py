"""`jetloom modules …`: who serves what, as discovered over NATS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import msgspec
from cyclopts import App, Parameter

from ..errors import NotFound
from ..types import JSON  # msgspec reads the annotation
from . import _session
from ._common import Common, parse_duration
from ._emit import show
from ._process import run_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from ..rpc import EndpointFigures, EndpointInfo, Rpc, ServiceInfo, ServiceStats
    from ._session import Session

app = App(
    name="modules",
    help="See which modules and other NATS micro services answer, and what they serve.",
    help_format="plaintext",
)

_DEFAULT = Common()
_LISTS = ("events", "steps", "schedules", "depends_on")
"""What a module says of itself in its service's metadata, as JSON under `jetloom.<name>`."""


class ModuleRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A module or another micro service, over all of its instances."""

    module: str
    kind: str
    instances: int
    versions: list[str]
    namespace: str = ""
    description: str = ""
    endpoints: list[str] = []
    events: list[JSON] = []
    steps: list[JSON] = []
    schedules: list[JSON] = []
    depends_on: list[JSON] = []


class InstanceRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """One running process of it. `uptime` in seconds; none when it did not say."""

    id: str
    version: str
    started: str = ""
    uptime: float | None = None
    requests: int = 0
    errors: int = 0


class EndpointRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """An endpoint; the figures are sums over the instances, `average_seconds` of one request."""

    name: str
    subject: str
    queue_group: str = ""
    request: str = ""
    response: str = ""
    parts: bool = False
    idempotent: bool = False
    requests: int = 0
    errors: int = 0
    average_seconds: float = 0.0
    last_error: str = ""
    metadata: dict[str, str] = {}


class ModuleView(msgspec.Struct, frozen=True):
    """Everything that one module says of itself."""

    module: ModuleRow
    instances: list[InstanceRow]
    endpoints: list[EndpointRow]


@app.command(name="list")
def list_modules(
    *,
    all: Annotated[bool, Parameter(negative=())] = False,
    wait: str = "1s",
    common: Common = _DEFAULT,
) -> None:
    """List the modules of the namespace, and the micro services of other programs.

    For example:

        jetloom modules list
        jetloom modules list --all --json

    Parameters
    ----------
    all
        Those of other namespaces, too.
    wait
        How long answers are waited for.
    """
    seconds = parse_duration(wait, "--wait")

    async def main() -> None:
        async with _session.open_session(common) as session:
            rows = to_rows(await discover(session, seconds), "" if all else session.names.namespace)
            show(common.json, rows, lambda: module_table(rows))

    run_command(main)


@app.command(name="show")
def show_module(module: str, /, *, wait: str = "1s", common: Common = _DEFAULT) -> None:
    """Show one module: instances, endpoints with their figures, what it handles.

    For example:

        jetloom modules show shop
        jetloom modules show shop --json | jq '.endpoints[].errors'

    Parameters
    ----------
    module
        Its id; the name of a micro service of another program works, too.
    wait
        How long answers are waited for.
    """
    seconds = parse_duration(wait, "--wait")

    async def main() -> None:
        async with _session.open_session(common) as session:
            namespace = session.names.namespace
            everything = await discover(session, seconds)
            found = [info for info in everything if info.name == module and _is_of(info, namespace)]
            if not found:
                raise NotFound(nobody_answers(module, everything, namespace), module=module)
            view = to_view(found, await _figures(session, module, seconds), session.clock.now())
            show(common.json, view, lambda: module_view(view))

    run_command(main)


async def discover(session: Session, wait: float) -> list[ServiceInfo]:
    """Every instance of every service that answers."""
    return await _rpc(session).discover(wait=wait)


async def _figures(session: Session, name: str, wait: float) -> list[ServiceStats]:
    return await _rpc(session).statistics(name, wait=wait)


def _rpc(session: Session) -> Rpc:
    from ..rpc import Rpc
    from ..telemetry import Metrics

    return Rpc(session.transport, session.names, session.clock, Metrics(process=False))


def nobody_answers(module: str, found: Sequence[ServiceInfo], namespace: str) -> str:
    """What to say of a module that is not there."""
    known = sorted({info.name for info in found if _is_of(info, namespace)})
    there = f"these do: {', '.join(known)}" if known else "and no other does"
    return f"no module or service {module!r} answers in namespace {namespace!r}; {there}"


# -- from answers to rows
def _is_of(info: ServiceInfo, namespace: str) -> bool:
    """Whether it is of the namespace (any, for an empty one); services of other programs have none."""
    own = (info.metadata or {}).get("namespace", "")
    return not own or not namespace or own == namespace


def to_rows(found: Sequence[ServiceInfo], namespace: str) -> list[ModuleRow]:
    groups: dict[tuple[str, str], list[ServiceInfo]] = {}
    for info in found:
        if _is_of(info, namespace):
            groups.setdefault(((info.metadata or {}).get("namespace", ""), info.name), []).append(info)
    return [_row(groups[key]) for key in sorted(groups)]


def _internal(endpoint: EndpointInfo) -> bool:
    """Whether it is jetloom's own, for `jetloom dlq replay` and the like."""
    return (endpoint.metadata or {}).get("jetloom.internal") == "true"


def _row(instances: Sequence[ServiceInfo]) -> ModuleRow:
    # Two versions side by side may serve different things: what any of them serves is served.
    lists = {name: _merged(instances, f"jetloom.{name}") for name in _LISTS}
    namespace = (instances[0].metadata or {}).get("namespace", "")
    return ModuleRow(
        module=instances[0].name,
        kind="module" if namespace else "service",
        instances=len(instances),
        versions=sorted({info.version for info in instances}),
        namespace=namespace,
        description=next((info.description for info in instances if info.description), ""),
        endpoints=sorted(
            {each.name for info in instances for each in info.endpoints or () if not _internal(each)}
        ),
        events=lists["events"],
        steps=lists["steps"],
        schedules=lists["schedules"],
        depends_on=lists["depends_on"],
    )


def _merged(instances: Sequence[ServiceInfo], key: str) -> list[JSON]:
    found: list[JSON] = []
    for info in instances:
        found.extend(each for each in _json_list((info.metadata or {}).get(key, "")) if each not in found)
    return found


def _json_list(text: str) -> list[JSON]:
    """A list in a service's metadata; what is none is shown as it is."""
    if not text:
        return []
    try:
        value: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return [text]
    return cast("list[JSON]", value) if isinstance(value, list) else [cast("JSON", value)]


def to_view(found: Sequence[ServiceInfo], figures: Sequence[ServiceStats], now: float) -> ModuleView:
    by_id = {each.id: each for each in figures}
    instances = [_instance(info, by_id.get(info.id), now) for info in found]
    endpoints: dict[str, EndpointInfo] = {}
    for info in found:
        for endpoint in info.endpoints or ():
            endpoints.setdefault(endpoint.subject or endpoint.name, endpoint)
    counted = [
        point for info in found if (each := by_id.get(info.id)) is not None for point in each.endpoints or ()
    ]
    rows = [_endpoint(each, [one for one in counted if one.name == each.name]) for each in endpoints.values()]
    return ModuleView(_row(found), instances, rows)


def _instance(info: ServiceInfo, stats: ServiceStats | None, now: float) -> InstanceRow:
    from ..messages import from_rfc3339

    if stats is None:
        return InstanceRow(info.id, info.version)
    began = from_rfc3339(stats.started, -1)
    points = stats.endpoints or ()
    return InstanceRow(
        info.id,
        info.version,
        started=stats.started,
        uptime=max(0.0, now - began) if began >= 0 else None,
        requests=sum(each.num_requests for each in points),
        errors=sum(each.num_errors for each in points),
    )


def _endpoint(info: EndpointInfo, figures: Sequence[EndpointFigures]) -> EndpointRow:
    metadata = dict(info.metadata or {})
    requests = sum(each.num_requests for each in figures)
    total = sum(each.processing_time for each in figures)
    return EndpointRow(
        name=info.name,
        subject=info.subject,
        queue_group=info.queue_group,
        request=metadata.pop("request", ""),
        response=metadata.pop("response", ""),
        parts=metadata.pop("jetloom.parts", "") == "true",
        idempotent=metadata.pop("jetloom.idempotent", "") == "true",
        requests=requests,
        errors=sum(each.num_errors for each in figures),
        average_seconds=total / requests / 1e9 if requests else 0.0,
        last_error=next((each.last_error for each in figures if each.last_error), ""),
        metadata=metadata,
    )


# -- what people see
def module_table(rows: Sequence[ModuleRow]) -> RenderableType:
    from rich.text import Text

    from ._render import grid

    if not rows:
        return Text("nobody answers; `jetloom run package.module:Class` serves a module")
    table = grid("MODULE", "KIND", "VERSION", "INSTANCES", "ENDPOINTS", "EVENTS", "STEPS", "DESCRIPTION")
    for row in rows:
        table.add_row(
            Text(row.module),
            row.kind,
            Text(", ".join(row.versions)),
            str(row.instances),
            Text(", ".join(row.endpoints) or "-"),
            Text(", ".join(_name_of(each, "pattern") for each in row.events) or "-"),
            Text(", ".join(_name_of(each, "name") for each in row.steps) or "-"),
            Text(row.description),
        )
    return table


def _name_of(value: JSON, field: str) -> str:
    found = value.get(field) if isinstance(value, dict) else value
    return found if isinstance(found, str) else msgspec.json.encode(value).decode()


def module_view(view: ModuleView) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from ._render import duration, fields, grid

    row = view.module
    head: list[tuple[str, RenderableType]] = [
        (row.kind, Text(row.module, style="bold")),
        ("version", Text(", ".join(row.versions))),
    ]
    if row.description:
        head.append(("description", Text(row.description)))
    if row.depends_on:
        head.append(("depends on", Text(", ".join(_name_of(each, "name") for each in row.depends_on))))
    parts: list[RenderableType] = [fields(head), Text()]
    instances = grid("INSTANCE", "VERSION", "UP", "REQUESTS", "ERRORS")
    for each in view.instances:
        instances.add_row(
            Text(each.id), Text(each.version), duration(each.uptime), str(each.requests), str(each.errors)
        )
    parts.append(instances)
    if view.endpoints:
        table = grid("ENDPOINT", "SUBJECT", "REQUEST", "ANSWER", "REQUESTS", "ERRORS", "AVERAGE")
        for point in view.endpoints:
            table.add_row(
                Text(point.name),
                Text(point.subject),
                Text(point.request or "-"),
                Text(f"{point.response or '-'}{' in parts' if point.parts else ''}"),
                str(point.requests),
                str(point.errors),
                f"{point.average_seconds * 1000:.2f} ms" if point.requests else "-",
            )
        parts += [Text(), table]
        parts += [
            Text(f"{point.name}: last error: {point.last_error}", style="red")
            for point in view.endpoints
            if point.last_error
        ]
    for title, values in (("EVENTS", row.events), ("STEPS", row.steps), ("SCHEDULES", row.schedules)):
        if values:
            parts += [Text(), Text(title, style="dim"), *(Text(f"  {_line(each)}") for each in values)]
    return Group(*parts)


def _line(value: JSON) -> str:
    """A handler as one line: its name, then what else it says of itself."""
    if not isinstance(value, dict):
        return _name_of(value, "name")
    name = value.get("name", "")
    rest = (f"{key}={_name_of(other, key)}" for key, other in value.items() if key != "name")
    return "  ".join([str(name), *rest])
