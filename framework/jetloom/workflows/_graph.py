"""The graph of a definition's steps. Everything here is linear in steps and dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..errors import DefinitionInvalid
from ._model import Definition

type Edges = Mapping[str, Sequence[str]]
"""What each step depends on."""


class Graph:
    """Order and neighbours of the steps. `order` puts every step behind what it depends on, and is otherwise theirs."""

    __slots__ = ("_depends_on", "dependents", "order", "roots", "sinks", "waiting")

    def __init__(self, definition: Definition) -> None:
        """Raises `DefinitionInvalid` for steps that form no graph: a repeated id, an unknown dependency, a cycle."""
        self._depends_on = {step.id: step.depends_on for step in definition.steps}
        problems = _problems(definition, self._depends_on)
        if problems:
            raise DefinitionInvalid(f"workflow {definition.id}", problems)
        self.dependents = invert(self._depends_on)
        """Steps that wait for each step; steps that nobody waits for are not in it."""
        order, left = sort_steps(self._depends_on)
        if left:
            cycles = find_cycles(self._depends_on, left)
            raise DefinitionInvalid(
                f"workflow {definition.id}",
                [f"steps depend on each other: {show_cycle(cycle)}" for cycle in cycles],
            )
        self.order = tuple(order)
        self.waiting = {step: len(needed) for step, needed in self._depends_on.items()}
        """How many others each step waits for."""
        self.roots = tuple(step for step, needed in self._depends_on.items() if not needed)
        self.sinks = tuple(step for step in self._depends_on if step not in self.dependents)

    def ancestors(self, step: str) -> frozenset[str]:
        """Every step that it depends on, directly or not."""
        return frozenset(_reach(step, self._depends_on))

    def descendants(self, step: str) -> frozenset[str]:
        """Every step that depends on it, directly or not."""
        return frozenset(_reach(step, self.dependents))


def _problems(definition: Definition, depends_on: Edges) -> list[str]:
    problems: list[str] = []
    if len(depends_on) != len(definition.steps):
        seen: set[str] = set()
        for step in definition.steps:
            if step.id in seen:
                problems.append(f"step {step.id} stands there twice")
            seen.add(step.id)
    for step in definition.steps:
        if len(set(step.depends_on)) != len(step.depends_on):
            problems.append(f"step {step.id} names a dependency twice")
        problems += [
            f"step {step.id} depends on {other}, which is no step"
            if other != step.id
            else f"step {step.id} depends on itself"
            for other in step.depends_on
            if other not in depends_on or other == step.id
        ]
    return problems


def invert(edges: Edges) -> dict[str, tuple[str, ...]]:
    """Who depends on each step."""
    found: dict[str, list[str]] = {}
    for step, needed in edges.items():
        for other in needed:
            found.setdefault(other, []).append(step)
    return {step: tuple(others) for step, others in found.items()}


def sort_steps(edges: Edges) -> tuple[list[str], list[str]]:
    """The steps in an order in which they can run, and those that never can: in a cycle, or behind one."""
    missing = {step: len(needed) for step, needed in edges.items()}
    dependents = invert(edges)
    order = [step for step, count in missing.items() if count == 0]
    for step in order:  # grows while it is walked
        for dependent in dependents.get(step, ()):
            missing[dependent] -= 1
            if missing[dependent] == 0:
                order.append(dependent)
    return order, [step for step, count in missing.items() if count > 0]


def find_cycles(edges: Edges, among: Iterable[str]) -> list[list[str]]:
    """One cycle of each group of steps that depend on each other, each step before what waits for it."""
    cycles: list[list[str]] = []
    for group in _components(edges, among):
        if len(group) > 1:
            cycles.append(_cycle_in(edges, group))
    return cycles


def show_cycle(cycle: Sequence[str]) -> str:
    """`a → b → a`, read as: a waits for b, which waits for a."""
    return " → ".join([*cycle, cycle[0]])


def find_unreached(edges: Edges, pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of (step, other) pairs, those in which `step` doesn't depend on `other`, neither directly nor by others."""
    wanted: dict[str, set[str]] = {}
    for step, other in pairs:
        if other not in edges.get(step, ()):
            wanted.setdefault(other, set()).add(step)
    if not wanted:
        return set()
    dependents = invert(edges)
    order, left = sort_steps(edges)
    rank = {step: index for index, step in enumerate([*order, *left])}
    unreached: set[tuple[str, str]] = set()
    for other, steps in wanted.items():
        # Nothing behind the last asker matters, so a reference to a near step looks at near steps only.
        last = max(rank[step] for step in steps) if not left else len(rank)
        reached = _reach(other, dependents, rank, last)
        unreached |= {(step, other) for step in steps if step not in reached}
    return unreached


def _reach(start: str, edges: Edges, rank: Mapping[str, int] | None = None, last: int = 0) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        for other in edges.get(waiting.pop(), ()):
            if other not in reached and (rank is None or rank[other] <= last):
                reached.add(other)
                waiting.append(other)
    return reached


def _components(edges: Edges, among: Iterable[str]) -> list[list[str]]:
    """Groups of steps that reach each other (Tarjan 1972), without recursion: a chain may be 100,000 long."""
    inside = dict.fromkeys(among)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()
    groups: list[list[str]] = []
    for start in inside:
        if start in index:
            continue
        index[start] = low[start] = len(index)
        path.append(start)
        on_path.add(start)
        work = [(start, iter(edges[start]))]
        while work:
            step, rest = work[-1]
            other = next((item for item in rest if item in inside), None)
            if other is not None:
                if other not in index:
                    index[other] = low[other] = len(index)
                    path.append(other)
                    on_path.add(other)
                    work.append((other, iter(edges[other])))
                elif other in on_path:
                    low[step] = min(low[step], index[other])
                continue
            work.pop()
            if work:
                low[work[-1][0]] = min(low[work[-1][0]], low[step])
            if low[step] == index[step]:
                cut = path.index(step) if path[-1] != step else len(path) - 1
                groups.append(path[cut:])
                on_path.difference_update(path[cut:])
                del path[cut:]
    return groups


def _cycle_in(edges: Edges, group: Sequence[str]) -> list[str]:
    """A shortest cycle through the first step of a group."""
    inside = set(group)
    start = min(group)
    before: dict[str, str] = {}
    waiting = [start]
    for step in waiting:  # grows while it is walked
        for other in edges[step]:
            if other == start:
                cycle = [step]
                while cycle[-1] != start:
                    cycle.append(before[cycle[-1]])
                return cycle[::-1]
            if other in inside and other not in before:
                before[other] = step
                waiting.append(other)
    return [start]
