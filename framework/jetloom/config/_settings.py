"""How a process runs: environment, `jetloom.toml`, defaults."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast

import msgspec

from ..errors import ConfigInvalid
from ..types import JSON
from ._values import FILE_BYTES_MAX, convert, suggest

type Profile = Literal["dev", "single", "single-sync", "replicated"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How this process runs. `sources` says where each value that is no default came from."""

    nats_url: str = ""
    nats_creds: str = ""
    nats_nkey: str = ""
    nats_context: str = ""
    namespace: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,32}$")] = "jetloom"
    shards: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    profile: Profile = "dev"
    http_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    http_host: str = ""
    """Where metrics and health are served; empty: on every address, with a server of its own on this machine only."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "text"] = "json"
    hot_path: Literal["on", "off"] = "on"
    """`off` sends and receives through nats-py as it is: to compare with, and to fall back on."""
    config: str = ""
    modules: dict[str, dict[str, JSON]] = {}
    sources: dict[str, str] = {}

    @property
    def replicas(self) -> int:
        """How many copies the profile asks of every asset."""
        return 3 if self.profile == "replicated" else 1


_ENVIRONMENT = {
    "nats_url": "NATS_URL",
    "nats_creds": "NATS_CREDS",
    "nats_nkey": "NATS_NKEY",
    "nats_context": "NATS_CONTEXT",
    **{
        name: f"JETLOOM_{name.upper()}"
        for name in (
            "namespace",
            "shards",
            "profile",
            "http_port",
            "http_host",
            "log_level",
            "log_format",
            "hot_path",
        )
    },
}


def load_settings(environ: Mapping[str, str] | None = None, *, folder: Path | None = None) -> Settings:
    """Reads environment and file. Raises `ConfigInvalid` with everything that is wrong."""
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    path, table = _read_file(environ, folder if folder is not None else Path.cwd(), problems)
    modules = _modules(table.pop("modules", {}), path, problems)
    given = _flattened(table, path, problems)
    types = {field.name: cast("object", field.type) for field in msgspec.structs.fields(Settings)}
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for name, variable in _ENVIRONMENT.items():
        text = environ.get(variable)
        if text is not None and text != "":
            text = text.upper() if name == "log_level" else text
            values[name] = convert(text, types[name], variable, problems)
            sources[name] = variable
        elif name in given:
            where = f"{path}: {name}"
            values[name] = convert(given[name], types[name], where, problems, strict=True)
            sources[name] = where
    problems.extend(_unknown_settings(environ, modules))
    if problems:
        raise ConfigInvalid(problems)
    values.update(config=str(path or ""), modules=modules, sources=sources)
    return msgspec.convert(values, Settings)


def _read_file(
    environ: Mapping[str, str], folder: Path, problems: list[str]
) -> tuple[Path | None, dict[str, object]]:
    named = environ.get("JETLOOM_CONFIG", "")
    path = folder / named if named else folder / "jetloom.toml"
    if not path.is_file():
        if named:
            problems.append(f"JETLOOM_CONFIG: there is no file {path}")
        return None, {}
    if path.stat().st_size > FILE_BYTES_MAX:
        problems.append(f"{path}: larger than {FILE_BYTES_MAX} bytes")
        return path, {}
    try:
        return path, cast("dict[str, object]", tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path}: no TOML: {error}")
        return path, {}


def _modules(table: object, path: Path | None, problems: list[str]) -> dict[str, dict[str, JSON]]:
    try:
        return msgspec.convert(table, dict[str, dict[str, JSON]])
    except msgspec.ValidationError as error:
        problems.append(f"{path}: modules: {error}; expected a table [modules.<id>] for each")
        return {}


def _flattened(table: dict[str, object], path: Path | None, problems: list[str]) -> dict[str, object]:
    """The file's settings by the names of `Settings`, `[nats] url` as `nats_url`."""
    given: dict[str, object] = {}
    nats = table.pop("nats", {})
    if isinstance(nats, dict):
        given.update({f"nats_{name}": value for name, value in cast("dict[str, object]", nats).items()})
    else:
        problems.append(f"{path}: nats must be a table")
    given.update(table)
    known = {name.replace("nats_", "nats.", 1) for name in _ENVIRONMENT}
    spoken = (name.replace("nats_", "nats.", 1) for name in given)
    problems.extend(
        f"{path}: {name} is no setting{suggest(name, known)}" for name in spoken if name not in known
    )
    return given


def _unknown_settings(environ: Mapping[str, str], modules: Mapping[str, object]) -> list[str]:
    # JETLOOM_<MODULE>__FIELD belongs to a module, which judges it when it is loaded.
    known = {*_ENVIRONMENT.values(), "JETLOOM_CONFIG"}
    return [
        f"{name} is no setting{suggest(name, known)}"
        for name in environ
        if name.startswith("JETLOOM_")
        and "__" not in name
        and name not in known
        and difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    ]
