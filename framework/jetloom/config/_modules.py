"""A module's configuration: a struct, filled field by field from the places that may give it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import cast, get_type_hints

import msgspec

from ..errors import ConfigInvalid
from ..types import JSON
from ._secrets import named_secret, typed_secret
from ._settings import Settings
from ._values import convert, from_environment, suggest


class LiveConfig(msgspec.Struct, frozen=True):
    """What the live bucket held when it was read: a value and its revision per module. Only objects are good."""

    bucket: str
    values: dict[str, JSON] = {}
    revisions: dict[str, int] = {}


class Loaded[C](msgspec.Struct, frozen=True):
    """A module's configuration, and where each field that is no default came from (`db.host` for nested ones)."""

    value: C
    sources: dict[str, str]


def load_module_config[C: msgspec.Struct](
    module: str,
    kind: type[C],
    settings: Settings,
    environ: Mapping[str, str] | None = None,
    *,
    live: LiveConfig | None = None,
) -> Loaded[C]:
    """The configuration of one module. Raises `ConfigInvalid` with everything that is wrong."""
    value, reader = _read(module, kind, settings, environ, live)
    if reader.problems:
        raise ConfigInvalid(reader.problems)
    return Loaded(cast("C", value), reader.sources)


def find_config_problems(
    module: str, kind: type[msgspec.Struct], settings: Settings, environ: Mapping[str, str] | None = None
) -> list[str]:
    """What is wrong whatever the live bucket says: everything but what is missing."""
    return _read(module, kind, settings, environ, None, complete=False)[1].problems


def module_prefix(module: str) -> str:
    """What a module's environment variables begin with: `JETLOOM_` and its id in capitals, other signs as `_`."""
    return "JETLOOM_" + "".join(sign if sign.isalnum() else "_" for sign in module.upper())


class Field(msgspec.Struct, frozen=True):
    """A field of a struct or dataclass. `nested` is the struct or dataclass that it holds, or may hold."""

    name: str
    encode_name: str
    kind: object
    nested: type | None
    required: bool
    secret: bool
    default: object = msgspec.NODEFAULT
    default_factory: object = msgspec.NODEFAULT


def fields_of(kind: type) -> list[Field]:
    """Of a struct or dataclass, with the annotations as they were written."""
    info = msgspec.inspect.type_info(kind)
    if not isinstance(info, msgspec.inspect.StructType | msgspec.inspect.DataclassType):
        return []
    hints = (
        {field.name: cast("object", field.type) for field in msgspec.structs.fields(kind)}
        if isinstance(info, msgspec.inspect.StructType)
        else cast("dict[str, object]", get_type_hints(kind, include_extras=True))
    )
    return [
        Field(
            each.name,
            each.encode_name,
            hints[each.name],
            _nested(each.type),
            each.required,
            named_secret(each.name) or typed_secret(each.type),
            cast("object", each.default),
            cast("object", each.default_factory),
        )
        for each in info.fields
    ]


def is_nested(value: object) -> bool:
    """Whether a value is a struct or dataclass, whose fields are settings of their own."""
    return isinstance(value, msgspec.Struct) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


class _Layer(msgspec.Struct, frozen=True):
    """A table and what its fields' places are called; `where + name` is one's."""

    where: str
    table: Mapping[str, object]


class _Reader:
    """Reads one module's struct. It goes on after a problem, so that all of them are known at the end."""

    def __init__(self, module: str, environ: Mapping[str, str], table: str, *, complete: bool = True) -> None:
        self.problems: list[str] = []
        self.sources: dict[str, str] = {}
        self.expected: set[str] = set()
        self._module = module
        self._environ = environ
        self._table = table
        self._complete = complete

    def read(
        self, kind: type, base: object, layers: Sequence[_Layer], prefix: str, path: tuple[str, ...]
    ) -> object:
        """An instance of `kind`; None when there were problems. `layers` go from the strongest to the weakest; what
        none of them has comes from `base`, an instance that its parent has by default."""
        before = len(self.problems)
        fields = fields_of(kind)
        names = {field.name for field in fields}
        values: dict[str, object] = {}
        for field in fields:
            found = self._field(field, base, layers, prefix, path, names)
            if found:
                values[field.name] = found[0]
        known = {field.encode_name for field in fields}
        self.problems.extend(
            f"{layer.where}{name} is no field of {kind.__name__}{suggest(name, known)}"
            for layer in layers
            for name in layer.table
            if name not in known
        )
        missing = any(field.required and field.name not in values for field in fields)
        if missing or len(self.problems) > before:
            return None
        try:
            return cast("object", kind(**values))
        except (ValueError, TypeError) as error:  # the struct's own __post_init__
            self.problems.append(f"{'.'.join((self._module, *path))}: {error}")
            return None

    def _field(
        self,
        field: Field,
        base: object,
        layers: Sequence[_Layer],
        prefix: str,
        path: tuple[str, ...],
        siblings: set[str],
    ) -> tuple[object] | None:
        """The field's value in a tuple; None when it keeps the default, or has a problem."""
        variable = f"{prefix}{field.name.upper()}"
        # A field of that very name reads the variable as itself.
        files = f"{field.name}_file" not in siblings
        self.expected.add(variable)
        if files:
            self.expected.add(f"{variable}_FILE")
        before = len(self.problems)
        text = from_environment(variable, self._environ, self.problems, files=files)
        here = (*path, field.encode_name)
        if field.nested is not None:
            found = self._nested_field(field, field.nested, text, base, layers, variable, here)
        elif text is not None:
            found = (convert(text[0], field.kind, text[1], self.problems, secret=field.secret),)
            self.sources[".".join(here)] = text[1]
        else:
            found = self._from_layers(field, layers, here)
        if found is not None or len(self.problems) > before:
            return found
        if base is not None:
            return (cast("object", getattr(base, field.name)),)
        if field.required and self._complete:
            self.problems.append(
                f"{self._module}.{'.'.join(here)} is required: set {variable} or {'.'.join(here)} in {self._table}"
            )
        return None

    def _from_layers(
        self, field: Field, layers: Sequence[_Layer], here: tuple[str, ...]
    ) -> tuple[object] | None:
        for layer in layers:
            if field.encode_name in layer.table:
                where = f"{layer.where}{field.encode_name}"
                self.sources[".".join(here)] = where
                value = layer.table[field.encode_name]
                return (convert(value, field.kind, where, self.problems, strict=True, secret=field.secret),)
        return None

    def _nested_field(
        self,
        field: Field,
        kind: type,
        text: tuple[str, str] | None,
        base: object,
        layers: Sequence[_Layer],
        variable: str,
        here: tuple[str, ...],
    ) -> tuple[object] | None:
        below: list[_Layer] = []
        given: list[
            tuple[str, str, object]
        ] = []  # the name of the place, what its fields' names follow, the value
        if text is not None:
            try:
                given.append((text[1], f"{text[1]}: ", cast("object", msgspec.json.decode(text[0]))))
            except msgspec.DecodeError:
                self.problems.append(f"{text[1]}: expected a JSON object for {kind.__name__}")
                return None
        for layer in layers:
            if field.encode_name in layer.table:
                where = f"{layer.where}{field.encode_name}"
                given.append((where, f"{where}.", layer.table[field.encode_name]))
        prefix = f"{variable}__"
        named = any(name.startswith(prefix) for name in self._environ)
        for where, inside, value in given:
            if isinstance(value, dict):
                below.append(_Layer(inside, cast("dict[str, object]", value)))
            elif value is None and not below and not named:
                # Explicitly nothing, over whatever weaker places say; refused where the type has no place for it.
                self.sources[".".join(here)] = where
                return (convert(None, field.kind, where, self.problems, strict=True),)
            elif value is None:
                break
            else:
                self.problems.append(f"{where}: expected a table with the fields of {kind.__name__}")
                return None
        inherited = _default(field) if base is None else cast("object", getattr(base, field.name))
        if not below and not named and (inherited is not msgspec.NODEFAULT):
            self._expect(kind, prefix)
            return None
        start = inherited if isinstance(inherited, kind) else None
        return (self.read(kind, start, below, prefix, here),)

    def _expect(self, kind: type, prefix: str) -> None:
        """Names the variables of a table that nobody set, for suggestions."""
        for field in fields_of(kind):
            self.expected.update((f"{prefix}{field.name.upper()}", f"{prefix}{field.name.upper()}_FILE"))


def _default(field: Field) -> object:
    if field.default_factory is not msgspec.NODEFAULT and callable(field.default_factory):
        return field.default_factory()
    return field.default


def _nested(kind: msgspec.inspect.Type) -> type | None:
    match kind:
        case msgspec.inspect.StructType(cls=cls, array_like=False, tag=None):
            return cls
        case msgspec.inspect.DataclassType(cls=cls):
            return cls
        case msgspec.inspect.Metadata(type=inner):
            return _nested(inner)
        case msgspec.inspect.UnionType(types=types):
            # Several structs are told apart by their tag, which only one whole value has.
            inner = [each for each in types if not isinstance(each, msgspec.inspect.NoneType)]
            return _nested(inner[0]) if len(inner) == 1 else None
        case _:
            return None


def _read(
    module: str,
    kind: type,
    settings: Settings,
    environ: Mapping[str, str] | None,
    live: LiveConfig | None,
    *,
    complete: bool = True,
) -> tuple[object, _Reader]:
    environ = os.environ if environ is None else environ
    file = settings.config or "jetloom.toml"
    reader = _Reader(module, environ, f"[modules.{module}] of {file}", complete=complete)
    layers = [_Layer(f"{file}: modules.{module}.", settings.modules.get(module, {}))]
    if live is not None and module in live.values:
        found = live.values[module]
        place = f"bucket {live.bucket}, key {module}"
        if isinstance(found, dict):
            layers.insert(0, _Layer(f"{place}: ", found))
        else:
            reader.problems.append(f"{place}: expected an object with the fields of {kind.__name__}")
    prefix = f"{module_prefix(module)}__"
    value = reader.read(kind, None, layers, prefix, ())
    reader.problems.extend(
        f"{name} is no setting of module {module}{suggest(name, reader.expected)}"
        for name in environ
        if name.startswith(prefix) and name not in reader.expected
    )
    return value, reader
