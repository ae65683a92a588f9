"""Typed settings: of the process, and of each module.

The environment wins over the file, the file over the defaults. Everything is read before anything is judged, so that a
`ConfigInvalid` names every problem at once, each with the place it came from. Values of secrets are never repeated.

    NATS_URL NATS_CREDS NATS_NKEY NATS_CONTEXT             [nats] url creds nkey context
    JETLOOM_NAMESPACE _SHARDS _PROFILE _HTTP_PORT …        namespace, shards, profile, http_port, http_host, log_level…
    JETLOOM_CONFIG                                          the file, else jetloom.toml in the working folder
    JETLOOM_<MODULE>__<FIELD>, …_FILE for secrets           [modules.<id>] field
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, cast

import msgspec

from .errors import ConfigInvalid
from .types import JSON

FILE_BYTES_MAX = 1 << 20
"""Of a configuration file, and of a secret's file."""

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
        for name in ("namespace", "shards", "profile", "http_port", "http_host", "log_level", "log_format")
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
            values[name] = _convert(text, types[name], variable, problems)
            sources[name] = variable
        elif name in given:
            where = f"{path}: {name}"
            values[name] = _convert(given[name], types[name], where, problems, strict=True)
            sources[name] = where
    problems.extend(_unknown_settings(environ, modules))
    if problems:
        raise ConfigInvalid(problems)
    values.update(config=str(path or ""), modules=modules, sources=sources)
    return msgspec.convert(values, Settings)


class Loaded[C](msgspec.Struct, frozen=True):
    """A module's configuration, and where each field that is no default came from."""

    value: C
    sources: dict[str, str]


def load_module_config[C: msgspec.Struct](
    module: str, kind: type[C], settings: Settings, environ: Mapping[str, str] | None = None
) -> Loaded[C]:
    """The configuration of one module. Raises `ConfigInvalid` with everything that is wrong."""
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    table = settings.modules.get(module, {})
    prefix = f"{module_prefix(module)}__"
    file = settings.config or "jetloom.toml"
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    expected: set[str] = set()
    for field in msgspec.structs.fields(kind):
        variable = f"{prefix}{field.name.upper()}"
        expected.update((variable, f"{variable}_FILE"))
        found = _from_environment(variable, environ, problems)
        if found is not None:
            text, where = found
            values[field.name] = _convert(text, cast("object", field.type), where, problems)
            sources[field.name] = where
        elif field.encode_name in table:
            where = f"{file}: modules.{module}.{field.encode_name}"
            values[field.name] = _convert(
                table[field.encode_name], cast("object", field.type), where, problems, strict=True
            )
            sources[field.name] = where
        elif field.required:
            problems.append(
                f"{module}.{field.encode_name} is required: set {variable} or {field.encode_name} in "
                f"[modules.{module}] of {file}"
            )
    known = {field.encode_name for field in msgspec.structs.fields(kind)}
    problems.extend(
        f"{file}: modules.{module}.{name} is no field of {kind.__name__}{_suggest(name, known)}"
        for name in table
        if name not in known
    )
    problems.extend(
        f"{name} is no setting of module {module}{_suggest(name, expected)}"
        for name in environ
        if name.startswith(prefix) and name not in expected
    )
    if problems:
        raise ConfigInvalid(problems)
    try:
        return Loaded(kind(**values), sources)
    except (ValueError, TypeError) as error:
        raise ConfigInvalid([f"{module}: {error}"]) from error


def module_prefix(module: str) -> str:
    """What a module's environment variables begin with: `JETLOOM_` and its id in capitals, other signs as `_`."""
    return "JETLOOM_" + "".join(sign if sign.isalnum() else "_" for sign in module.upper())


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
    problems.extend(
        f"{path}: {name.replace('nats_', 'nats.', 1)} is no setting{_suggest(name, set(_ENVIRONMENT))}"
        for name in given
        if name not in _ENVIRONMENT
    )
    return given


def _unknown_settings(environ: Mapping[str, str], modules: Mapping[str, object]) -> list[str]:
    # JETLOOM_<MODULE>__FIELD belongs to a module, which judges it when it is loaded.
    known = {*_ENVIRONMENT.values(), "JETLOOM_CONFIG"}
    return [
        f"{name} is no setting{_suggest(name, known)}"
        for name in environ
        if name.startswith("JETLOOM_")
        and "__" not in name
        and name not in known
        and difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    ]


def _from_environment(
    variable: str, environ: Mapping[str, str], problems: list[str]
) -> tuple[str, str] | None:
    direct, named = environ.get(variable), environ.get(f"{variable}_FILE")
    if direct is not None and named is not None:
        problems.append(f"{variable} and {variable}_FILE are both set: keep one")
        return None
    if direct is not None:
        return direct, variable
    if named is None:
        return None
    path = Path(named)
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            problems.append(f"{variable}_FILE: {path} is larger than {FILE_BYTES_MAX} bytes")
            return None
        return path.read_text(encoding="utf-8").rstrip("\r\n"), f"{variable}_FILE"
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{variable}_FILE: can't read {path}: {type(error).__name__}")
        return None


def _convert(value: object, kind: object, where: str, problems: list[str], *, strict: bool = False) -> object:
    """`value` as `kind`; text from the environment may also be JSON, for lists and tables."""
    try:
        return cast("object", msgspec.convert(value, kind, strict=strict))
    except msgspec.ValidationError as error:
        problem = f"{where}: {error}"
    if isinstance(value, str) and not strict and value[:1] in ("[", "{"):
        try:
            return cast("object", msgspec.json.decode(value, type=kind))
        except msgspec.MsgspecError as error:
            problem = f"{where}: {error}"
    problems.append(problem)
    return None


def _suggest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
