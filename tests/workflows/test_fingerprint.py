"""Equal contents have equal fingerprints, different contents different ones."""

from __future__ import annotations

import random
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetloom.types import JSON
from jetloom.workflows import Definition, Emit, Retry, Saga, Step, Wait, fingerprint, load_text

NAMES = st.text("ab-_", min_size=1, max_size=3)
VALUES: st.SearchStrategy[JSON] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
RETRIES = st.builds(Retry, max=st.integers(0, 5), initial=st.floats(0, 9), jitter=st.floats(0, 1))
STEPS = st.lists(
    st.builds(
        Step,
        id=NAMES,
        uses=st.none() | NAMES,
        depends_on=st.lists(NAMES, unique=True, max_size=3).map(tuple),
        with_=st.none() | st.dictionaries(NAMES, VALUES, max_size=2),
        retry=RETRIES,
        saga=st.none() | st.builds(Saga, NAMES, retry=RETRIES),
        emit=st.lists(st.builds(Emit, NAMES, VALUES, st.none() | NAMES), max_size=2).map(tuple),
    ),
    max_size=4,
    unique_by=lambda step: step.id,
).map(tuple)
DEFINITIONS = st.builds(
    Definition,
    id=NAMES,
    steps=STEPS,
    name=NAMES,
    labels=st.dictionaries(NAMES, NAMES, max_size=3),
    output=VALUES,
)


def through_json(definition: Definition) -> Definition:
    return msgspec.json.decode(msgspec.json.encode(definition), type=Definition)


@given(DEFINITIONS)
def test_storing_it_changes_nothing(definition: Definition) -> None:
    """What the bucket gives back has the fingerprint under which it is stored."""
    assert fingerprint(through_json(definition)) == fingerprint(definition)


@given(DEFINITIONS, st.integers(0, 99))
def test_order_without_meaning_does_not_count(definition: Definition, seed: int) -> None:
    """Steps, dependencies, labels and keys may stand in any order."""
    shuffle = random.Random(seed).sample
    steps = [
        msgspec.structs.replace(step, depends_on=tuple(shuffle(step.depends_on, len(step.depends_on))))
        for step in shuffle(definition.steps, len(definition.steps))
    ]
    labels = dict(shuffle(list(definition.labels.items()), len(definition.labels)))
    shuffled = msgspec.structs.replace(definition, steps=tuple(steps), labels=labels)
    assert fingerprint(shuffled) == fingerprint(definition)


@given(DEFINITIONS, DEFINITIONS)
def test_only_equal_contents_are_equal(one: Definition, other: Definition) -> None:
    """Two definitions share a fingerprint exactly when they are the same but for that order."""
    assert (fingerprint(one) == fingerprint(other)) == (sorted_form(one) == sorted_form(other))


def sorted_form(definition: Definition) -> bytes:
    steps = sorted(
        (
            msgspec.structs.replace(step, depends_on=tuple(sorted(step.depends_on)))
            for step in definition.steps
        ),
        key=lambda step: step.id,
    )
    return msgspec.json.encode(msgspec.structs.replace(definition, steps=tuple(steps)), order="deterministic")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Definition("a", (), name="ab", description="c"), Definition("a", (), name="a", description="bc")),
        (Definition("a", (), labels={"ab": "c"}), Definition("a", (), labels={"a": "bc"})),
        (Definition("a", (), output=["ab", "c"]), Definition("a", (), output=["a", "bc"])),
        (Definition("a", (), output=[["a"], "b"]), Definition("a", (), output=[["a", "b"]])),
        (Definition("a", (), output="1"), Definition("a", (), output=1)),
        (Definition("a", (), output=True), Definition("a", (), output=1)),
        (Definition("a", (), output=[]), Definition("a", (), output={})),
        (Definition("a", (), output=[None]), Definition("a", (), output=[])),
        (Definition("a", (Step("b", uses="x@1"),)), Definition("a", (Step("b", uses="x@2"),))),
        (
            Definition("a", (Step("b", emit=(Emit("x.y"), Emit("x.z"))),)),
            Definition("a", (Step("b", emit=(Emit("x.z"), Emit("x.y"))),)),
        ),
        (
            Definition("a", (Step("b", depends_on=("ab", "c")),)),
            Definition("a", (Step("b", depends_on=("a", "bc")),)),
        ),
    ],
)
def test_parts_do_not_run_into_each_other(one: Definition, other: Definition) -> None:
    """ "ab" and "c" are not "a" and "bc", a text is no number, and the order of events counts."""
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    "steps",
    [
        "[{id: a, uses: x.y}]",
        "[{id: a, uses: x.y, retry: {}}]",
        "[{id: a, uses: x.y, max_retries: 3}]",
        "[{id: a, uses: x.y, retry: {max: 3, initial: 1000ms, max_delay: 1m, backoff: exponential}}]",
        "[{id: a, uses: x.y, on_error: fail, depends_on: [], emit: [], when: null}]",
    ],
)
def test_a_default_may_be_written_out(steps: str) -> None:
    """A field that has its default counts as absent, however it came there."""
    [found] = load_text(f"id: f\nsteps: {steps}\n")
    assert fingerprint(found) == fingerprint(Definition("f", (Step("a", uses="x.y"),)))


def test_seconds_are_numbers() -> None:
    """30 and 30.0 are one timeout."""
    one = Definition("f", (Step("a", timeout=30, wait=Wait("m", timeout=5)),), timeout=60)
    other = Definition("f", (Step("a", timeout=30.0, wait=Wait("m", timeout=5.0)),), timeout=60.0)
    assert fingerprint(one) == fingerprint(other)


def test_every_process_agrees() -> None:
    """The fingerprint depends on no hash seed."""
    code = (
        "from jetloom.workflows import Definition, Step, fingerprint;"
        "steps = (Step('a', depends_on=('b', 'c')), Step('b'), Step('c'));"
        "print(fingerprint(Definition('f', steps, labels={'x': '1', 'y': '2'})))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
