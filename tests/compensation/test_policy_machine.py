"""Undo under conflict policies, with doubts, deaths and strangers, against a model that needs a few lines.

After an undo the world is the one in which the undone steps were never made, wherever nobody else has touched it. What
somebody else put there stands, unless a policy said otherwise and the journal said so before. Every step in scope has
exactly one end, and the end is true. Twice is once. The chains hold.

Those that hold at any time are the invariants; `ends_of` says which ends a step may have after an undo that came to its
end. A process may die at any append of an undo: nothing of that undo can be said then but what holds at any time.
"""

import contextlib
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from compensation.dying import Died
from compensation.policy_world import (
    ROWS,
    RUNS,
    Made,
    PolicyShop,
    Write,
    version_of,
)
from compensation.undo_world import row_of
from rescind.clock import to_us
from rescind.compensation.decision import Plan
from rescind.compensation.planning.impact import NO_END
from rescind.journal.chain import entry_hash, genesis
from rescind.journal.codec import prepare
from rescind.journal.port import Draft
from rescind.model.action import IN_DOUBT_AFTER, OnConflict
from rescind.model.entry import Checkpointed, Disposition, Verified
from rescind.model.history import StepRecord
from rescind.model.outcome import Failed
from rescind.recovery.review import list_tasks, resolve_task

RESTORED, MERGED, SUPERSEDED = Disposition.RESTORED, Disposition.MERGED, Disposition.SUPERSEDED
COMPENSATED, NEVER, REVIEW = Disposition.COMPENSATED, Disposition.NEVER_TOOK_EFFECT, Disposition.REVIEW
GONE = (RESTORED, MERGED, COMPENSATED, NEVER)

Happenings = list[tuple[str, dict[str, Any]]]

WAYS = ("runs", "runs", "a row", "all but a row", "since a checkpoint", "cascade")
A_RUN, A_ROW = st.sampled_from(RUNS), st.sampled_from((*ROWS, ROWS[0]))
SELDOM = st.sampled_from((False, False, False, True))


def happening(name: str, **given: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(name), st.fixed_dictionaries(given))


A_CHANGE = happening("a_step_changes_a_row", run=A_RUN, row=A_ROW, needs=SELDOM)
A_STRANGERS = happening("somebody_changes_a_row", row=A_ROW)
HAPPENINGS = st.one_of(  # mostly what policies are about: changes of one row over the other
    *[A_CHANGE] * 6,
    *[A_STRANGERS] * 4,
    happening("a_process_dies_over_a_row", run=A_RUN, row=A_ROW, happened=st.booleans(), mute=SELDOM),
    happening(
        "a_step_charges", run=A_RUN, action=st.sampled_from(("card.charge", "points.add")), needs=SELDOM, mute=SELDOM
    ),
    happening("a_process_dies_over_a_charge", run=A_RUN, happened=st.booleans(), mute=SELDOM),
    happening("a_step_mails", run=A_RUN),
    happening("a_charge_is_held", run=A_RUN, needs=st.booleans()),
    happening("what_is_held_is_released"),
    happening("a_run_reads_a_row", run=A_RUN, row=A_ROW),
    happening("a_run_makes_a_checkpoint", run=A_RUN),
    happening("time_passes"),
)

BEFORE = st.lists(HAPPENINGS, max_size=4)


class Scope(NamedTuple):
    """What an undo is asked for, and the steps that this means."""

    runs: tuple[str, ...]
    selection: dict[str, Any]
    steps: list[Made]


class ReadAt(NamedTuple):
    run: str
    row: str
    sequence: int


class PolicyMachine(RuleBasedStateMachine):
    policy: OnConflict

    @initialize()
    def begin(self) -> None:
        self.shop = PolicyShop(self.policy)
        self.truth = self.shop.truth
        self.reads: list[ReadAt] = []
        self.checkpoints: list[tuple[str, int]] = []
        self.retried: set[str] = set()
        for run in RUNS:
            self.shop.put(run, Verified(step_id="0", holds=True))  # so that it is there

    @property
    def made(self) -> list[Made]:
        return list(self.shop.made.values())

    # --- the world goes on ---

    def the_world_goes_on(self, happenings: Happenings) -> None:
        """Before each undo. As rules of their own they would come in runs that have no undo, and undos of nothing."""
        for what, given in happenings:
            getattr(self, what)(**given)

    def a_step_changes_a_row(self, run: str, row: str, needs: bool) -> None:
        self.shop.change(run, row, needs=self.last_of(run) if needs else None)

    def a_process_dies_over_a_row(self, run: str, row: str, happened: bool, mute: bool) -> None:
        self.shop.change(run, row, happened=happened, ends=False, mute=mute)

    def a_step_charges(self, run: str, action: str, needs: bool, mute: bool) -> None:
        self.shop.charge_card(run, action, needs=self.last_of(run) if needs else None, mute=mute)

    def a_process_dies_over_a_charge(self, run: str, happened: bool, mute: bool) -> None:
        self.shop.charge_card(run, "card.charge", happened=happened, ends=False, mute=mute)

    def a_step_mails(self, run: str) -> None:
        self.shop.send(run)

    def a_charge_is_held(self, run: str, needs: bool) -> None:
        self.shop.hold(run, needs=self.last_of(run) if needs else None)

    def what_is_held_is_released(self) -> None:
        for made in self.made:
            if self.is_held(made):
                self.shop.release(made)

    def somebody_changes_a_row(self, row: str) -> None:
        self.shop.change_as_somebody_else(row)

    def a_run_reads_a_row(self, run: str, row: str) -> None:
        self.reads.append(ReadAt(run, row, self.shop.read(run, row)))

    def a_run_makes_a_checkpoint(self, run: str) -> None:
        name = f"checkpoint-{len(self.checkpoints)}"
        self.shop.put(run, Checkpointed(checkpoint_id=name, verified=True))
        self.checkpoints.append((run, self.shop.entries()[-1].sequence))

    def time_passes(self) -> None:
        self.shop.clock.advance(IN_DOUBT_AFTER.total_seconds())

    def last_of(self, run: str) -> Made | None:
        return next((made for made in reversed(self.made) if made.ref.run_id == run), None)

    def is_held(self, made: Made) -> bool:
        return self.shop.record_of(made).is_held

    # --- an operator comes ---

    @rule(
        first=BEFORE,
        way=st.sampled_from(WAYS),
        runs=st.sets(A_RUN, min_size=1),
        row=A_ROW,
        may_force=st.booleans(),
        between=st.none() | A_ROW | st.just("release"),
        parallel=st.sampled_from((1, 3)),
    )
    def undo(
        self, first: Happenings, way: str, runs: set[str], row: str, may_force: bool, between: str | None, parallel: int
    ) -> None:
        """All of some runs or a part of them; something may come between plan and undo."""
        self.the_world_goes_on(first)
        scope = self.scope_of(way, sorted(runs), row)
        if scope is None:
            return
        plan = self.plan(scope, may_force=may_force)
        stranger: Write | None = None
        if between == "release":
            self.what_is_held_is_released()
        elif between is not None:
            self.shop.change_as_somebody_else(between)
            stranger = self.truth.writes[between][-1]
        open_ones = [made for made in scope.steps if made.end in (None, SUPERSEDED) and not made.dropped]
        superseded = [made for made in self.made if made.end is SUPERSEDED]
        known = {made.ref: self.shop.record_of(made) for made in open_ones}
        writes = {row: list(found) for row, found in self.truth.writes.items()}
        written = len(self.shop.setting.writes)
        self.shop.apply(plan, parallel=parallel, reason="the rows are ours")
        restored = self.shop.setting.restores[written:]
        self.see_what_the_journal_says()
        for made in sorted(open_ones, key=lambda each: -each.sequences[0]):
            if known[made.ref].is_held:
                assert made.dropped, "U15"
            elif made.end is None:
                assert between == "release", "everything is accounted for"
            else:
                row_now = writes.get(made.row, [])
                under = under_of(made, superseded)
                if made in superseded and (self.truth.value_of(row_now) != made.after or stranger in row_now):
                    # One that an undo had put back before it died may be found so, once what came later is gone.
                    was_back = self.is_undone_at_target(made, row_now) and self.truth.value_of(row_now) == made.before
                    assert made.end is SUPERSEDED or stranger in row_now or was_back, "CF4, CF5"
                elif under is not None and (under not in scope.steps or under.end is SUPERSEDED):
                    assert made.ref not in restored, "nothing superseded is brought back (CF5)"
                else:
                    ends = self.ends_of(made, known[made.ref], row_now, may_force=may_force, between=stranger)
                    ends |= set() if under is None else {REVIEW}
                    if made in superseded and REVIEW in ends:
                        ends |= {SUPERSEDED}  # it is left as it was, until nothing holds it back
                    if between == "release" and may_force and made.row:
                        ends |= {REVIEW}  # what was to be forced over it may be held back, and this one was not shown
                    assert made.end in ends, f"{made} ended otherwise, known by then: {known[made.ref]}"
                if made.end in (RESTORED, MERGED) and made.ref in restored:
                    writes[made.row] = self.truth.without(row_now, made)
        assert writes == self.truth.writes, "the world is the one without what was undone"
        left = self.scope_of(way, sorted(runs), row)  # what a cascade has undone is in it no more
        assert left is not None
        assert between == "release" or self.plan(left, may_force=may_force).is_settled, "twice is once"

    @rule(
        first=BEFORE,
        way=st.sampled_from(WAYS),
        runs=st.sets(A_RUN, min_size=1),
        row=A_ROW,
        may_force=st.booleans(),
        parallel=st.sampled_from((1, 3)),
        at=st.integers(2, 9),
    )
    def an_undo_dies(
        self, first: Happenings, way: str, runs: set[str], row: str, may_force: bool, parallel: int, at: int
    ) -> None:
        """Before or after one of its appends, from its first intent on."""
        self.the_world_goes_on(first)
        scope = self.scope_of(way, sorted(runs), row)
        if scope is None:
            return
        plan = self.plan(scope, may_force=may_force)
        self.shop.fuse.left = at
        with contextlib.suppress(Died):
            self.shop.apply(plan, parallel=parallel, reason="the rows are ours")
        self.shop.fuse.left = -1
        self.see_what_the_journal_says()

    def plan(self, scope: "Scope", *, may_force: bool) -> Plan:
        plan = self.shop.plan(*scope.runs, may_force=may_force, **scope.selection)
        assert {item.step for item in plan.items} == {made.ref for made in scope.steps}, "U1, U21"
        return plan

    def scope_of(self, way: str, runs: list[str], row: str) -> Scope | None:
        """None if there is nothing of that kind to be undone."""
        target, steps = str(row_of(row)), [made for made in self.made if made.ref.run_id in runs]
        match way:
            case "a row" | "all but a row" if all(made.row != row for made in steps):
                return None
            case "a row":
                return Scope(tuple(runs), {"targets": (target,)}, [made for made in steps if made.row == row])
            case "all but a row":
                return Scope(tuple(runs), {"exclude": (target,)}, [made for made in steps if made.row != row])
            case "since a checkpoint" if not self.checkpoints:
                return None
            case "since a checkpoint":
                number = (len(self.checkpoints) - 1 - ROWS.index(row)) % len(self.checkpoints)
                run, sequence = self.checkpoints[number]
                later = [made for made in self.made if made.ref.run_id == run and made.sequences[0] > sequence]
                return Scope((), {"to_checkpoint": f"checkpoint-{number}"}, later)
            case "cascade":
                return Scope(tuple(runs), {"cascade": True}, steps + self.dependents_of(steps))
        return Scope(tuple(runs), {}, steps)

    def dependents_of(self, chosen: list[Made]) -> list[Made]:
        """Later steps that overwrote, read or needed what these wrote, and so on: all that are not undone (U21)."""
        found = [made for made in chosen if not nothing_happened(made)]
        first = min((made.sequences[0] for made in found), default=0)
        others = [
            made
            for made in self.made
            if made not in chosen and (made.sequences[0] > first or made.sequences[1] < NO_END)
        ]
        for made in found:  # which grows meanwhile
            found += [each for each in others if each not in found and self.took(each, made)]
        return [made for made in found if made not in chosen and made.end not in GONE]

    def took(self, later: Made, made: Made) -> bool:
        began, ended = made.sequences[0], later.sequences[1]
        read = (each.sequence for each in self.reads if (each.run, each.row) == (later.ref.run_id, made.row))
        since = [sequence for sequence in read if sequence > began] + [began] * (later.row == made.row != "")
        return not nothing_happened(later) and (later.needs is made or any(ended > each for each in since))

    # --- which ends a step may have ---

    def ends_of(
        self, made: Made, known: StepRecord, writes: list[Write], *, may_force: bool, between: Write | None
    ) -> set[Disposition]:
        """The ends that a step may have, if in its turn its row is made of these writes.

        `known` is what the journal said of it before, `between` what was written between plan and undo.
        """
        if made.is_for_good:
            return {REVIEW}
        if not made.row:
            ends = self.ends_of_charge(made, known)
        elif between in writes:  # what needs no undo is settled as it was planned; nothing is forced that nobody saw
            planned = [write for write in writes if write is not between]
            ends = {REVIEW} | self.ends_of_row(made, known, writes) | self.ends_of_row(made, known, planned)
        else:
            ends = self.ends_of_row(made, known, writes, may_force=may_force)
        if not any(each.needs is made and each.may_stay for each in self.made):
            return ends
        is_done = known.compensation_open or self.is_undone_at_target(made, writes)
        return {REVIEW} | (ends if is_done else ends & {NEVER, SUPERSEDED})

    def is_undone_at_target(self, made: Made, writes: list[Write]) -> bool:
        return made.row != "" and all(write.by != made.ref for write in writes)

    def ends_of_row(
        self, made: Made, known: StepRecord, writes: list[Write], *, may_force: bool = False
    ) -> set[Disposition]:
        now, merges = self.truth.value_of(writes), self.policy is OnConflict.MERGE
        if made.doubt and known.found is None:
            if not made.happened:
                nobody_knows = made.mute or self.shop.is_young(made)
                return {REVIEW} if nobody_knows and now != made.before else {NEVER}
            if made.mute:
                return {REVIEW}
        if self.is_undone_at_target(made, writes):  # by an undo that died, or one of an older step that was forced
            if now == made.before:
                return {RESTORED, MERGED}
            if merges:
                return {REVIEW} | (
                    {MERGED} if known.overwriting and known.overwriting.leaves == version_of(now) else set()
                )
            if self.policy is OnConflict.FORCE and may_force and known.compensation_open:
                return {RESTORED, REVIEW}  # by whom it was put back decides; `take_out` holds that against the truth
            may_force = False
        elif now == made.after:
            return {RESTORED, MERGED} if merges else {RESTORED}
        match self.policy:
            case OnConflict.REVIEW:
                return {REVIEW}
            case OnConflict.SKIP:
                return {SUPERSEDED}
            case OnConflict.FORCE:
                return {RESTORED} if may_force else {REVIEW}
            case OnConflict.MERGE:
                return {MERGED, REVIEW} if known.compensation_open else {MERGED}

    def ends_of_charge(self, made: Made, known: StepRecord) -> set[Disposition]:
        if made.doubt and known.found is None:
            if made.mute or (not made.happened and self.shop.is_young(made)):
                return {REVIEW}
            if not made.happened:
                return {NEVER}
        if known.compensation_open and made.action == "card.charge":
            return {COMPENSATED, REVIEW}
        return {COMPENSATED}

    # --- a person decides ---

    @rule(number=st.integers(0, 3))
    def a_person_decides(self, number: int) -> None:
        """By what is really so: what is undone is done, what stands is tried again."""
        tasks = list_tasks(self.shop.journal)
        if not tasks:
            return
        task = tasks[number % len(tasks)]
        steps = [self.shop.made[ref] for ref in task.steps]
        stands = [not self.is_gone(made) for made in steps]
        resolution = "retry" if all(stands) else "not_needed" if any(stands) else "done"
        resolve_task(self.shop.journal, task.task_id, resolution, actor="ann", clock=self.shop.clock)
        if resolution == "retry":
            self.retried.add(task.task_id)
        for made in steps:
            made.settled = resolution != "retry"
            made.retries += resolution == "retry"
        self.see_what_the_journal_says()

    def is_gone(self, made: Made) -> bool:
        """Whether nothing is left of its effect."""
        if made.is_for_good or not made.happened:
            return not made.happened
        return not self.truth.holds(made) if made.row else self.shop.is_refunded(made)

    def see_what_the_journal_says(self) -> None:
        for made in self.made:
            record = self.shop.record_of(made)
            asked_again = record.disposition is REVIEW and record.task_id in self.retried
            made.end = None if asked_again else record.disposition
            made.dropped = isinstance(record.outcome, Failed)
            made.sequences = record.intended_sequence, record.ended_sequence or NO_END

    # --- what holds at any time ---

    @invariant()
    def no_tool_did_what_it_must_not(self) -> None:
        assert self.truth.faults == []

    @invariant()
    def the_rows_are_made_of_what_was_written_and_not_taken_out(self) -> None:
        assert self.shop.rows == {row: self.truth.value(row) for row in ROWS}

    @invariant()
    def each_end_is_true(self) -> None:
        waiting = {ref for task in list_tasks(self.shop.journal) for ref in task.steps}
        for made in self.made:
            match made.end:
                case None:
                    assert made.ref not in waiting
                case Disposition.RESTORED | Disposition.MERGED | Disposition.COMPENSATED:
                    assert self.is_gone(made)
                case Disposition.NEVER_TOOK_EFFECT:
                    assert not made.happened
                case Disposition.SUPERSEDED:
                    assert self.policy is OnConflict.SKIP
                case Disposition.REVIEW:
                    assert made.settled is not (made.ref in waiting), "U12"

    @invariant()
    def each_step_has_one_end(self) -> None:
        """But for those that were opened again: by a person, or because what stood in its place is gone (CF5)."""
        ends = self.shop.ends()
        for made in self.made:
            found = ends.get(made.ref, [])
            assert len(found) == made.retries + (made.end is not None) + found[:-1].count(SUPERSEDED)

    @invariant()
    def nobody_gets_money_back_twice(self) -> None:
        """U9: points may be sent again under their key, money may not; and what was not taken is not given back."""
        assert set(self.shop.charging.refunds.values()) <= {1}
        given_back = set(self.shop.charging.refunds + self.shop.points.refunds)
        assert given_back <= {f"undo:{made.ref.run_id}:{made.ref.step_id}" for made in self.made if made.happened}

    def teardown(self) -> None:
        """The chains hold."""
        last: dict[str, bytes] = {}
        for entry in self.shop.entries() if hasattr(self, "shop") else ():
            run_id, at_us = entry.run.run_id, to_us(entry.recorded_at)
            (prepared,) = prepare([Draft(run_id=run_id, event=entry.event, recorded_at_us=at_us)])
            last[run_id] = entry_hash(last.get(run_id, genesis(run_id)), entry.position, at_us, prepared.body)
            assert entry.hash == last[run_id].hex()


def under_of(made: Made, superseded: list[Made]) -> Made | None:
    """The superseded step whose value the restore of this one would bring back."""
    under = (each for each in superseded if each.row == made.row != "" and each.number < made.number)
    return next((each for each in under if each.after == made.before), None)


def nothing_happened(made: Made) -> bool:
    """As far as the journal knows: no other step depends on it (IM5)."""
    return made.dropped or made.end is NEVER


def as_often_as(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        phases=[phase for phase in Phase if phase is not Phase.explain],  # it slows each thread down that is traced
        suppress_health_check=[HealthCheck.too_slow],
    )


class UnderReview(PolicyMachine):
    policy = OnConflict.REVIEW


class UnderSkip(PolicyMachine):
    policy = OnConflict.SKIP

    @precondition(lambda self: any(made.end is SUPERSEDED for made in self.made))
    @rule(number=st.integers(0, 3), runs=st.sets(A_RUN, min_size=1), parallel=st.sampled_from((1, 3)))
    def what_stood_over_a_superseded_step_goes(self, number: int, runs: set[str], parallel: int) -> None:
        """As far as it was somebody else's; then it is undone again, or what is left over it is (CF5)."""
        superseded = [made for made in self.made if made.end is SUPERSEDED]
        row = superseded[number % len(superseded)].row
        self.shop.take_back_as_somebody_else(row)
        self.undo([], "runs", runs, row, False, None, parallel)


class UnderForce(PolicyMachine):
    policy = OnConflict.FORCE


class UnderMerge(PolicyMachine):
    policy = OnConflict.MERGE


MACHINES = (UnderReview, UnderSkip, UnderForce, UnderMerge)


@pytest.mark.parametrize("machine", MACHINES)
def test_undo_under_a_policy_keeps_to_the_model(machine: type[PolicyMachine]) -> None:
    run_state_machine_as_test(machine, settings=as_often_as(60, 15))


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_undo_under_a_policy_keeps_to_the_model_for_longer(machine: type[PolicyMachine]) -> None:
    run_state_machine_as_test(machine, settings=as_often_as(600, 40))
