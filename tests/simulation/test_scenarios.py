"""The traces that broke earlier versions of the protocol, each forced on the real engine."""

from __future__ import annotations

from jetloom.transport import Stored
from tests.simulation._plan import Style
from tests.simulation._stage import Stage, message, sleep, step

JOURNAL = "KV.jetloom_runs"


def test_1_an_engine_with_an_old_state_does_not_drop_the_result_of_an_attempt_it_does_not_know() -> None:
    """A cached state is older than the retry whose result arrives: the result is applied all the same."""

    class Scene(Stage):
        async def play(self) -> None:
            old = self.engine("e1")
            await self.client.start("w", {}, id="r")
            await self.until(lambda: self.n() == 1, "the start is applied")
            await self.until(lambda: not self.world.engines[old].table, "e1 only keeps a state in its cache")
            self.freeze(old)
            new = self.engine("e0")
            self.world.spawn_worker("k0")
            await self.until(
                lambda: self.truth().state.unit("s0").attempt == 2, "the step is retried elsewhere"
            )
            self.world.crash(new, restart_after=30)
            self.thaw(old)
            await self.until(self.ended, "the run ends", 20)

    scene = Scene(step("s0", "r0", d=[0.3, 0.3], f=["retry"])).perform()
    assert scene.truth().state.unit("s0").attempt == 2
    assert scene.executions("s0", 2) == 1


def test_2_an_engine_that_applied_a_start_does_not_vouch_for_what_others_did_under_it() -> None:
    """The applier is cut, another resumes and ends the run and dies before its event: the event exists."""

    class Scene(Stage):
        async def play(self) -> None:
            self.engine("e0")
            await self.client.start("w", {}, id="r")
            await self.until(lambda: self.n() >= 1, "the start is applied")
            self.world.disconnect(self.world.process_of("e0"), 9)
            self.engine("e1")
            await self.until(lambda: self.holder("m1") == "e1", "e1 resumes")
            self.strike("crash", "applied", "e1", "append", JOURNAL, 30)
            await self.until(self.struck, "e1 dies of its last append")
            assert self.ended()

    Scene(step("s0", "l0", d=[1.0, 1.0], e=1)).perform()


def test_3_a_cancel_that_ends_the_waits_under_a_cover_does_not_make_its_ack_safe() -> None:
    """An engine dies between a result and its event; the next gets the cover together with a cancel."""

    class Scene(Stage):
        async def play(self) -> None:
            self.engine("e0")
            await self.client.start("w", {}, id="r")
            await self.until(lambda: self.executions("s0") == 1, "the body runs")
            self.strike("crash", "applied", "e0", "append", JOURNAL, 60)
            await self.until(self.struck, "e0 dies of the append of the result")
            await self.client.cancel("r")
            self.engine("e1")
            await self.until(self.ended, "the run ends", 30)

    scene = Scene(step("s0", "l0", d=[0.2], e=2), sleep("s1", 4.5)).perform()
    assert scene.truth().state.status == "cancelled"


def test_4_a_derivation_is_void_once_another_engine_wrote() -> None:
    """An engine has derived; another takes over, journals a task and freezes before it sends it."""

    class Scene(Stage):
        async def play(self) -> None:
            first = self.engine("e0")
            await self.client.start("w", {}, id="r")
            await self.until(lambda: self.executions("s0") == 1, "the body runs")
            self.freeze(first)
            second = self.engine("e1")
            await self.until(lambda: self.holder("m1") == "e1", "e1 resumes and derives")
            self.freeze(second)
            self.thaw(first)
            await self.until(lambda: self.holder("m1") == "e0", "e0 takes it back", 30)
            self.strike("freeze", "applied", "e0", "append", JOURNAL, 60)
            await self.until(self.struck, "e0 freezes at the append that starts the task")
            self.thaw(second)
            self.world.spawn_worker("k0")
            await self.until(self.ended, "the run ends", 60)

    scene = Scene(
        step("s0", "l0", d=[2.5, 2.5, 2.5]), step("s1", "r0", "s0"), sleep("s2", 4.9, "s0")
    ).perform()
    assert scene.executions("s1") == 1


def test_5_a_dead_engines_cover_is_resumed_by_an_engine_that_has_the_run_already() -> None:
    """The cover comes to an inbox, not to an empty table: its holder is asked for all the same."""

    class Scene(Stage):
        async def play(self) -> None:
            self.engine("e0")
            await self.client.start("w", {}, id="r")
            await self.until(lambda: self.executions("s0") == 1, "the body runs in e0")
            self.engine("e1")
            self.world.disconnect(self.world.process_of("e0"), 0.5)
            await self.client.message("r", "go")
            await self.until(lambda: self.executions("s2") == 1, "e1 runs a body under the message")
            self.world.crash(self.world.process_of("e0"), restart_after=100)
            await self.until(self.ended, "the run ends without e0", 40)

    scene = Scene(
        step("s0", "l0", d=[3.0, 3.0]), message("s1", "go"), step("s2", "l1", "s1", d=[9.0, 9.0])
    ).perform()
    assert scene.executions("s2") == 1


def test_6_a_thawed_engine_starts_nothing_on_a_fold_from_before_its_freeze() -> None:
    """An old question makes it sure again; the body that it had not begun has ended elsewhere."""

    class Scene(Stage):
        async def play(self) -> None:
            self.engine("e0")
            await self.client.start("w", {}, id="r")
            await self.until(lambda: self.executions("s0") == 1, "the first body runs")
            self.strike("freeze", "after", "e0", "append", JOURNAL, 12)
            await self.until(self.struck, "e0 freezes before it starts the second body")
            self.engine("e1")
            await self.until(self.ended, "e1 ends the run", 11)
            await self.until(lambda: bool(self.world.thawed), "e0 thaws")

    scene = Scene(step("s0", "l0", d=[0.2]), step("s1", "l1", "s0", d=[0.3])).perform()
    assert scene.executions("s1") == 1


def test_7_a_task_whose_run_ended_meanwhile_is_not_sent() -> None:
    """Frozen between the append and the first send; thawed, the engine looks before it sends."""

    class Scene(Stage):
        async def play(self) -> None:
            self.world.spawn_worker("k0")
            self.engine("e0")
            self.strike("freeze", "applied", "e0", "append", JOURNAL, 40)
            await self.client.start("w", {}, id="r")
            await self.until(self.struck, "e0 freezes before the task is sent")
            self.engine("e1")
            await self.until(self.ended, "e1 ends the run", 30)
            # Longer than the server remembers which tasks were consumed.
            await self.until(lambda: bool(self.world.thawed), "e0 thaws", 60)

    scene = Scene(step("s0", "r0", d=[0.1])).perform()
    assert scene.executions("s0") == 1


def test_8_an_accepted_entry_hidden_by_a_snapshot_still_has_its_event() -> None:
    """The answer is lost, the next engine writes a snapshot over the entry: its writer derives before it acks."""

    class Scene(Stage):
        async def play(self) -> None:
            self.engine("e0")
            await self.client.start("w", {}, id="r")
            await self.until(lambda: self.executions("s0") == 1, "the body runs")
            self.strike("cut", "applied", "e0", "append", JOURNAL, 7)
            await self.until(self.struck, "e0 is cut when its result is applied")
            self.engine("e1")
            await self.until(lambda: self.holder("m1") == "e1", "e1 resumes", 20)
            for number in range(4):
                await self.client.message("r", "more", id=f"x{number}")
            lines = self.world.ledger.journals.subjects
            await self.until(
                lambda: any(len(held) < self.n() for held in lines.values()), "a snapshot is written"
            )
            self.world.crash(self.world.process_of("e1"), restart_after=40)

    style = Style(engines=0, workers=0, runs=0, snapshot_entries=3)
    Scene(step("s0", "l0", d=[0.2], e=1), step("s1", "l1", "s0", d=[5.0, 5.0, 1.0]), style=style).perform()


def test_9_all_records_of_one_input_stand_in_one_entry() -> None:
    """A result too large for an entry goes to a blob, whole."""

    class Scene(Stage):
        async def play(self) -> None:
            self.engine("e0")
            self.world.spawn_worker("k0")
            await self.client.start("w", {}, id="r")
            await self.until(self.ended, "the run ends")

    style = Style(engines=0, workers=0, runs=0, max_payload=81_920)
    scene = Scene(step("s0", "r0", d=[0.1], e=5, pad=9_000), style=style).perform()
    kinds = [[record.__struct_config__.tag for record in entry.records] for entry in scene.truth().entries]
    whole = next(names for names in kinds if "completed" in names)
    assert whole.count("emitted") == 5
    assert scene.world.ledger.blobs.messages


def test_10_a_poke_that_found_nothing_is_no_cover_later() -> None:
    """Two engines hold a poke; one finds nothing and acknowledges it; then a cover is lost."""

    class Scene(Stage):
        async def play(self) -> None:
            self.engine("e2")
            await self.client.start("w", {}, id="r")
            await self.until(lambda: self.executions("s0") == 1, "the body runs in e2")
            frozen = self.engine("e0")
            await self.until(lambda: frozen in self.world.engines, "e0 is up")
            await self.until(lambda: self.world.loop.time() > 1, "e0 pulls")
            self.freeze(frozen)
            await self.client._transport.append(self.world.names.poke("r"), b"")
            await self.until(lambda: self.truth().state.poked > 0, "the poke is recorded elsewhere", 20)
            await self.until(lambda: not self.poked(), "and acknowledged")
            self.world.crash(self.world.process_of("e2"), restart_after=60)
            assert self.world.rob()
            self.thaw(frozen)

        def poked(self) -> list[Stored]:
            found = self.world.ledger.mailbox.messages.values()
            return [one for one in found if one.subject.endswith(".poke")]

    Scene(step("s0", "l0", d=[9.0, 0.5])).perform()


def test_11_a_result_finds_its_run_although_another_start_waits_behind_it() -> None:
    """A repeated start is stored while the run lives; an engine that knows nothing gets the first one's result.

    The stale read of the original trace needs a replica; the twin serves the leader, so that engine reads the truth.
    """

    class Scene(Stage):
        async def play(self) -> None:
            first = self.engine("e0")
            await self.client.start("w", {}, id="r")
            await self.until(
                lambda: self.n() == 1 and not self.world.ledger.mailbox.messages, "the start is acked"
            )
            self.world.crash(first, restart_after=60)
            again = await self.client.start("w", {}, id="r")
            assert (again.inc, again.started) == (1, False)
            self.world.spawn_worker("k0")
            await self.until(lambda: len(self.world.ledger.mailbox.messages) == 2, "start and result wait")
            self.engine("e1")
            await self.until(self.ended, "the run ends", 30)

    scene = Scene(step("s0", "r0", d=[0.1])).perform()
    assert scene.truth().state.inc == 1
    assert scene.executions("s0") == 1


def test_12_a_client_is_told_the_incarnation_of_the_run_and_not_of_its_own_waiting_start() -> None:
    """While the run lives and nobody takes starts, every repetition answers with the first incarnation."""

    class Scene(Stage):
        async def play(self) -> None:
            first = self.engine("e0")
            await self.client.start("w", {}, id="r")
            await self.until(
                lambda: self.n() == 1 and not self.world.ledger.mailbox.messages, "the start is acked"
            )
            self.world.crash(first, restart_after=5)
            for _ in range(3):
                again = await self.client.start("w", {}, id="r")
                assert (again.inc, again.started) == (1, False)
            assert len(self.world.ledger.mailbox.messages) == 1
            self.world.spawn_worker("k0")

    Scene(step("s0", "r0", d=[0.1])).perform()


def test_13_a_run_that_was_cancelled_while_it_waited_runs_no_body() -> None:
    """The engines are full, a cancel ends a run whose start waits: the start is gone before anybody is free."""

    class Scene(Stage):
        async def play(self) -> None:
            self.engine("e0")
            await self.client.start("w", {}, id="r")
            await self.until(lambda: self.executions("s0") == 1, "the engine is full")
            started = await self.client.start("w", {})
            await self.client.cancel(started.run)
            await self.until(lambda: self.ended(started.run), "the waiting run is cancelled", 4)
            self.waiting = started.run

    style = Style(engines=0, workers=0, runs=0, capacity=1)
    scene = Scene(step("s0", "l0", d=[5.0]), style=style)
    scene.perform()
    assert scene.truth(scene.waiting).state.status == "cancelled"
    assert scene.executions("s0", run=scene.waiting) == 0
