"""Small random definitions: chains, diamonds, fan-outs; steps that fail, wait, emit, and are undone."""

from __future__ import annotations

from random import Random

from jetloom.types import JSON
from jetloom.workflows import Definition, Emit, Retry, Saga, Step, Wait

LOCAL = ("l0", "l1")
REMOTE = ("r0", "r1")
HANDLERS = (*LOCAL, *REMOTE)


def make_definition(draw: Random, name: str) -> Definition:
    """A definition that ends whatever happens, once its messages come."""
    count = draw.choice((1, 2, 2, 3, 3, 4, 4, 5, 6))
    edges = _edges(draw, count)
    remote = draw.choice((0.0, 0.25, 0.5, 1.0))
    sagas = draw.choice((0.0, 0.0, 0.6, 1.0))
    trouble = draw.choice((0.0, 0.2, 0.5))
    waits = draw.choice((0.0, 0.15, 0.35))
    steps = tuple(
        _step(draw, f"s{index}", tuple(f"s{one}" for one in edges[index]), remote, sagas, trouble, waits)
        for index in range(count)
    )
    return Definition(
        id=name,
        steps=steps,
        timeout=draw.choice((None, None, None, None, 3.0, 9.0)),
        on_cancel=draw.choice(("compensate", "compensate", "stop")),
        events=draw.choice(("none", "none", "none", "lifecycle")),
    )


def _edges(draw: Random, count: int) -> list[list[int]]:
    shape = draw.choice(("chain", "fan", "diamond", "any"))
    edges: list[list[int]] = []
    for index in range(count):
        if index == 0:
            edges.append([])
        elif shape == "chain":
            edges.append([index - 1])
        elif shape == "fan":
            edges.append([0] if draw.random() < 0.7 else [])
        elif shape == "diamond":
            edges.append(list(range(1, index)) if index == count - 1 and count > 2 else [0])
        else:
            edges.append(sorted(draw.sample(range(index), draw.randint(0, min(index, 2)))))
    return edges


def _step(
    draw: Random,
    step_id: str,
    after: tuple[str, ...],
    remote: float,
    sagas: float,
    trouble: float,
    waits: float,
) -> Step:
    if draw.random() < waits:
        return Step(step_id, depends_on=after, wait=_wait(draw, step_id))
    if draw.random() < 0.06:
        return Step(step_id, depends_on=after, emit=(Emit("sim.declared.happened", {"step": step_id}),))
    plan = _plan(draw, trouble)
    saga = None
    if draw.random() < sagas:
        uses = draw.choice(REMOTE if draw.random() < remote else LOCAL)
        saga = Saga(uses, is_critical=draw.random() < 0.3, retry=_retry(draw))
        failures: list[JSON] = ["retry"] * draw.choice((0, 0, 0, 1, 2, 4))
        plan["u"] = failures
    return Step(
        step_id,
        depends_on=after,
        uses=draw.choice(REMOTE if draw.random() < remote else LOCAL),
        with_=plan,
        retry=_retry(draw),
        timeout=draw.choice((None, None, None, 1.5, 7.0)),
        on_error=draw.choice(("fail", "fail", "skip")),
        saga=saga,
        emit=(Emit("sim.declared.happened", {"step": step_id}),) if draw.random() < 0.2 else (),
    )


def _retry(draw: Random) -> Retry:
    return Retry(
        max=draw.choice((0, 1, 2, 3)), initial=draw.choice((0.02, 0.3, 1.0, 5.5)), max_delay=6.0, jitter=0.2
    )


def _plan(draw: Random, trouble: float) -> dict[str, JSON]:
    plan: dict[str, JSON] = {"d": [_duration(draw), _duration(draw), _duration(draw)]}
    if draw.random() < trouble:
        plan["f"] = [
            draw.choice(("retry", "retry", "limited", "terminal")) for _ in range(draw.randint(1, 4))
        ]
    if draw.random() < 0.4:
        plan["e"] = draw.randint(1, 3)
    if draw.random() < 0.02:
        # Above half of the smallest payload that a universe allows: the entry's records go to a blob.
        plan["e"], plan["pad"] = 5, 9_000
    return plan


def _duration(draw: Random) -> float:
    chance = draw.random()
    if chance < 0.55:
        return 0.002 + draw.random() * 0.05
    if chance < 0.85:
        return 0.05 + draw.random() * 0.7
    return 1.0 + draw.random() * 3.0


def _wait(draw: Random, step_id: str) -> Wait:
    chance = draw.random()
    if chance < 0.4:
        return Wait(for_=draw.choice((0.0, 0.1, 0.6, 2.0, 4.5)))
    if chance < 0.6:
        return Wait(for_=draw.choice((5.2, 6.0, 8.0)))
    timeout = draw.choice((None, None, 1.0, 3.0, 7.0))
    return Wait(message=f"go{draw.randint(0, 1)}", timeout=timeout, on_timeout=draw.choice(("fail", "skip")))
