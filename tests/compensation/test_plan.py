"""The planner's rules, one by one. Steps are written oldest first; a plan's first item is undone first."""

from datetime import timedelta

import msgspec
import pytest

from builders import NOON
from compensation.undo_world import Charging, RowSetting, Shop, decisions, row_of
from rescind.compensation.decision import Plan, check_digest
from rescind.compensation.planning.known import Known, Observation
from rescind.compensation.planning.plan import plan_undo
from rescind.compensation.planning.selection import Selection, read_steps
from rescind.compensation.planning.survey import make_plan
from rescind.errors import PlanOutdated
from rescind.model.action import Action, EffectClass
from rescind.model.entry import CompensationIntended, StepRef
from rescind.model.history import StepRecord
from rescind.model.outcome import Completed, Failed, Unknown
from rescind.model.step import Snapshot, Target


@pytest.fixture
def shop() -> Shop:
    return Shop()


def detail_of(plan: Plan, step_id: str) -> str:
    decision = next(item.decision for item in plan.items if item.step.step_id == step_id)
    return str(getattr(decision, "detail", "") or getattr(decision, "because", "") or getattr(decision, "note", ""))


# --- order (U2) ---


def test_newest_effect_is_undone_first_and_what_cannot_be_goes_to_a_person(shop: Shop) -> None:
    shop.charge()
    shop.mail()
    shop.set("tea", 3)

    assert decisions(shop.plan()) == (("3", "restore"), ("2", "review: irreversible"), ("1", "compensate"))
    assert detail_of(shop.plan(), "2") == "a mail cannot be unsent"


def test_a_causal_parent_is_undone_after_its_child_even_if_it_was_recorded_later(shop: Shop) -> None:
    shop.charge(causal_parents=("2",))
    shop.charge()

    assert [step for step, _ in decisions(shop.plan())] == ["1", "2"]


def test_a_causal_parent_may_be_in_another_run(shop: Shop) -> None:
    shop.charge("run-2", causal_parents=("run-1/2",))
    shop.charge("run-1")

    plan = shop.plan("run-1", "run-2")
    assert [str(item.step) for item in plan.items] == ["run-2/1", "run-1/2"]
    assert plan.items[1].waits_for == (StepRef("run-2", "1"),)


def test_step_ids_are_never_compared_as_texts(shop: Shop) -> None:
    for step_id in ("9", "10", "8"):
        shop.charge(step_id=step_id)

    assert [step for step, _ in decisions(shop.plan())] == ["8", "10", "9"]


def test_steps_of_one_target_wait_for_their_nearest_newer_neighbour_only(shop: Shop) -> None:
    for value in range(4):
        shop.set("tea", value)

    assert [len(item.waits_for) for item in shop.plan().items] == [0, 1, 1, 1]


def test_a_contradiction_drops_same_target_edges_before_causal_ones(shop: Shop) -> None:
    shop.charge(target=row_of("tea"), causal_parents=("2",))  # an import in the wrong order
    shop.charge(target=row_of("tea"))

    assert [step for step, _ in decisions(shop.plan())] == ["1", "2"]


def test_a_contradiction_drops_causal_edges_before_declared_ones(shop: Shop) -> None:
    shop.charge(depends_on=("2",))
    shop.charge(causal_parents=("1",))

    plan = shop.plan()
    assert [step for step, _ in decisions(plan)] == ["1", "2"]
    assert plan.items[1].blocks_on == (StepRef("run-1", "1"),)


def test_edges_outside_the_contradiction_stay(shop: Shop) -> None:
    shop.charge(depends_on=("2",))
    shop.charge(causal_parents=("1", "3"))
    shop.charge()

    assert [step for step, _ in decisions(shop.plan())] == ["1", "2", "3"]


def test_declared_dependencies_in_a_circle_go_to_a_person(shop: Shop) -> None:
    shop.charge(depends_on=("2",))
    shop.charge(depends_on=("1",))
    shop.charge(depends_on=("3",))
    shop.charge()

    assert decisions(shop.plan()) == (
        ("4", "compensate"),
        ("3", "review: cycle"),
        ("2", "review: cycle"),
        ("1", "review: cycle"),
    )


def test_what_a_circle_depends_on_is_blocked(shop: Shop) -> None:
    shop.charge()
    shop.charge(depends_on=("3", "1"))
    shop.charge(depends_on=("2",))

    assert dict(decisions(shop.plan()))["1"] == "review: blocked"


def test_an_action_that_comes_after_another_is_undone_before_all_earlier_steps_of_it(shop: Shop) -> None:
    shop.charging = Charging(after=("row.set",))
    shop.set("tea", 1)
    shop.charge()
    shop.set("milk", 2)
    shop.charge()
    shop.set("jam", 3)

    plan = shop.plan()
    gates = {item.step.step_id: item.gates for item in plan.items}
    assert gates == {"5": (), "4": (), "3": (0,), "2": (), "1": (1,)}
    assert plan.gates[1].beyond == 0


def test_after_reaches_only_steps_of_the_same_run(shop: Shop) -> None:
    shop.charging = Charging(after=("row.set",))
    shop.set("tea", 1, "run-1")
    shop.charge("run-2")

    assert shop.plan("run-1", "run-2").gates == ()


def test_a_declared_edge_to_a_step_that_is_not_selected_is_ignored(shop: Shop) -> None:
    shop.charge(depends_on=("gone",), causal_parents=("run-9/1", "gone"))

    assert decisions(shop.plan()) == (("1", "compensate"),)


# --- versions (U3) ---


def test_older_versions_of_a_target_follow_from_one_look(shop: Shop) -> None:
    for value in range(5):
        shop.set("tea", value)

    assert set(dict(decisions(shop.plan())).values()) == {"restore"}
    assert shop.setting.looks == 1


def test_a_later_change_outside_the_journal_is_a_conflict(shop: Shop) -> None:
    shop.set("tea", 1)
    shop.rows["tea"] = 99

    plan = shop.plan()
    assert decisions(plan) == (("1", "review: conflict"),)
    assert detail_of(plan, "1") == "the target was changed after this step, outside the journal"


def test_a_later_change_by_another_run_is_a_conflict_that_names_it(shop: Shop) -> None:
    shop.set("tea", 1, "run-1")
    shop.set("tea", 2, "run-2")

    plan = shop.plan("run-1")
    assert decisions(plan) == (("1", "review: conflict"),)
    assert "run-2/2 of billing-agent@2.4.0" in detail_of(plan, "1")


def test_a_change_by_another_run_in_between_stops_the_undo_there(shop: Shop) -> None:
    shop.set("tea", 1, "run-1")
    shop.set("tea", 2, "run-2")
    shop.set("tea", 3, "run-1")

    assert decisions(shop.plan("run-1")) == (("3", "restore"), ("1", "review: conflict"))


def test_a_conflict_names_the_step_of_the_plan_that_stays(shop: Shop) -> None:
    shop.set("tea", 1)
    shop.set("tea", 2)
    shop.rows["tea"] = 99

    plan = shop.plan()
    assert decisions(plan) == (("2", "review: conflict"), ("1", "review: conflict"))
    assert "run-1/2, which stays" in detail_of(plan, "1")


def test_a_target_that_is_as_before_already_needs_nothing(shop: Shop) -> None:
    shop.rows["tea"] = 7
    shop.set("tea", 1)
    shop.rows["tea"] = 7

    assert decisions(shop.plan()) == (("1", "settle: restored"),)


def test_a_step_that_changed_nothing_is_never_in_conflict(shop: Shop) -> None:
    shop.rows["tea"] = 7
    shop.set("tea", 7)
    shop.rows["tea"] = 99

    assert decisions(shop.plan()) == (("1", "settle: restored"),)


def test_steps_under_one_coarse_target_are_looked_at_one_by_one_before_there_is_a_conflict(shop: Shop) -> None:
    class Shelf(type(shop.setting)):  # type: ignore[misc]
        def observe(self, record: object) -> Snapshot:
            self.looks += 1
            return Snapshot.of(self.rows.get(record.step.requested["row"]))  # type: ignore[attr-defined]

    shop.setting = Shelf(shop.rows)
    for row, value in (("tea", "old tea"), ("jam", "old jam")):
        shop.rows[row] = value
        ref = shop.intend(
            "row.set",
            EffectClass.REVERSIBLE,
            target=Target("shop", "shelf"),
            before=Snapshot.of(value),
            requested={"row": row},
        )
        shop.rows[row] = f"new {row}"
        shop.end(ref, Completed(), Snapshot.of(f"new {row}"))

    assert decisions(shop.plan()) == (("2", "restore"), ("1", "restore"))


def test_equal_contents_under_one_coarse_target_are_not_taken_for_undone() -> None:
    """Two accounts, both reactivated: what is seen of one says nothing of the other (U4)."""
    target = Target("crm", "accounts")
    shop = Shop()
    for _ in range(2):
        before = Snapshot.of("cancelled")
        ref = shop.intend("row.set", EffectClass.REVERSIBLE, target=target, before=before)
        shop.end(ref, Completed(), Snapshot.of("active"))
    seen = {StepRef("run-1", step): Observation.of(Snapshot.of("active")) for step in ("1", "2")}
    known = Known(actions={"row.set": shop.setting.action}, observations=seen, now=NOON)

    assert decisions(plan_undo(read_steps(shop.journal, ["run-1"]), known)) == (("2", "restore"), ("1", "restore"))


def test_what_was_seen_of_a_step_itself_counts_beside_the_forecast() -> None:
    """Two accounts with different pasts and one present: neither is in conflict."""
    shop = Shop()
    for past in ("cancelled", "paused"):
        before = Snapshot.of(past)
        ref = shop.intend("row.set", EffectClass.REVERSIBLE, target=Target("crm", "accounts"), before=before)
        shop.end(ref, Completed(), Snapshot.of("active"))
    seen = {StepRef("run-1", step): Observation.of(Snapshot.of("active")) for step in ("1", "2")}
    known = Known(actions={"row.set": shop.setting.action}, observations=seen, now=NOON)

    plan = plan_undo(read_steps(shop.journal, ["run-1"]), known)
    assert decisions(plan) == (("2", "restore"), ("1", "restore"))
    assert detail_of(plan, "1") == "after the newer steps at its target are put back; checked again then"


def test_actions_that_look_at_different_parts_of_a_target_do_not_disturb_each_other(shop: Shop) -> None:
    class Amount(RowSetting):
        def observe(self, record: StepRecord) -> Snapshot:
            self.looks += 1
            return Snapshot.of({"amount": self.rows.get("amount")})

    amount = Amount(shop.rows, Action(name="amount.set", effect_class=EffectClass.REVERSIBLE))
    shop.set("tea", 1)
    before = Snapshot.of({"amount": None})
    ref = shop.intend("amount.set", EffectClass.REVERSIBLE, target=row_of("tea"), before=before)
    shop.rows["amount"] = 5
    shop.end(ref, Completed(), Snapshot.of({"amount": 5}))
    shop.set("tea", 2)

    compensators = shop.compensators | {"amount.set": amount}
    plan = make_plan(shop.journal, Selection(run_ids=("run-1",)), compensators, shop.clock)
    assert decisions(plan) == (("3", "restore"), ("2", "restore"), ("1", "restore"))
    assert (shop.setting.looks, amount.looks) == (1, 1)


def test_parts_of_a_target_that_overlap_are_compared_in_their_turn(shop: Shop) -> None:
    """What the older step sees changes with the undo of the newer one, so today's look at it proves nothing."""
    whole = RowSetting(shop.rows, Action(name="whole.set", effect_class=EffectClass.REVERSIBLE))
    whole.observe = lambda record: Snapshot.of({"row": shop.rows["tea"]})  # type: ignore[method-assign]
    ref = shop.intend("whole.set", EffectClass.REVERSIBLE, target=row_of("tea"), before=Snapshot.of({"row": None}))
    shop.rows["tea"] = 1
    shop.end(ref, Completed(), Snapshot.of({"row": 1}))
    shop.set("tea", 2)

    compensators = shop.compensators | {"whole.set": whole}
    plan = make_plan(shop.journal, Selection(run_ids=("run-1",)), compensators, shop.clock)
    assert decisions(plan) == (("2", "restore"), ("1", "restore"))
    assert "checked again then" in detail_of(plan, "1")


def test_a_target_that_cannot_be_looked_at_goes_to_a_person(shop: Shop) -> None:
    shop.set("tea", 1)
    shop.setting.observe = lambda record: 1 / 0  # type: ignore[method-assign]

    plan = shop.plan()
    assert decisions(plan) == (("1", "review: cannot_look"),)
    assert "ZeroDivisionError" in detail_of(plan, "1")


def test_a_step_without_an_image_goes_to_a_person(shop: Shop) -> None:
    ref = shop.intend("row.set", EffectClass.REVERSIBLE, target=row_of("tea"), before=Snapshot(ref="snap_1"))
    shop.end(ref, Completed(), Snapshot(ref="snap_2"))

    assert decisions(shop.plan()) == (("1", "review: no_snapshot"),)


# --- doubt (U4) ---


def test_a_step_in_doubt_whose_target_is_as_before_never_took_effect(shop: Shop) -> None:
    shop.intend("row.set", EffectClass.REVERSIBLE, target=row_of("tea"), before=Snapshot.of(None))

    assert decisions(shop.plan()) == (("1", "settle: never_took_effect"),)


def test_a_step_in_doubt_whose_target_has_changed_goes_to_a_person(shop: Shop) -> None:
    shop.set("tea", 1, outcome=Unknown("no reply in 30 s"))

    plan = shop.plan()
    assert decisions(plan) == (("1", "review: in_doubt"),)
    assert "no reply in 30 s" in detail_of(plan, "1")


def test_a_step_in_doubt_below_a_newer_one_is_checked_in_its_turn(shop: Shop) -> None:
    shop.intend("row.set", EffectClass.REVERSIBLE, target=row_of("tea"), before=Snapshot.of(None))
    shop.set("tea", 5)

    plan = shop.plan()
    assert decisions(plan) == (("2", "restore"), ("1", "settle: never_took_effect"))
    assert shop.apply(plan).counts == {"never_took_effect": 1, "restored": 1}


def test_a_compensatable_step_in_doubt_goes_to_a_person(shop: Shop) -> None:
    shop.intend("card.charge", EffectClass.COMPENSATABLE)
    ref = shop.intend("card.charge", EffectClass.COMPENSATABLE)
    shop.end(ref, Unknown("timeout"))

    assert {decision for _, decision in decisions(shop.plan())} == {"review: in_doubt"}


def test_a_failed_step_needs_nothing(shop: Shop) -> None:
    shop.set("tea", 1, outcome=Failed("sold out"))

    plan = shop.plan()
    assert decisions(plan) == (("1", "already_undone: never_took_effect"),)
    assert plan.is_settled


@pytest.mark.parametrize(("idempotent", "decision"), [(False, "review: in_doubt"), (True, "compensate")])
def test_a_compensation_without_an_end_is_repeated_only_if_that_is_safe(
    shop: Shop, idempotent: bool, decision: str
) -> None:
    shop.charging = Charging(idempotent=idempotent)
    ref = shop.charge()
    begin_compensation(shop, ref)

    assert decisions(shop.plan()) == (("1", decision),)


def test_a_restore_without_an_end_is_decided_by_looking(shop: Shop) -> None:
    refs = [shop.set(row, 1) for row in ("tea", "jam", "milk")]
    for ref in refs:
        begin_compensation(shop, ref)
    del shop.rows["tea"]
    shop.rows["milk"] = 99

    assert decisions(shop.plan()) == (("3", "review: conflict"), ("2", "restore"), ("1", "settle: restored"))


def begin_compensation(shop: Shop, ref: StepRef) -> None:
    event = CompensationIntended(step_id=ref.step_id, kind="any", idempotency_key="k", plan_digest="d")
    shop.put(ref.run_id, event)


# --- declarations and deadlines ---


def test_a_step_past_its_deadline_goes_to_a_person(shop: Shop) -> None:
    shop.charge(allowed_until=shop.clock.now() + timedelta(hours=1))
    shop.set("tea", 1, allowed_until=shop.clock.now() + timedelta(hours=1))
    assert decisions(shop.plan()) == (("2", "restore"), ("1", "compensate"))

    shop.clock.advance(3600)
    assert decisions(shop.plan()) == (("2", "review: past_deadline"), ("1", "review: past_deadline"))


def test_an_action_that_is_not_declared_or_declared_otherwise_goes_to_a_person(shop: Shop) -> None:
    shop.charge(action="gone")
    shop.intend("card.charge", EffectClass.REVERSIBLE, before=Snapshot.of(1))
    shop.intend("card.charge", None)

    plan = shop.plan()
    assert {decision for _, decision in decisions(plan)} == {"review: not_declared"}
    assert detail_of(plan, "2") == "it was reversible when it was made, and is compensatable now"


# --- what was declared to depend (U5) ---


def test_a_conflict_keeps_what_the_step_was_declared_to_depend_on(shop: Shop) -> None:
    shop.charge()
    shop.charge(depends_on=("1",))
    shop.set("tea", 1, depends_on=("2",))
    shop.rows["tea"] = 99

    plan = shop.plan()
    assert decisions(plan) == (("3", "review: conflict"), ("2", "review: blocked"), ("1", "review: blocked"))
    assert "run-1/3" in detail_of(plan, "2")


def test_causes_and_targets_only_order(shop: Shop) -> None:
    shop.charge(target=row_of("tea"))
    shop.set("tea", 1, causal_parents=("1",))
    shop.rows["tea"] = 99

    assert decisions(shop.plan()) == (("2", "review: conflict"), ("1", "compensate"))


def test_what_can_never_be_undone_holds_nothing_back(shop: Shop) -> None:
    shop.charge()
    shop.mail(depends_on=("1",))
    shop.charge(depends_on=("1",), allowed_until=shop.clock.now())

    assert dict(decisions(shop.plan()))["1"] == "compensate"


def test_a_gate_holds_back_everything_behind_it(shop: Shop) -> None:
    shop.charging = Charging(after=("row.set",))
    shop.set("tea", 1)
    shop.set("jam", 1)
    shop.charge()
    shop.set("milk", 1)
    shop.intend("card.charge", EffectClass.COMPENSATABLE)  # in doubt

    by_step = dict(decisions(shop.plan()))
    assert by_step == {
        "5": "review: in_doubt",
        "4": "review: blocked",
        "3": "compensate",
        "2": "review: blocked",
        "1": "review: blocked",
    }


def test_an_open_review_blocks_until_it_is_decided(shop: Shop) -> None:
    shop.charge()
    shop.set("tea", 1)
    shop.rows["tea"] = 99
    shop.apply()
    shop.charge(depends_on=("2",))
    shop.set("jam", 1, depends_on=("1",))

    assert dict(decisions(shop.plan())) == {
        "4": "restore",
        "3": "compensate",
        "2": "already_in_review: conflict",
        "1": "already_undone: compensated",
    }


# --- the plan as a value (U1, U6) ---


def test_the_digest_is_the_same_in_whatever_order_everything_is_given(shop: Shop) -> None:
    shop.set("tea", 1)
    shop.charge(depends_on=("1",))
    shop.set("jam", 1)
    shop.rows["jam"] = 99
    records = read_steps(shop.journal, ["run-1"])
    actions = {name: each.action for name, each in shop.compensators.items()}
    seen = {record.ref: Observation("v") for record in records}

    def planned(step: int) -> Plan:
        return plan_undo(
            records[::step],
            Known(
                actions=dict(list(actions.items())[::step]),
                observations=dict(list(seen.items())[::step]),
                now=NOON,
            ),
        )

    assert planned(1) == planned(-1)


def test_the_digest_changes_with_what_would_be_done(shop: Shop) -> None:
    shop.set("tea", 1)
    before = shop.plan()
    assert shop.plan().digest == before.digest
    check_digest(before, before.digest[:12])

    shop.rows["tea"] = 99
    with pytest.raises(PlanOutdated, match="has changed since it was shown"):
        check_digest(shop.plan(), before.digest)


def test_an_exceptions_text_does_not_change_the_digest(shop: Shop) -> None:
    shop.set("tea", 1)

    def fail(record: object) -> None:
        raise OSError(f"connection {object()!r} failed")

    shop.setting.observe = fail  # type: ignore[method-assign]
    assert shop.plan().digest == shop.plan().digest


def test_a_plan_survives_json(shop: Shop) -> None:
    shop.charging = Charging(after=("row.set",))
    shop.set("tea", 1)
    shop.charge()
    shop.mail()
    shop.set("jam", 1, outcome=Failed("no"))
    plan = shop.plan()

    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


def test_a_plan_of_one_tenant_belongs_to_it(shop: Shop) -> None:
    shop.charge("run-1")
    assert shop.plan("run-1").tenant == "acme"

    shop.put("run-2", CompensationIntended(step_id="0", kind="", idempotency_key="", plan_digest=""), tenant="other")
    shop.charge("run-2")
    assert shop.plan("run-1", "run-2").tenant == ""


def test_reversible_steps_without_a_target_are_undone_in_turn() -> None:
    shop = Shop()
    for number in range(2):
        before, after = Snapshot.of(number), Snapshot.of(number + 1)
        shop.end(shop.intend("row.set", EffectClass.REVERSIBLE, before=before), Completed(), after)
    known = Known(
        actions={"row.set": Action(name="row.set", effect_class=EffectClass.REVERSIBLE)},
        observations={StepRef("run-1", step): Observation.of(Snapshot.of(2)) for step in ("1", "2")},
        now=NOON,
    )

    plan = plan_undo(read_steps(shop.journal, ["run-1"]), known)
    assert decisions(plan) == (("2", "restore"), ("1", "restore"))
    assert plan.items[1].waits_for == (StepRef("run-1", "2"),)


# --- steps that overlap, or that something came between ---


def test_a_conflict_names_the_step_of_the_plan_that_overlapped(shop: Shop) -> None:
    before = Snapshot.of(None)
    first, second = (
        shop.intend("row.set", EffectClass.REVERSIBLE, target=row_of("tea"), before=each)
        for each in (before, Snapshot.of("half of it"))
    )
    shop.end(second, Completed(), Snapshot.of(5))
    shop.end(first, Completed(), Snapshot.of(6))
    shop.rows["tea"] = 6

    plan = shop.plan()
    assert decisions(plan) == (("1", "restore"), ("2", "review: conflict"))
    assert detail_of(plan, "2") == "the target was changed while this step was under way by run-1/1"


def test_a_conflict_says_between_which_steps_of_the_plan_something_came(shop: Shop) -> None:
    shop.set("tea", 1)
    shop.rows["tea"] = 50
    shop.set("tea", 2)

    plan = shop.plan()
    assert decisions(plan) == (("2", "restore"), ("1", "review: conflict"))
    assert detail_of(plan, "1") == (
        "undoing run-1/2 does not give what this step left: the target was changed between the two"
    )


# --- what a selection leaves out (U5) ---


@pytest.mark.parametrize("how", ["depends_on", "after"])
def test_what_a_step_outside_the_selection_depends_on_stays(shop: Shop, how: str) -> None:
    if how == "after":
        shop.charging = Charging(after=("row.set",))
    shop.set("jam", 1)
    shop.set("tea", 1, depends_on=("1",))
    shop.clock.sleep(60)
    until = shop.clock.now()
    shop.charge(depends_on=("2",) if how == "depends_on" else ())
    shop.set("sugar", 1)
    shop.clock.sleep(60)

    plan = shop.plan(until=until)
    assert decisions(plan) == (("2", "review: blocked"), ("1", "review: blocked"))
    assert detail_of(plan, "2") == "step 3 (card.charge) depends on it and is outside this selection"

    shop.apply(shop.plan(since=until))
    assert dict(decisions(shop.plan(until=until))) == {"2": "restore", "1": "restore"}


def test_what_can_never_be_undone_outside_the_selection_holds_nothing_back(shop: Shop) -> None:
    shop.set("tea", 1)
    shop.clock.sleep(60)
    until = shop.clock.now()
    shop.mail(depends_on=("1",))

    assert decisions(shop.plan(until=until)) == (("1", "restore"),)
