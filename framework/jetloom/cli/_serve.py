"""`jetloom dev` and `jetloom run`: processes that serve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..errors import InvalidInput
from . import _session
from ._common import Common, parse_duration
from ._config import look_here
from ._emit import print_json, say
from ._process import run_service, serve

if TYPE_CHECKING:
    from ..app import App

_DEFAULT = Common()

DEV_FOLDER = "workflows"
"""What `jetloom dev` serves when it is told nothing."""


def dev(
    targets: tuple[str, ...] = (),
    /,
    *,
    store: Path | None = None,
    drain: str = "10s",
    common: Common = _DEFAULT,
) -> int:
    """Run everything in this process: a server, the targets, an engine. Prints where to look.

    Without NATS_URL (or --nats) it starts a server of its own on the loopback and
    stops it at the end. Without targets it serves ./workflows, if there is one.
    Ctrl-C drains and leaves nothing running; a second one stops at once.

    For example:

        jetloom dev
        jetloom dev services/workflows services.orders:Orders

    Parameters
    ----------
    targets
        package.module:Class, package.module or @installed for modules; a file or folder of workflows.
    store
        Where the server keeps its streams; otherwise .jetloom in this folder.
    drain
        How long work under way may take to end at the stop.
    """
    if not targets and Path(DEV_FOLDER).is_dir():
        targets = (DEV_FOLDER,)
    return _serve(common, targets, engine=True, embedded=True, store=store, drain=drain)


def run(
    targets: tuple[str, ...] = (),
    /,
    *,
    engine: Annotated[bool, Parameter(negative=())] = False,
    installed: Annotated[bool, Parameter(negative=())] = False,
    drain: str = "10s",
    common: Common = _DEFAULT,
) -> int:
    """Run modules, or an engine with --engine, or both, against a server that runs.

    SIGTERM drains: work under way ends or is handed back, nothing acknowledged is
    lost. A second signal stops at once.

    For example:

        jetloom run services.orders:Orders
        jetloom run services/workflows --engine
        jetloom run services.orders:Orders services/workflows --engine
        jetloom run --installed

    Parameters
    ----------
    targets
        package.module:Class for a module, package.module for all of a Python module's, @name for an
        installed one; a file or folder of workflows, which are registered at start.
    engine
        Serve workflows in this process. Steps of its modules then run without leaving it.
    installed
        Run every module that installed packages name in the entry-point group jetloom.modules.
    drain
        How long work under way may take to end at the stop.
    """
    if installed:
        targets = (*targets, *_installed())
    if not targets and not engine:
        raise InvalidInput(
            "nothing to run: name a module (package.module:Class) or a folder of workflows, or add --engine"
        )
    return _serve(common, targets, engine=engine, embedded=False, store=None, drain=drain)


def _installed() -> list[str]:
    from ..runtime import installed_targets

    found = installed_targets()
    if not found:
        raise InvalidInput(
            "--installed: no installed package has an entry point in the group jetloom.modules"
        )
    return found


def _serve(
    common: Common, targets: tuple[str, ...], *, engine: bool, embedded: bool, store: Path | None, drain: str
) -> int:
    from ..app import App
    from ..lifecycle import settle_memory
    from ..telemetry import setup_logging

    deadline = parse_duration(drain, "--drain")
    look_here()
    settings = _session.load_settings(common)
    # A person watches: text, unless they asked for something.
    watched = embedded or sys.stderr.isatty()
    style = "text" if watched and "log_format" not in settings.sources else settings.log_format
    setup_logging(settings.log_level, style)
    app = App(settings, targets, engine=engine, embedded=embedded, store=store)

    def ready() -> None:
        settle_memory()
        if common.json:
            print_json(app.summary())
        else:
            print("\n".join(describe(app, dev=embedded)), flush=True)

    def draining(signal: str) -> None:
        say(f"{signal}: draining, at most {deadline:g} s; once more stops at once")

    return run_service(lambda: serve(app, deadline=deadline, ready=ready, draining=draining))


def describe(app: App, *, dev: bool) -> list[str]:
    """Where to look, for a person who has just started the process."""
    summary = app.summary()
    lines = [f"jetloom is ready ({summary.seconds:.1f} s)", ""]
    lines.append(f"  nats        {summary.nats_url}{' (own server)' if summary.own_server else ''}")
    lines.append(f"  namespace   {summary.namespace}")
    if summary.engine:
        lines.append("  engine      serves workflows")
    lines.append(f"  workflows   {', '.join(summary.workflows) or 'none registered here'}")
    lines.append(f"  modules     {', '.join(summary.modules) or 'none'}")
    if summary.http_url:
        lines.append(f"  health      {summary.http_url}/readyz   {summary.http_url}/metrics")
    if not dev:
        return lines
    option = f" --nats {summary.nats_url}" if summary.nats_url != _session.DEFAULT_URL else ""
    first = summary.workflows[0] if summary.workflows else "WORKFLOW"
    lines += [
        "",
        "try in another terminal:",
        f"  jetloom start {first} --input JSON --wait{option}",
        f"  jetloom runs list{option}",
        f"  jetloom events tail{option}",
        "",
        "Ctrl-C stops everything.",
    ]
    return lines
