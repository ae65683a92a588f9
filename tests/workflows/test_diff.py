"""What two versions differ in."""

from __future__ import annotations

from jetloom.workflows import Definition, Retry, Step, diff, load_text


def test_differences_are_named() -> None:
    """A line for each place."""
    [before] = load_text(
        "id: f\nlabels: {team: a}\nsteps:\n  - {id: a, uses: x.a}\n"
        "  - {id: b, uses: x.b, depends_on: [a], retry: {max: 5}, with: {l: [1, 2]}}\n  - {id: c, uses: x.c}\n"
    )
    [after] = load_text(
        "id: f\nversion: '2'\nsteps:\n  - {id: d, uses: x.d}\n  - {id: a, uses: x.a@2}\n"
        "  - {id: b, uses: x.b, depends_on: [d, a], retry: {max: 9}, with: {l: [1]}}\n"
    )
    assert sorted(diff(before, after)) == [
        "labels: removed",
        'steps.a.uses: "x.a" → "x.a@2"',
        "steps.b.depends_on.d: added",
        "steps.b.retry.max: 5 → 9",
        "steps.b.with.l[1]: removed (2)",
        "steps.c: removed",
        "steps.d: added",
        'version: added ("2")',
    ]


def test_the_same_has_no_differences() -> None:
    """Order and defaults that are written out are none."""
    one = Definition("f", (Step("a", uses="x.a"), Step("b", depends_on=("a", "c")), Step("c")))
    other = Definition(
        "f", (Step("c", retry=Retry(max=3)), Step("b", depends_on=("c", "a")), Step("a", uses="x.a"))
    )
    assert diff(one, other) == []
