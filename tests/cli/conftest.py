"""Commands run as a user runs them, on a session of fakes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest

from jetloom.cli import _session, main
from jetloom.messages import Names
from tests.cli.fakes import FakeClock, FakeWorkflows

if TYPE_CHECKING:
    from jetloom.cli._common import Common
    from jetloom.transport import Transport


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> object:
        """What stdout holds: exactly one document."""
        return self.read(object)

    def read[T](self, kind: type[T]) -> T:
        """The one document of stdout, as that type."""
        assert self.out.count("\n") == 1, self.out
        return msgspec.json.decode(self.out, type=kind)


class ErrorFields(msgspec.Struct):
    code: str
    message: str
    hint: str = ""


class ErrorDocument(msgspec.Struct):
    """What a command that failed prints in JSON mode."""

    error: ErrorFields
    exit_code: int


type Run = Callable[..., Ended]


class World:
    """What the fake session gives to commands. `prepare` runs in the command's event loop, before it."""

    def __init__(self) -> None:
        self.workflows = FakeWorkflows()
        self.names = Names()
        self.open_transport: Callable[[], contextlib.AbstractAsyncContextManager[Transport]] | None = None


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """Tables are as wide as what they hold, whatever terminal the tests run in."""
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A session without a server, for every command of the test."""
    made = World()

    @contextlib.asynccontextmanager
    async def open_session(common: Common) -> AsyncGenerator[_session.Session]:
        async with contextlib.AsyncExitStack() as stack:
            transport = (
                await stack.enter_async_context(made.open_transport()) if made.open_transport else None
            )
            yield _session.Session(transport, made.names, made.workflows, FakeClock())  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(_session, "open_session", open_session)
    return made


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line."""

    def call(*arguments: str) -> Ended:
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return call
