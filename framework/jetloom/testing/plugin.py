"""The pytest plugin, found by its entry point: fixtures `world`, `nats_server`, `nats_url`, `jetloom_namespace`.

A test that asks for `world` runs on the world's loop, in virtual time: its coroutine, and the async fixtures that are
made after it. So it needs no marker, and works beside tests of pytest-asyncio in one file, in its auto and its strict
mode, and without it. Nothing of jetloom but virtual time is loaded until a fixture is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    import asyncio

    from jetloom.testing._server import NatsServer
    from jetloom.testing._world import World

SEED = "--jetloom-seed"

_RUNNER = "_function_scoped_runner"
"""pytest-asyncio's fixture that has the loop of one test."""

TURNS = 10
"""Of the loop, in which tasks that were told to end do so."""

_WORLD = pytest.StashKey["World"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("jetloom").addoption(
        SEED,
        metavar="N",
        default="",
        help="the seed of the order in which the processes of a `world` take turns; `random` draws one per run",
    )


def pytest_configure(config: pytest.Config) -> None:
    given = str(config.getoption(SEED))
    if given == "random":
        from jetloom.clock import SYSTEM_CLOCK

        # Once for all processes of xdist, which get the command's options after this.
        config.option.jetloom_seed = given = str(int(SYSTEM_CLOCK.token()[:8], 16))
    if given and not given.isdigit():
        raise pytest.UsageError(f"{SEED} {given}: expected a whole number, 0 or more, or `random`")


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = str(config.getoption(SEED))
    return f"jetloom: {SEED}={seed}" if seed else None


# -- tests in virtual time
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs an async test that has a world on the world's loop, before anybody runs it on another."""
    __tracebackhide__ = True
    world = pyfuncitem.stash.get(_WORLD, None)
    test = inspect.unwrap(pyfuncitem.obj)
    if world is None or not inspect.iscoroutinefunction(test):
        return None
    names = pyfuncitem._fixtureinfo.argnames  # pyright: ignore[reportPrivateUsage]
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    world.drive(test(**arguments))
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Makes an async fixture of a test with a world on the world's loop."""
    node = cast("object", request.node)
    world = node.stash.get(_WORLD, None) if isinstance(node, pytest.Item) else None
    function = fixturedef.func
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    if world is None or not is_async:
        return (yield)
    made = _sync_generator if inspect.isasyncgenfunction(function) else _sync
    # Before pytest-asyncio looks at it; a method of a test class still gets its instance.
    fixturedef.func = made(function, world)  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return (yield)
    finally:
        fixturedef.func = function  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def _sync(function: Callable[..., object], world: World) -> Callable[..., object]:
    def fixture(*given: object, **named: object) -> object:
        return world.drive(_awaited(cast("Callable[..., Awaitable[object]]", function)(*given, **named)))

    return fixture


def _sync_generator(function: Callable[..., object], world: World) -> Callable[..., Iterator[object]]:
    def fixture(*given: object, **named: object) -> Iterator[object]:
        values = cast("Callable[..., AsyncIterator[object]]", function)(*given, **named)
        yield world.drive(_awaited(anext(values)))
        if not world.stuck and world.drive(_awaited(anext(values, fixture))) is not fixture:
            raise ValueError(f"async fixture {function.__name__} yields more than once")

    return fixture


async def _awaited[T](value: Awaitable[T]) -> T:
    return await value


# -- fixtures
@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Modules, workflows and engines on a memory twin of NATS, in virtual time: see `jetloom.testing.World`."""
    from jetloom.testing._clock import VirtualLoop
    from jetloom.testing._run import Leaked, close_world
    from jetloom.testing._world import World

    node = cast("pytest.Item", request.node)
    option = str(request.config.getoption(SEED))
    loop = VirtualLoop(int(option) if option else None)
    try:
        made = World(loop, seed=int(option or 0))
        node.stash[_WORLD] = made
        yield made
        left = close_world(made, failed=bool(getattr(node, "_jetloom_failed", False)))
        if left:
            raise Leaked(left)
    finally:
        loop.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    world = item.stash.get(_WORLD, None)
    if world is not None and report.when == "call" and report.failed:
        item._jetloom_failed = True  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        seed = str(item.config.getoption(SEED))
        if seed:
            report.sections.append(("jetloom", f"repeat it with {SEED}={seed}"))
    return report


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A real nats-server: the one that `NATS_URL` names, or one of this test session's own.

    Tests share it: each takes a `jetloom_namespace`.
    """
    import os

    from jetloom.errors import NatsUnavailable
    from jetloom.testing._server import NatsServer

    server = NatsServer(tmp_path_factory.mktemp("nats"), os.environ.get("NATS_URL", ""))
    try:
        server.start()
    except NatsUnavailable as error:
        pytest.fail(f"no nats-server for tests: {error.message}", pytrace=False)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def nats_url(nats_server: NatsServer) -> str:
    """The URL of `nats_server`."""
    return nats_server.url


@pytest.fixture
def jetloom_namespace(nats_server: NatsServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace that nobody else has. What it has on the server is deleted after the test; what still serves it then,
    and tasks of the test that still run, fail it by name."""
    from jetloom.clock import SYSTEM_CLOCK
    from jetloom.testing import Leaked

    tasks = _Tasks(request)
    namespace = f"t-{SYSTEM_CLOCK.token()[:12]}"
    yield namespace
    left = [*tasks.left(), *nats_server.sweep(namespace)]
    if left:
        raise Leaked(left)


class _Tasks:
    """The tasks of the loop that pytest-asyncio runs the test on, from now on."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        # Asked for here, the loop is closed after the fixture that asks.
        known = _RUNNER in request.fixturenames
        runner = cast("asyncio.Runner", request.getfixturevalue(_RUNNER)) if known else None
        self._runner = runner
        self._before = self._running()

    def left(self) -> list[str]:
        from jetloom.testing._process import place_of

        if self._runner is None:
            return []
        # What was cancelled or closed at the end of the test needs a turn to end.
        self._runner.run(_awaited(_turns()))
        return [
            f"task {each.get_name()!r}, {place_of(each)}"
            for each in self._running() - self._before
            if not each.done()
        ]

    def _running(self) -> set[asyncio.Task[object]]:
        import asyncio

        return set() if self._runner is None else asyncio.all_tasks(self._runner.get_loop())


async def _turns() -> None:
    import asyncio

    for _ in range(TURNS):
        await asyncio.sleep(0)
