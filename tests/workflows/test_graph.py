"""The graph of steps: order, neighbours, cycles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetloom.errors import DefinitionInvalid
from jetloom.workflows import Definition, Graph, Step
from jetloom.workflows._graph import find_cycles, find_unreached, sort_steps

EDGES = st.dictionaries(
    st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), unique=True, max_size=3), max_size=6
).map(
    lambda edges: {
        step: [other for other in needed if other in edges and other != step]
        for step, needed in edges.items()
    }
)


def graph(**depends_on: str) -> Graph:
    return Graph(
        Definition("f", tuple(Step(name, depends_on=tuple(needed)) for name, needed in depends_on.items()))
    )


def test_order_and_neighbours() -> None:
    """A step stands behind what it depends on."""
    found = graph(d="bc", b="a", c="a", a="")
    assert found.order == ("a", "b", "c", "d")
    assert found.roots == ("a",)
    assert found.sinks == ("d",)
    assert found.dependents["a"] == ("b", "c")
    assert found.ancestors("d") == {"a", "b", "c"}
    assert found.descendants("b") == {"d"}


def test_what_is_no_graph_is_refused() -> None:
    """Unknown, repeated and own dependencies, and cycles, by name."""
    for steps, message in (
        ({"a": "b"}, "b, which is no step"),
        ({"a": "a"}, "depends on itself"),
        ({"a": "b", "b": "a"}, "a → b → a"),
    ):
        with pytest.raises(DefinitionInvalid, match=message):
            graph(**steps)


@given(EDGES)
def test_every_step_is_sorted_or_blocked_by_a_cycle(edges: dict[str, list[str]]) -> None:
    """Sorted steps stand behind their dependencies; the others have a real cycle among them."""
    order, left = sort_steps(edges)
    assert sorted([*order, *left]) == sorted(edges)
    for index, step in enumerate(order):
        assert set(edges[step]) <= set(order[:index])
    cycles = find_cycles(edges, left)
    assert bool(cycles) == bool(left)
    for cycle in cycles:
        for step, other in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            assert other in edges[step]


@given(EDGES)
def test_reaching_agrees_with_walking(edges: dict[str, list[str]]) -> None:
    """A step reaches exactly what lies behind it."""
    order, left = sort_steps(edges)
    if left:
        return
    behind: dict[str, set[str]] = {}
    for step in order:
        behind[step] = set(edges[step]).union(*(behind[other] for other in edges[step]))
    pairs = [(step, other) for step in edges for other in edges if step != other]
    assert find_unreached(edges, pairs) == {
        (step, other) for step, other in pairs if other not in behind[step]
    }


def test_a_long_chain_is_no_problem() -> None:
    """Nothing recurses: a hundred thousand steps in a row have an order, and a cycle of them is found."""
    edges = {f"s{n}": [f"s{n - 1}"] if n else [] for n in range(100_000)}
    assert len(sort_steps(edges)[0]) == 100_000
    edges["s0"] = ["s99999"]
    [cycle] = find_cycles(edges, edges)
    assert len(cycle) == 100_000
