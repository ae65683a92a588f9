"""The module of the live tests."""

from __future__ import annotations

import msgspec

from jetloom import Module, StepContext, TaskFailed, step


class Person(msgspec.Struct):
    name: str


class Greeting(msgspec.Struct):
    text: str


class Greeter(Module):
    """Greets; refuses to greet `nobody`."""

    id = "greeter"

    @step("greeter.compose")
    async def compose(self, ctx: StepContext, person: Person) -> Greeting:
        if person.name == "nobody":
            raise TaskFailed("greeter.nobody", "there is nobody to greet")
        ctx.emit("demo.greeting.composed", {"name": person.name})
        return Greeting(f"Hello, {person.name}!")
