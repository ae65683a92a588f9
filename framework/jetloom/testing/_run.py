"""A world from its beginning to its end, without pytest."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence

from jetloom.testing._clock import Deadlock, Livelock, VirtualLoop
from jetloom.testing._world import PATIENCE_SECONDS, World
from jetloom.types import Duration


class Leaked(AssertionError):
    """What outlives a test, each by its name."""

    def __init__(self, left: Sequence[str]) -> None:
        self.left = list(left)
        super().__init__("outlives the test: " + "; ".join(left))


def run_world[T](
    main: Callable[[World], Coroutine[object, object, T]],
    *,
    seed: int | None = None,
    patience: Duration = PATIENCE_SECONDS,
) -> T:
    """Runs `main` with a world of its own; what it returns. A `seed` mixes the order in which processes take turns.

    Raises what `main` raises, `Deadlock` for a world in which nothing is left to happen, and `Leaked` for what outlives
    it.
    """
    loop = VirtualLoop(seed)
    try:
        world = World(loop, seed=seed or 0, patience=patience)
        failed = True
        try:
            result = world.drive(main(world))
            failed = False
        finally:
            left = close_world(world, failed=failed)
        if left:
            raise Leaked(left)
        return result
    finally:
        loop.close()


def close_world(world: World, *, failed: bool = False) -> list[str]:
    """Stops the world; what outlives it. After a failure there is nothing to say about that."""
    if world.stuck:
        world.abandon()
        return []
    try:
        left = world.loop.run_until_complete(world.close())
    except (Deadlock, Livelock) as error:
        world.abandon()
        left = [f"a world that does not stop: {error}"]
    return [] if failed else left
