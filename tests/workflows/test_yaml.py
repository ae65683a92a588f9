"""YAML is read as version 1.2 reads it, with every place, and hostile texts are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetloom.types import JSON
from jetloom.workflows import check_text
from jetloom.workflows._finding import Finding
from jetloom.workflows._yaml import read_yaml


def read(text: str) -> tuple[list[JSON], list[Finding]]:
    findings: list[Finding] = []
    return [node.plain() for node in read_yaml(text, "t", findings)], findings


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("No", "No"), ("y", "y"),
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None),
        ("12:30:00", "12:30:00"), ("190:20", "190:20"), ("2026-01-01", "2026-01-01"),
        ("017", "017"), ("0o17", "0o17"), ("0x1F", "0x1F"), ("1_000", "1_000"), ("+1", 1),
        ("1e3", 1000.0), ("1.50", 1.5), (".5", ".5"), ("1.", "1."), ("-0", 0), ("=", "="), ("1.2.3", "1.2.3"),
        ('"1"', "1"), ("'true'", "true"), ("!!str 5", "5"), ("9223372036854775807", 9223372036854775807),
    ],
)  # fmt: skip
def test_a_scalar_is_what_was_written(text: str, value: JSON) -> None:
    """Only true, false, null and JSON's numbers are no text."""
    documents, findings = read(f"v: {text}\n")
    assert findings == []
    assert documents == [{"v": value}]
    assert type(documents[0]["v"]) is type(value)  # pyright: ignore


def test_keys_are_text() -> None:
    """`on:` and `no:` are keys of that name; a number is no key."""
    assert read("on: 1\nno: 2\n") == ([{"on": 1, "no": 2}], [])
    [found] = read("1: 2\n")[1]
    assert found.message == "a key must be text, found 1"


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("a: 1\nb: 2\na: 3\n", "a stands here twice, first on line 1", (3, 1)),
        ("a: !!python/object:os.system x\n", "unknown tag !!python/object:os.system", (1, 4)),
        ("a: !secret x\n", "unknown tag !secret", (1, 4)),
        ("a: !!timestamp 2026-01-01\n", "unknown tag !!timestamp", (1, 4)),
        ("a: &x {b: *x}\n", "it contains this alias", (1, 11)),
        ("a: *missing\n", "there is no anchor &missing", (1, 4)),
        ("a: {<<: {b: 1}}\n", "merge keys", (1, 5)),
        ("a: 1e999\n", "beyond what a number can be", (1, 4)),
        ("a: .nan\n", "no number of JSON", (1, 4)),
        ("a: 99999999999999999999\n", "beyond 64 bits", (1, 4)),
        ("a: [1\n", "no YAML", (2, 1)),
        ("a: 'b\n", "no YAML", None),
        ("\ta: 1\n", "no YAML", (1, 1)),
        ("[" * 100 + "]" * 100, "within each other", (1, 65)),
    ],
)
def test_what_is_no_plain_data_is_a_finding(text: str, message: str, place: tuple[int, int] | None) -> None:
    """With its line and column."""
    found = read(text)[1]
    assert message in found[0].message
    assert place is None or (found[0].line, found[0].column) == place


def test_an_alias_repeats_a_value() -> None:
    """Aliases are fine as long as they don't multiply."""
    assert read("a: &x {b: 1}\nc: *x\n") == ([{"a": {"b": 1}, "c": {"b": 1}}], [])


def test_aliases_that_multiply_are_refused() -> None:
    """A bomb of nested aliases is one finding, and costs nothing."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    found = read("\n".join(lines))[1]
    assert [finding.message for finding in found] == ["aliases repeat more than 10000 values"]


def test_a_text_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond any definition's need is not parsed."""
    monkeypatch.setattr("jetloom.workflows._yaml.TEXT_CHARACTERS_MAX", 10)
    assert "the limit is 10" in read("a: 12345678901")[1][0].message


def test_nodes_know_their_place() -> None:
    """Values and keys have lines and columns, and a quoted text knows where its first character stands."""
    findings: list[Finding] = []
    [root] = read_yaml('a:\n  - "text"\n  - {b: c}\n', "t", findings)
    assert isinstance(root.value, dict)
    listed = root.value["a"]
    assert isinstance(listed.value, list)
    text, inner = listed.value
    assert (text.line, text.column, text.base) == (2, 5, 6)
    assert inner.keys == {"b": (3, 6)}


@given(st.text(max_size=200) | st.text("{}[]&*!|>-:#?,'\"% \n\tab01", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text raises, and every finding points into it."""
    checked = check_text(text, "t")
    assert bool(checked.definitions) or checked.findings
    lines = (
        text.count("\n")
        + text.count("\r")
        + text.count("\u0085")
        + text.count("\u2028")
        + text.count("\u2029")
    )
    assert all(1 <= finding.line <= lines + 2 and finding.column >= 1 for finding in checked.findings)
