"""The story in six acts: a good morning, a bad release, the stop, the plan, the undo, the proof."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rescind.clock import SystemClock
from rescind.demo.bystanders import GLOBEX_AGENT, REPORTING_AGENT, Bystanders
from rescind.demo.checks import Check, check_books, check_handover, check_repetition, check_second_undo, check_undo
from rescind.demo.crew import FAR, Agent, Crew
from rescind.demo.damage import Damage, find_damage
from rescind.demo.desk import DATABASE
from rescind.demo.folder import MORNING
from rescind.demo.mailroom import ROGUE
from rescind.demo.oncall import OnCall, Stopped, Undone
from rescind.demo.opening import ACME, GLOBEX, REPORTS, Opening, complain, edit_by_hand, make_opening
from rescind.demo.screen import Screen, dollars
from rescind.demo.stops import Stop
from rescind.demo.truth import find_truth
from rescind.demo.undoing import tell_undo
from rescind.demo.verdict import HandoverResult, StopResult, UndoResult, Verdict
from rescind.demo.workers import Workers
from rescind.demo.world import World
from rescind.errors import RescindError
from rescind.model.entry import Disposition
from rescind.model.history import ReviewTask

ROGUE_WORKERS = 2

EDIT_AFTER = 8
"""Customers who are wronged by the time that a person edits one of the first."""

REFUSALS_SEEN = 5
"""Refused attempts of each stopped process that the story waits for."""

PATIENCE_S = 120.0
"""How long an act may wait for the agents. The whole story takes a sixth of it."""

LOOK_EVERY_S = 0.05


class StoryFailed(RescindError):
    """Something that the story waits for did not come."""


@dataclass(frozen=True)
class Told:
    """What came of it, with what only people want to know.

    Attributes:
        verdict: What holds, and what does not.
        damage: What the agent did, before the undo.
        refused: Attempts of the stopped agent that were refused.
        bystander_writes: Writes of the other agents.
        edited: The customer whom a person edited.
        tasks: What is left to a person.
        insight: What else there is to learn from it; empty if nothing.
    """

    verdict: Verdict
    damage: Damage
    refused: int
    bystander_writes: int
    edited: str
    tasks: tuple[ReviewTask, ...]
    insight: str


class Story:
    """One telling in one folder, with a crew that it fills. `tell` is called once."""

    def __init__(
        self, folder: Path, screen: Screen, crew: Crew, on_call: OnCall, stop: Stop, workers: Workers | None
    ) -> None:
        self._screen, self._crew, self._on_call, self._how, self._workers = screen, crew, on_call, stop, workers
        self._clock, self._world, self._database = SystemClock(), World(folder), folder / DATABASE
        self._opening: Opening = make_opening(self._database, morning=folder / MORNING)
        self._truth = find_truth(folder / MORNING, self._opening, reports=REPORTS)
        self._rogues: list[Agent] = []

    def tell(self) -> Told:
        """All acts. Raises: RescindError, if the story cannot be told to its end."""
        bystanders = self._morning()
        with bystanders.at_work():
            damage = self._release()
            stopped = self._stop(damage)
            after_stop = self._world.effects_since(ROGUE, stopped.acknowledged_s)
            undone, handover = tell_undo(self._screen, self._on_call, self._workers)
        bystanders.finish()
        self._wait_for(lambda: bystanders.are_done, "the other agents to finish their day")
        self._screen.act("Proof: the books against a truth that rescind does not know")
        checks = self._check(undone, handover, damage)
        # Counted twice: an undo could hide a late change of a subscription, and one could come later still.
        after_stop = max(after_stop, self._world.effects_since(ROGUE, stopped.acknowledged_s))
        lost, refused = bystanders.lost(self._world), sum(agent.refused for agent in self._rogues)
        self._crew.dismiss()
        self._show_checks(checks, after_stop=after_stop, lost=lost, refused=refused)
        verdict = Verdict(
            customers_wronged=len(damage.customers),
            guards=len(stopped.receipt.guards),
            stop=StopResult(by=self._how.by, acknowledged=stopped.acknowledged, unknown=stopped.unknown, ms=stopped.ms),
            writes_after_stop=after_stop,
            undo=_result_of(undone),
            workers=handover,
            invariants={check.name: check.holds for check in checks},
            bystander_writes_lost=lost,
            chain_intact=self._audit(),
        )
        tasks, insight = tuple(self._on_call.open_tasks()), self._how.insight(self._world)
        return Told(verdict, damage, refused, bystanders.writes, self._opening.edit.customer_id, tasks, insight)

    # --- the acts ---

    def _morning(self) -> Bystanders:
        self._screen.act("A billing desk, on a normal morning")
        self._screen.say(
            f"Two tenants in one database: {ACME} with {len(self._truth.acme_subscriptions)} customers, {GLOBEX} with "
            f"{len(self._truth.globex_subscriptions)}. {GLOBEX_AGENT} answers {GLOBEX}'s mail, {REPORTING_AGENT} files "
            f"reports for {ACME}, each in a process of its own."
        )
        self._how.introduce()
        globex, reporting = self._crew.hire(GLOBEX_AGENT, GLOBEX), self._crew.hire(REPORTING_AGENT, ACME)
        self._rogues = [
            self._crew.hire(ROGUE, ACME, worker=worker, workers=ROGUE_WORKERS) for worker in range(ROGUE_WORKERS)
        ]
        self._wait_for(lambda: all(agent.is_up for agent in self._crew.agents), "the agents to come to work")
        if self._workers is not None:
            self._workers.wait()
        return Bystanders(globex, reporting, self._opening)

    def _release(self) -> Damage:
        wronged, edit = len(self._opening.wronged), self._opening.edit
        self._screen.act(f"{ROGUE} is released for {ACME}")
        self._screen.say(
            'It takes "I want to cancel" for "I want to come back": it reactivates the subscription, charges a month '
            "and says so in a mail."
        )
        for agent in self._rogues:
            agent.go_on_until(FAR)
        began_s, edited = self._clock.monotonic_s(), False

        def is_over() -> bool:
            nonlocal edited
            count = len(self._world.mails(ROGUE))
            edited = edited or (count >= EDIT_AFTER and edit_by_hand(self._database, edit, once_changed_by=ROGUE))
            advance(count)
            return self._how.has_come(count) and edited

        with self._screen.progress("customers wronged", wronged) as advance:
            self._wait_for(is_over, "the agent to do its damage")
        damage = find_damage(self._world, self._truth, self._opening, ROGUE)
        took_s = self._clock.monotonic_s() - began_s
        self._screen.bad(
            f"{len(damage.customers)} customers wronged in {took_s:.1f} s, and {dollars(damage.cents)} taken from them"
        )
        self._screen.say(f"Meanwhile {edit.changed_by} looks at one of them and pauses {edit.customer_id} by hand.")
        return damage

    def _stop(self, damage: Damage) -> Stopped:
        stopped = self._how.tell(damage)
        others = len(stopped.receipt.guards) - len(stopped.covered)
        self._screen.say(f"The other {others} are not concerned and work on, {GLOBEX_AGENT} among them.")
        complain(self._database, self._opening.wronged[: self._how.complaints])
        self._wait_for(
            lambda: all(agent.refused >= REFUSALS_SEEN for agent in self._rogues), "the stopped agent to try again"
        )
        self._screen.say(self._how.aftermath(damage))
        return stopped

    # --- the proof ---

    def _check(self, undone: Undone, handover: HandoverResult | None, damage: Damage) -> list[Check]:
        books = check_books(self._world, self._truth, self._opening, damage, rogue=ROGUE)
        edited = self._opening.edit.customer_id
        undo = check_undo(undone, self._on_call.open_tasks(), damage, edited=edited)
        before = self._world.fingerprint(), self._on_call.open_tasks()
        again = self._on_call.apply(self._on_call.plan(ROGUE), progress=lambda _: None)
        after = self._world.fingerprint(), self._on_call.open_tasks()
        repetition = check_repetition(
            self._world,
            under_way=self._on_call.undos_under_way(),
            without_end=self._on_call.compensations_without_end(),
            unreported=0 if handover is None else handover.unreported_at_kill,
        )
        kill = [] if handover is None else check_handover(handover)
        return [*books, *undo, *kill, *repetition, check_second_undo(again, unchanged=before == after)]

    def _show_checks(self, checks: list[Check], *, after_stop: int, lost: int, refused: int) -> None:
        for check in checks:
            self._screen.check(check.means, note=check.found, holds=check.holds)
        self._screen.check(
            f"{after_stop} writes of the stopped agent since it acknowledged",
            note=f"{refused} attempts refused",
            holds=after_stop == 0,
        )
        self._screen.check(f"{lost} writes of the other agents lost", holds=lost == 0)

    def _audit(self) -> bool:
        audit = self._on_call.audit()
        self._screen.check(
            f"the journal's chain is intact: {audit.entries:,} entries of {audit.runs} runs",
            note="" if audit.intact else str(audit.findings[0]),
            holds=audit.intact,
        )
        return audit.intact

    def _wait_for(self, done: Callable[[], bool], what: str) -> None:
        deadline_s = self._clock.monotonic_s() + PATIENCE_S
        while not done():
            self._crew.check()
            if self._clock.monotonic_s() > deadline_s:
                raise StoryFailed(f"waited {PATIENCE_S:.0f} s for {what}, in vain")
            self._clock.sleep(LOOK_EVERY_S)


def _result_of(undone: Undone) -> UndoResult:
    return UndoResult(
        restored=undone.count(Disposition.RESTORED),
        compensated=undone.count(Disposition.COMPENSATED),
        review=undone.count(Disposition.REVIEW),
        conflicts=len(undone.conflicts),
        ms=undone.ms,
    )
