"""A whole app in one process: its own server, an engine, a module, and one run."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

from ..app import App
from ..config import Settings
from ..engine import Client
from ..messages import Names
from ..runtime import Module, step
from ..transport import connect
from ..workflows import Workflow
from ._child import UnknownOrder
from ._load import Figures, Given, now

RUN_SECONDS = 10.0


class Hello(Module):
    """One step."""

    id = "hello"

    @step("hello.say")
    async def say(self) -> str:
        return "hello"


class Cold:
    """Its start is over when a run has its result. Verbs: `times`."""

    def __init__(self, config: Given) -> None:
        self._store = Path(config.text)
        self._times: dict[str, float] = {}
        self._app = App(
            Settings(namespace="bench"),
            [f"{__name__}:Hello"],
            engine=True,
            embedded=True,
            store=self._store,
        )

    async def start(self) -> None:
        began = now()
        await self._app.start()
        self._times["start of the app"] = now() - began
        began = now()
        transport = await connect(self._app.summary().nats_url)
        try:
            client = Client(transport, Names("bench"))
            started = await client.start(Workflow("hello").step("say", uses="hello.say").build())
            result = await client.result(started.run, timeout=timedelta(seconds=RUN_SECONDS))
        finally:
            await transport.close()
        self._times["run with its definition"] = now() - began
        if result not in ({"say": "hello"}, "hello"):
            raise ValueError(f"the first run gave {result!r}")

    async def stop(self) -> None:
        await self._app.stop(1.0)
        shutil.rmtree(self._store, ignore_errors=True)

    async def do(self, verb: str, given: Given) -> Figures:
        if verb != "times":
            raise UnknownOrder(verb)
        return Figures(more=self._times)
