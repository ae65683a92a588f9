"""`jetloom config …`: what a process would be started with, where each value comes from, and what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from cyclopts import App, Parameter

from ..errors import ConfigInvalid, NatsUnavailable, ServerTooOld
from . import _session
from ._common import Common, Output
from ._emit import print_json, say, show
from ._process import run_command

if TYPE_CHECKING:
    from msgspec import Struct
    from rich.console import RenderableType

    from ..config import ConfigValue, LiveConfig, Loaded, Settings
    from ..runtime import Module

app = App(
    name="config",
    help="Look at settings: values with their sources, the schema, what is wrong.",
    help_format="plaintext",
)

_DEFAULT = Common()
_OUTPUT = Output()


@app.command(name="show")
def show_config(
    targets: tuple[str, ...] = (),
    /,
    *,
    offline: Annotated[bool, Parameter(negative=())] = False,
    common: Common = _DEFAULT,
) -> None:
    """Print every setting of the process and of modules, with its source. Secrets are hidden.

    Exit 2 with every problem when something is wrong.

    For example:

        jetloom config show
        jetloom config show services.orders:Orders --json

    Parameters
    ----------
    targets
        package.module:Class, package.module or @installed, for each module.
    offline
        Don't ask the server for the live bucket.
    """
    from ..config import explain_module, explain_settings

    settings, live, loaded = _read(targets, common, offline=offline)
    process = explain_settings(settings)
    modules = {module: explain_module(each) for module, each in loaded.items() if each is not None}
    answer = {
        "file": settings.config,
        "live": live is not None,
        "process": process,
        "modules": {module: modules.get(module, []) for module in loaded},
    }
    show(common.json, answer, lambda: _table(process, modules))


@app.command(name="check")
def check_config(
    targets: tuple[str, ...] = (),
    /,
    *,
    offline: Annotated[bool, Parameter(negative=())] = False,
    common: Common = _DEFAULT,
) -> None:
    """Check the settings of the process and of modules; exit 2 with every problem at once.

    For example:

        jetloom config check services.orders:Orders --offline

    Parameters
    ----------
    targets
        package.module:Class, package.module or @installed, for each module.
    offline
        Don't ask the server for the live bucket.
    """
    _, live, loaded = _read(targets, common, offline=offline)
    answer = {"ok": True, "live": live is not None, "modules": list(loaded)}
    show(common.json, answer, lambda: f"ok: the process and {len(loaded)} module(s)")


@app.command(name="schema")
def show_schema(targets: tuple[str, ...] = (), /, *, output: Output = _OUTPUT) -> None:
    """Print the JSON Schema of jetloom.toml, with the tables of modules. It is JSON with and without --json.

    For example:

        jetloom config schema services.orders:Orders > jetloom.schema.json

    Parameters
    ----------
    targets
        package.module:Class, package.module or @installed, for each module.
    """
    from ..config import config_schema

    del output  # one form serves people and programs
    modules, problems = _modules(targets)
    if problems:
        raise ConfigInvalid(problems)
    print_json(config_schema({module.id: module.config for module in modules}))


def _read(
    targets: tuple[str, ...], common: Common, *, offline: bool
) -> tuple[Settings, LiveConfig | None, dict[str, Loaded[Struct] | None]]:
    """Settings, the live configuration (None: not read) and each module's. Raises `ConfigInvalid` with everything."""
    from ..config import load_module_config

    settings = _session.load_settings(common)
    modules, problems = _modules(targets)
    live = None if offline else _read_live(common)
    loaded: dict[str, Loaded[Struct] | None] = {}
    for module in modules:
        try:
            kind = module.config
            loaded[module.id] = (
                None if kind is None else load_module_config(module.id, kind, settings, live=live)
            )
        except ConfigInvalid as error:
            problems.extend(cast("list[str]", error.fields["problems"]))
    if problems:
        raise ConfigInvalid(problems)
    return settings, live, loaded


def _modules(targets: tuple[str, ...]) -> tuple[list[type[Module]], list[str]]:
    from ..runtime import try_modules

    look_here()
    return try_modules(targets)


def look_here() -> None:
    """Targets are found from the working folder with every way to start the command: the installed one has its own
    folder first on the import path, `python -m` the working folder."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)


def _read_live(common: Common) -> LiveConfig | None:
    async def main() -> LiveConfig:
        from ..runtime import read_live_config

        async with _session.open_session(common) as session:
            return await read_live_config(session.transport, session.names)

    try:
        return run_command(main)
    except (NatsUnavailable, ServerTooOld) as error:
        say(f"the live bucket was not read: {error.message}")
        return None


def _table(process: list[ConfigValue], modules: dict[str, list[ConfigValue]]) -> RenderableType:
    import json

    from rich.table import Table

    table = Table("setting", "value", "source", box=None, header_style="bold", pad_edge=False)
    for prefix, values in [("", process), *((f"{module}.", values) for module, values in modules.items())]:
        for each in values:
            text = each.value if isinstance(each.value, str) else json.dumps(each.value)
            table.add_row(f"{prefix}{each.name}", text, each.source)
    return table
