"""What goes wrong in a universe, and when: a fault plan that strikes where it hurts."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import msgspec

from jetloom.testing import FaultRates, SeededFaults

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from jetloom.transport import Op
    from tests.simulation._world import World


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """What a universe is like. Chances are per operation of a process; aimed ones are `aim` times as likely."""

    engines: int = 2
    workers: int = 1
    runs: int = 3
    chaos_seconds: float = 10.0
    crash: float = 0.0
    freeze: float = 0.0
    cut: float = 0.0
    aim: float = 1.0
    separations: int = 0
    server_crashes: int = 0
    drains: int = 0
    robberies: int = 0
    capacity: int = 1000
    snapshot_entries: int = 500
    max_payload: int = 1_048_576
    partial_handlers: bool = False
    sweep: bool = False
    rates: FaultRates = FaultRates(slow=0.0)


def draw_style(draw: Random) -> Style:
    """The style of a seed's universe: from calm ones to those where everything fails."""
    nasty = draw.choice((0.0, 0.5, 1.0, 1.0, 2.0))
    rates = FaultRates(
        latency=draw.choice((0.0005, 0.003, 0.02)),
        slow=draw.choice((0.0, 0.02, 0.06)) * bool(nasty),
        slow_seconds=0.5,
        lost=draw.choice((0.0, 0.0, 0.004)) * nasty,
        muted=draw.choice((0.0, 0.01, 0.03)) * nasty,
        cut_before=draw.choice((0.0, 0.001, 0.003)) * nasty,
        cut_after=draw.choice((0.0, 0.002, 0.005)) * nasty,
        down_seconds=draw.choice((0.3, 1.0, 4.0)),
        stale=draw.choice((0.0, 0.3)),
        split=draw.choice((0.0, 0.2)),
        repeat=draw.choice((0.0, 0.0, 0.05)) * bool(nasty),
        late_redelivery=draw.choice((0.0, 0.2)) * bool(nasty),
    )
    return Style(
        engines=draw.choice((2, 2, 3)),
        workers=draw.choice((1, 1, 2)),
        runs=draw.choice((1, 2, 3)),
        chaos_seconds=draw.choice((5.0, 8.0, 12.0)),
        crash=draw.choice((0.0, 0.002, 0.006)) * nasty,
        freeze=draw.choice((0.0, 0.002, 0.006)) * nasty,
        cut=draw.choice((0.0, 0.001, 0.003)) * nasty,
        aim=draw.choice((1.0, 5.0, 15.0)),
        separations=draw.choice((0, 0, 1, 3)) * bool(nasty),
        server_crashes=int(draw.random() < 0.12 * nasty),
        drains=int(draw.random() < 0.15),
        robberies=int(draw.random() < 0.06),
        capacity=draw.choice((1000, 1000, 1000, 1)),
        snapshot_entries=draw.choice((500, 3, 6)),
        max_payload=draw.choice((1_048_576, 1_048_576, 1_048_576, 81_920)),
        partial_handlers=draw.random() < 0.2,
        sweep=draw.random() < 0.15,
        rates=rates,
    )


def nastier(style: Style, draw: Random) -> Style:
    """The same universe with more of everything that fails, for longer."""
    rates = msgspec.structs.replace(
        style.rates,
        muted=max(style.rates.muted, 0.02) * 1.5,
        cut_after=max(style.rates.cut_after, 0.002) * 1.5,
        repeat=max(style.rates.repeat, 0.03),
        late_redelivery=0.2,
        slow=max(style.rates.slow, 0.03),
    )
    return msgspec.structs.replace(
        style,
        engines=draw.choice((3, 4)),
        runs=draw.choice((3, 4, 5)),
        chaos_seconds=20.0,
        crash=max(style.crash, 0.003) * draw.choice((0.3, 1.0, 2.0)),
        freeze=max(style.freeze, 0.003) * draw.choice((0.3, 1.0, 2.0)),
        cut=max(style.cut, 0.002),
        aim=draw.choice((5.0, 15.0, 40.0)),
        separations=4,
        server_crashes=draw.choice((0, 1, 2)),
        drains=draw.choice((0, 2)),
        rates=rates,
    )


class Plan(SeededFaults):
    """Strikes processes at their operations: before they are sent, when they are applied, when the answer is there."""

    def __init__(self, world: World, seed: int, style: Style) -> None:
        super().__init__(seed, style.rates)
        self._world = world
        self._style = style
        self._dice = Random(seed ^ 0xFA7E)
        self._journals = f"$KV.{world.names.runs_bucket(0)}."
        self.active = True
        self.script: list[Strike] = []
        """For scenarios: what is to happen at which operation."""

    def calm(self) -> None:
        super().calm()
        self.active = False
        self.script.clear()

    # -- the moments
    def before(self, op: Op) -> Awaitable[None] | None:
        return self._moment("before", op)

    def applied(self, op: Op) -> None:
        self._moment("applied", op)

    def after(self, op: Op) -> Awaitable[None] | None:
        return self._moment("after", op)

    def _moment(self, when: str, op: Op) -> Awaitable[None] | None:
        if not self.active:
            return None
        for strike in self.script:
            if strike.meets(when, op):
                self.script.remove(strike)
                return self._strike(strike.what, op.connection, strike.seconds, when)
        style = self._style
        chance = self._dice.random()
        total = style.crash + style.freeze + style.cut
        if self._aimed(when, op):
            chance /= style.aim
        if chance >= total:
            return None
        if (chance := chance - style.crash) < 0:
            what = "crash"
        elif chance - style.freeze < 0:
            what = "freeze"
        else:
            what = "cut"
        return self._strike(what, op.connection, self._seconds(what), when)

    def _aimed(self, when: str, op: Op) -> bool:
        """The moments after an append and before an ack."""
        if op.kind == "append":
            return when != "before" and op.subject.startswith(self._journals)
        return op.kind == "ack" and when == "before"

    def _seconds(self, what: str) -> float:
        dice = self._dice
        if what == "freeze":
            return dice.choice((0.5, 1.7, 2.5, 5.0, 8.0, 12.0)) * (0.8 + 0.4 * dice.random())
        return 0.1 + dice.random() * 2.0

    def _strike(self, what: str, process: str, seconds: float, when: str) -> Awaitable[None] | None:
        world = self._world
        if not world.strikes(process):
            return None
        match what:
            case "crash":
                world.crash(process, restart_after=seconds)
                return world.loop.never() if when != "applied" else None
            case "freeze":
                world.freeze(process, seconds)
                return world.pause() if when != "applied" else None
            case _:
                world.disconnect(process, seconds)
                return None


class Strike(msgspec.Struct, frozen=True):
    """A scripted fault: `what` happens to the process whose operation first meets it."""

    what: str
    when: str
    process: str
    kind: str
    subject: str = ""
    seconds: float = 1.0

    def meets(self, when: str, op: Op) -> bool:
        return (
            when == self.when
            and op.kind == self.kind
            and op.connection.partition("#")[0] == self.process
            and self.subject in op.subject
        )
