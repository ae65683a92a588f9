"""JSON Schema: every error with its place, bad schemas by place, nothing fetched."""

from __future__ import annotations

import msgspec
import pytest

from jetloom.errors import ErrorClass, SchemaMismatch
from jetloom.schema import ERRORS_MAX, SchemaInvalid, compile_schema, schema_of
from jetloom.types import JSON


class Item(msgspec.Struct):
    product: str
    quantity: int = 1


class Order(msgspec.Struct):
    id: str
    items: list[Item]


def test_a_mismatch_lists_every_place() -> None:
    """All errors come at once, each with its path in the value."""
    schema = compile_schema(
        {
            "type": "object",
            "required": ["id", "card"],
            "properties": {
                "id": {"type": "string"},
                "items": {"items": {"minLength": 2}},
                "at": {"format": "date-time"},
            },
        }
    )
    schema.validate("the input", {"id": "a", "card": "b"})
    with pytest.raises(SchemaMismatch) as caught:
        schema.validate("the input", {"id": 1, "items": ["ab", "c"], "at": "yesterday"})
    errors = caught.value.fields["errors"]
    assert isinstance(errors, list)
    lines = [str(line) for line in errors]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    assert [line.partition(":")[0] for line in lines] == ["value", "id", "items[1]", "at"]
    assert caught.value.to_info().error_class is ErrorClass.TERMINAL


def test_a_mismatch_has_a_limit() -> None:
    """A thousand errors are not a message of a megabyte."""
    with pytest.raises(SchemaMismatch) as caught:
        compile_schema({"items": {"type": "string"}}).validate("it", [*range(1000)])
    assert f"and {1000 - ERRORS_MAX} more" in caught.value.message


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "strin"}, ("type",)),
        ({"properties": {"a": {"minimum": "x"}}}, ("properties", "a", "minimum")),
        ({"pattern": "("}, ("pattern",)),
        ({"$ref": "#/nowhere"}, ()),
        ({"$ref": "http://127.0.0.1:1/x"}, ()),
        ({"$schema": "no:such"}, ()),
        (3, ()),
    ],
)
def test_a_bad_schema_is_refused_with_its_place(schema: JSON, path: tuple[str, ...]) -> None:
    """What is none, or refers to something outside itself, is found when it is compiled."""
    with pytest.raises(SchemaInvalid) as caught:
        compile_schema(schema)
    assert caught.value.path == path


def test_a_hostile_pattern_ends() -> None:
    """A pattern that backtracks without end gives a mismatch and holds nobody."""
    with pytest.raises(SchemaMismatch):
        compile_schema({"pattern": "^(a+)+(?=b)$"}).validate("it", "a" * 60)


def test_types_have_schemas() -> None:
    """The schema of a struct accepts what its decoder accepts."""
    schema = compile_schema(schema_of(Order))
    schema.validate("it", {"id": "1", "items": [{"product": "x"}]})
    with pytest.raises(SchemaMismatch, match=r"items\[0\]"):
        schema.validate("it", {"id": "1", "items": [{"quantity": 1}]})
    with pytest.raises(SchemaInvalid, match="no JSON Schema"):
        schema_of(object())
