"""Undo against a model that knows only one rule: a step is restored if its target is, in its turn, as the step left it.

Runs write to a few rows, other people write to the same rows, replies get lost, and undos of random runs come in
between. The small number of values makes versions return, which is where a planner goes wrong.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from compensation.undo_world import Shop, nothing_appended, row_of
from rescind.compensation.planning.selection import read_steps
from rescind.model.action import EffectClass
from rescind.model.entry import CompensationIntended, Disposition, StepRef
from rescind.model.step import Snapshot
from rescind.recovery.review import list_tasks, resolve_task

RUNS = ("run-1", "run-2", "run-3")
ROWS = ("tea", "jam")
VALUES = st.integers(0, 2)


class Made(msgspec.Struct):
    """What the model knows of a step."""

    ref: StepRef
    kind: str
    row: str = ""
    before: Any = None
    after: Any = None
    disposition: Disposition | None = None
    undone_by: str = ""
    redo_is_for_a_person: bool = False


class UndoMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.shop = Shop()
        self.model: dict[str, Any] = dict.fromkeys(ROWS, 0)
        self.shop.rows.update(self.model)
        self.made: list[Made] = []
        self.undone: list[str] = []
        for run in RUNS:
            self.shop.put(run, CompensationIntended(step_id="0", kind="", idempotency_key="", plan_digest=""))

    # --- the world goes on ---

    @rule(run=st.sampled_from(RUNS), row=st.sampled_from(ROWS), value=VALUES)
    def a_step_sets_a_row(self, run: str, row: str, value: int) -> None:
        before = self.model[row]
        ref = self.shop.set(row, value, run)
        self.model[row] = value
        self.made.append(Made(ref, "set", row, before, value))

    @rule(run=st.sampled_from(RUNS), row=st.sampled_from(ROWS), value=st.none() | VALUES)
    def a_process_dies_over_a_row(self, run: str, row: str, value: int | None) -> None:
        """Before its effect (None), or after it."""
        before = self.model[row]
        ref = self.shop.intend("row.set", EffectClass.REVERSIBLE, run, target=row_of(row), before=Snapshot.of(before))
        if value is not None:
            self.shop.rows[row] = self.model[row] = value
        self.made.append(Made(ref, "doubt", row, before))

    @rule(run=st.sampled_from(RUNS))
    def a_step_charges(self, run: str) -> None:
        self.made.append(Made(self.shop.charge(run), "charge"))

    @rule(run=st.sampled_from(RUNS))
    def a_step_mails(self, run: str) -> None:
        self.made.append(Made(self.shop.mail(run), "mail"))

    @rule(row=st.sampled_from(ROWS), value=VALUES)
    def somebody_changes_a_row(self, row: str, value: int) -> None:
        self.shop.rows[row] = self.model[row] = value

    # --- an operator comes ---

    @rule(runs=st.sets(st.sampled_from(RUNS), min_size=1), parallel=st.sampled_from([1, 3]))
    def undo(self, runs: set[str], parallel: int) -> None:
        plan = self.shop.plan(*sorted(runs))
        self.shop.apply(plan, parallel=parallel)
        self.undone += [] if plan.is_settled else [plan.digest]
        for step in reversed(self.made):
            if step.ref.run_id in runs and step.disposition is None:
                self.dispose(step, plan.digest)
        with nothing_appended(self.shop):
            self.shop.apply(None, *sorted(runs))

    @rule(row=st.sampled_from(ROWS), leaving_out=st.booleans())
    def undo_a_part(self, row: str, leaving_out: bool) -> None:
        """Only what touched a row, or all but that."""
        there = {step.row for step in self.made}
        if row not in there:
            return
        target = str(row_of(row))
        selection = {"exclude": (target,)} if leaving_out else {"targets": (target,)}
        plan = self.shop.plan(*RUNS, **selection)
        self.shop.apply(plan)
        self.undone += [] if plan.is_settled else [plan.digest]
        for step in reversed(self.made):
            if (step.row == row) is not leaving_out and step.disposition is None:
                self.dispose(step, plan.digest)

    @rule()
    def a_person_asks_for_another_try(self) -> None:
        for task in list_tasks(self.shop.journal)[:1]:
            resolve_task(self.shop.journal, task.task_id, "retry", actor="ann", clock=self.shop.clock)
            for step in self.made:
                if step.ref in task.steps and step.disposition is Disposition.REVIEW:
                    step.disposition = None
                elif step.ref in task.steps:
                    step.redo_is_for_a_person = False

    def dispose(self, step: Made, digest: str) -> None:
        step.disposition, step.undone_by, step.redo_is_for_a_person = self.disposition_of(step), digest, False

    def disposition_of(self, step: Made) -> Disposition:
        if step.kind == "charge":
            return Disposition.COMPENSATED
        if step.kind == "mail":
            return Disposition.REVIEW
        now = self.model[step.row]
        if step.kind == "doubt":
            return Disposition.NEVER_TOOK_EFFECT if now == step.before else Disposition.REVIEW
        if step.after in (now, step.before):
            self.model[step.row] = now if step.after == step.before else step.before
            return Disposition.RESTORED
        return Disposition.RESTORED if now == step.before else Disposition.REVIEW

    @rule(back=st.integers(1, 3), parallel=st.sampled_from([1, 3]))
    def redo(self, back: int, parallel: int) -> None:
        """What one of the last undos undid."""
        if back > len(self.undone):
            return
        digest = self.undone[-back]
        self.shop.redo(digest, parallel=parallel)
        for step in self.made:
            if step.undone_by == digest and step.disposition is Disposition.RESTORED and self.is_redone(step):
                step.disposition = None
        with nothing_appended(self.shop):
            self.shop.redo(digest)

    def is_redone(self, step: Made) -> bool:
        """By the same one rule, the other way round; a task for a person leaves it undone."""
        if step.redo_is_for_a_person:
            return False
        now = self.model[step.row]
        if step.before == step.after:
            return True
        if now not in (step.before, step.after):
            step.redo_is_for_a_person = True
            return False
        self.model[step.row] = step.after
        return True

    # --- what holds at any time ---

    @invariant()
    def the_rows_are_as_the_model_says(self) -> None:
        assert self.shop.rows == self.model

    @invariant()
    def every_step_is_where_the_model_says(self) -> None:
        known = {step.ref: step.disposition for step in self.made}
        found = {record.ref: record for record in read_steps(self.shop.journal, RUNS)}
        waiting = {ref for task in list_tasks(self.shop.journal) for ref in task.steps}
        assert found.keys() == known.keys()
        for ref, disposition in known.items():
            if disposition is None:
                assert found[ref].disposition in (None, Disposition.REVIEW)
                assert ref not in waiting
            else:
                assert found[ref].disposition is disposition
                assert disposition is not Disposition.REVIEW or ref in waiting

    @invariant()
    def nobody_gets_money_back_twice(self) -> None:
        assert set(self.shop.charging.refunds.values()) <= {1}


UndoMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
test_undo_keeps_to_the_model = UndoMachine.TestCase


@pytest.mark.parametrize("parallel", [1, 3])
def test_an_older_step_does_not_overtake_a_newer_one_past_a_step_that_is_left_to_a_person(parallel: int) -> None:
    machine = UndoMachine()
    machine.begin()
    machine.a_step_sets_a_row("run-1", "tea", 1)
    machine.a_step_sets_a_row("run-1", "tea", 0)
    machine.a_process_dies_over_a_row("run-1", "tea", 2)
    machine.a_step_sets_a_row("run-1", "tea", 0)
    machine.a_step_sets_a_row("run-1", "tea", 1)
    machine.undo({"run-1"}, parallel)
    machine.the_rows_are_as_the_model_says()
    machine.every_step_is_where_the_model_says()
