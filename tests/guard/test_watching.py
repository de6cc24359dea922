"""A guard under a policy: what is found is answered before the call goes on, and what was ordered holds."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from builders import a_guard, events_of
from guard.shop import Shop
from rescind.containment.incident import list_incidents
from rescind.errors import CallDenied, LeaseRevoked, OrdersUnavailable, RunHalted
from rescind.model.entry import IncidentOpened, Refused, RunSnapshot
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.scope import Scope
from rescind.model.signal import SignalKind
from rescind.switch.desk import lift_scope, new_order
from rescind.switch.memory import MemoryOrders

BLAST = """
policy:
  detect:
    blast_radius: {records_per_run: 3}
  respond:
    - {signal: blast_radius, then: %s}
"""


def test_v1_the_record_beyond_the_limit_is_never_touched_and_the_run_is_contained(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "[deny, read_only on agent@version, incident]")
    with shop.guard.run("clerk@1") as run:
        for number in range(3):
            shop.put(f"tea {number}")
        with pytest.raises(CallDenied):
            shop.put("tea 3")
        with pytest.raises(CallDenied):
            shop.put("tea 0")
        assert shop.get("tea") == "tea"

    assert shop.effects == ["tea 0", "tea 1", "tea 2"]
    (order,) = shop.standing()
    (signalled,) = shop.signals()
    assert (order.scope, order.level) == (Scope.parse("agent:clerk@1"), Level.READ_ONLY)
    assert order.trigger == "blast_radius"
    assert order.cause == signalled.signal.signal_id
    assert signalled.signal.kind is SignalKind.BLAST_RADIUS
    (incident,) = list_incidents(shop.guard.journal)
    assert {noted.what for noted in incident.timeline} >= {"signal", "order", "alert"}
    snapshots = [event for event in events_of(shop.guard.journal, run.run_id) if isinstance(event, RunSnapshot)]
    assert [each.order_id for each in snapshots] == [order.order_id]
    assert snapshots[0].steps == 3


def test_v4_what_stands_is_not_placed_again_and_one_incident_holds_all(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "[deny, supervised on agent, incident]")
    for _ in range(3):
        with shop.guard.run("clerk@1"):
            for number in range(5):
                try:
                    shop.put(f"tea {number}")
                except CallDenied:
                    break
    assert len(shop.standing()) == 1
    assert len(list_incidents(shop.guard.journal)) == 1


def test_v3_in_shadow_nothing_is_refused_and_nothing_placed_and_the_journal_says_what_would_have_been(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path, (BLAST % "[deny, halted on run]").replace("policy:", "policy:\n  mode: shadow"))
    with shop.guard.run("clerk@1"):
        for number in range(10):
            shop.put(f"tea {number}")
    assert len(shop.effects) == 10
    assert shop.standing() == ()
    assert shop.signals()[0].shadow
    assert shop.signals()[0].responses == ("deny", "halted on run")
    assert list_incidents(shop.guard.journal) == []


@pytest.mark.parametrize("limit", ["blast_radius: {records_per_run: 70}", "behaviour: {steps_max: 250}"])
def test_a_limit_that_was_written_holds_beyond_another_one_that_nobody_has_written(tmp_path: Path, limit: str) -> None:
    shop = Shop(tmp_path, f"policy:\n  detect:\n    {limit}\n")
    refused = 0
    with shop.guard.run("clerk@1"):
        for number in range(300):  # 60 records a minute and 200 writes are built in, and in shadow
            try:
                shop.put(f"tea {number}")
            except CallDenied:
                refused += 1
    allowed = int(limit.partition(": ")[2].rstrip("}").rpartition(" ")[2])
    assert len(shop.effects) == allowed
    assert refused == 300 - allowed


@pytest.mark.parametrize(("written", "allowed"), [("{}", 30), ("{detect: {behaviour: {repeats_max: 10}}}", 10)])
def test_who_reads_the_same_again_and_again_is_refused_only_by_a_limit_that_was_written(
    tmp_path: Path, written: str, allowed: int
) -> None:
    shop = Shop(tmp_path, f"policy: {written}\n")
    refused: list[int] = []
    with shop.guard.run("clerk@1"):
        for number in range(30):
            try:
                shop.get("tea")
            except CallDenied:
                refused.append(number)
    assert refused == list(range(allowed, 30))
    assert shop.standing() == ()


def test_a_long_run_is_refused_nothing_by_limits_that_nobody_has_written(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}\n")
    with shop.guard.run("clerk@1"):
        for number in range(600):
            shop.put(f"tea {number}")
    assert len(shop.effects) == 600
    signals = shop.signals()
    assert all(each.shadow for each in signals)
    assert {each.signal.rule for each in signals} >= {"records_per_minute", "records_per_run", "mutations"}


def test_a_halt_ordered_by_a_rule_ends_the_run_at_that_very_call(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "halted on run")
    with shop.guard.run("clerk@1"):
        for number in range(3):
            shop.put(f"tea {number}")
        with pytest.raises(RunHalted):
            shop.put("tea 3")
    assert len(shop.effects) == 3


class Full(MemoryOrders):
    def place(self, order: Order) -> None:
        raise OrdersUnavailable("its disk is full; make room")


def test_v2_what_could_not_be_ordered_is_held_by_the_process_instead(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "read_only on agent", orders=Full())
    with shop.guard.run("clerk@1"):
        for number in range(3):
            shop.put(f"tea {number}")
        with pytest.raises(CallDenied, match="blast radius"):
            shop.put("tea 3")
        assert shop.get("tea") == "tea"
        with shop.guard.run("clerk@1"), pytest.raises(CallDenied):
            shop.put("tea 0")
    with shop.guard.run("other@1"):
        shop.put("coffee")
    assert shop.effects == ["tea 0", "tea 1", "tea 2", "coffee"]


def test_what_is_held_for_a_time_is_forgotten_after_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "read_only for 60s")
    with shop.guard.run("clerk@1"):
        for number in range(3):
            shop.put(f"tea {number}")
        with pytest.raises(CallDenied, match="60 s"):
            shop.put("tea 3")
        with pytest.raises(CallDenied):
            shop.put("tea 0")
        shop.clock.sleep(61)
        shop.put("tea 0")
    assert shop.standing() == ()


def test_a_refusal_is_for_the_model_and_its_reason_for_the_journal(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "deny")
    with shop.guard.run("clerk@1") as run:
        for number in range(3):
            shop.put(f"tea {number}")
        for _ in range(3):
            with pytest.raises(CallDenied, match=r"was not run: .*Do not retry"):
                shop.put("tea 3")
        shop.put("tea 2")
    refusals = [event for event in events_of(shop.guard.journal, run.run_id) if isinstance(event, Refused)]
    assert "rule blast_radius" in refusals[0].reason
    assert shop.signals()[0].signal.signal_id in refusals[0].reason


def test_a_policy_is_read_anew_while_runs_go_on_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "deny")
    with shop.guard.run("clerk@1"):
        for number in range(3):
            shop.put(f"tea {number}")
        shop.path.write_text(BLAST % "vaporise on everything")
        shop.clock.sleep(2)
        with pytest.raises(CallDenied):
            shop.put("tea 3")
        assert "line 6" in shop.guard.notice()
        shop.path.write_text((BLAST % "deny").replace("3}", "30}"))
        shop.clock.sleep(2)
        for number in range(3, 20):
            shop.put(f"tea {number}")
    assert len(shop.effects) == 20
    assert shop.guard.notice() == ""


def test_a_detector_that_raises_lets_no_write_through_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rescind.triggers.blast import BlastWatch

    shop = Shop(tmp_path, BLAST % "deny")

    def broken(self: object, call: object) -> None:
        raise ZeroDivisionError("the secret is swordfish")

    monkeypatch.setattr(BlastWatch, "asked", broken)
    with shop.guard.run("clerk@1"):
        with pytest.raises(CallDenied):
            shop.put("tea")
        with pytest.raises(CallDenied):
            shop.put("tea")
        assert shop.get("tea") == "tea"
    assert shop.effects == []
    assert shop.signals()[0].signal.kind is SignalKind.DETECTOR_FAILURE
    assert "swordfish" not in str(shop.signals())


def test_fan_out_of_a_contained_run_is_blocked_and_of_others_it_is_not(tmp_path: Path) -> None:
    policy = BLAST % "[deny, block_fan_out on tree]"
    shop = Shop(tmp_path, policy)
    with shop.guard.run("router@1") as router:
        with router.spawn(agent="worker@1"):
            shop.put("tea 0")
        for number in range(3):
            shop.put(f"tea {number}")
        with pytest.raises(CallDenied):
            shop.put("tea 3")
        from rescind.errors import FanOutBlocked

        with pytest.raises(FanOutBlocked), router.spawn(agent="worker@1"):
            pass
    with shop.guard.run("router@1") as other, other.spawn(agent="worker@1"):
        shop.put("coffee")


def test_without_a_policy_nothing_is_watched() -> None:
    guard = a_guard()
    with guard.run("clerk@1") as run:
        assert run.watch is None


def test_what_was_observed_and_differs_from_what_was_recorded_is_a_failed_verification(tmp_path: Path) -> None:
    import rescind

    shop = Shop(tmp_path, "policy: {}")

    @shop.guard.write("till.pay", irreversible="gone")
    def pay(amount: int) -> None:
        rescind.report(observed={"amount": 100 * amount}, receipt="r-1")

    with shop.guard.run("clerk@1"):
        pay(5)
        with pytest.raises(CallDenied):
            pay(5)
    (signalled,) = [each for each in shop.signals() if each.signal.kind is SignalKind.VERIFICATION_FAILURE]
    assert "500" in signalled.signal.detail


def test_what_is_left_of_a_budget_is_shown_and_a_child_spends_from_it_too(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {detect: {budget: {max_steps: 3, max_usd: 1}}}")
    with shop.guard.run("clerk@1") as run:
        assert run.budget_left() == {}  # nothing has begun
        shop.put("tea")
        with run.spawn() as child:
            shop.put("coffee")
            assert child.budget_left() == {"steps": 1, "usd": 1.0}
        assert run.budget_left() == {"steps": 1, "usd": 1.0}
        shop.put("cocoa")
        with pytest.raises(CallDenied, match="3 are allowed"):
            shop.put("milk")
    assert shop.effects == ["tea", "coffee", "cocoa"]


def test_an_invariant_over_several_systems_that_breaks_stops_the_writes_of_the_run_that_broke_it(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path, "policy: {}")
    checked: list[int] = []

    @shop.guard.invariant("shelf and till agree", after=["shelf.*"])
    def agree() -> str:
        checked.append(len(shop.effects))
        return "" if len(shop.effects) < 3 else f"{len(shop.effects)} on the shelf, 2 in the till"

    with shop.guard.run("clerk@1"):
        for number in range(3):
            shop.put(f"tea {number}")
        with pytest.raises(CallDenied, match="2 in the till"):
            shop.put("tea 3")
    assert checked == [1, 2, 3]
    with shop.guard.run("clerk@1"):
        shop.put("coffee")  # another run did not break it, and begins
    (incident,) = list_incidents(shop.guard.journal)
    assert "shelf and till agree" in incident.title


def test_what_is_held_on_an_agent_for_a_time_holds_all_its_runs_of_this_process_and_no_other(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "paused on agent for 30s")
    with shop.guard.run("clerk@1"):
        for number in range(3):
            shop.put(f"tea {number}")
        with pytest.raises(CallDenied):
            shop.put("tea 3")
    with shop.guard.run("clerk@2"):
        with pytest.raises(CallDenied):
            shop.get("tea")
        shop.clock.sleep(31)
        shop.put("tea 4")
    with shop.guard.run("other@1"):
        shop.put("coffee")
    assert shop.standing() == ()


def test_a_run_that_goes_on_being_wrong_is_refused_each_time_and_told_of_once(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "[deny, incident]")
    with shop.guard.run("clerk@1"):
        for number in range(50):
            try:
                shop.put(f"tea {number}")
            except CallDenied:
                continue
    assert len(shop.effects) == 3
    assert len(shop.signals()) <= 5  # again only when twice as bad
    (incident,) = list_incidents(shop.guard.journal)
    assert incident.signals == len(shop.signals())


def test_what_a_person_has_lifted_is_not_ordered_again_for_what_was_said_before(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BLAST % "read_only on run")
    guard = shop.guard
    with guard.run("clerk@1"):
        for number in range(3):
            shop.put(f"tea {number}")
        with pytest.raises(CallDenied):
            shop.put("tea 3")
        (order,) = shop.standing()
        lift_scope(guard.orders, order.scope, reason="it may", actor="ann", clock=guard.clock, ids=guard.ids)
        shop.put("tea 3")
    assert shop.standing() == ()


def test_who_goes_on_asking_under_a_revoked_lease_is_told_of_once(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {}")
    guard = shop.guard
    with guard.run("clerk@1") as run:
        shop.put("tea")
        order = new_order(
            Scope.parse(f"run:{run.run_id}"),
            Level.PAUSED,
            measure=Measure.REVOKE,
            reason="wrong customer",
            actor="ann",
            clock=guard.clock,
            ids=guard.ids,
        )
        guard.orders.place(order)
        for _ in range(3):
            with pytest.raises(LeaseRevoked, match="wrong customer") as refused:
                shop.put("coffee")
    assert refused.value.fencing_number == 2
    (signalled,) = shop.signals()
    assert (signalled.signal.rule, signalled.signal.facts["order_ids"]) == ("revoked_lease", [order.order_id])
    assert shop.effects == ["tea"]


def test_in_a_task_the_order_is_in_place_before_the_call_goes_on_and_the_loop_waits_for_no_incident(
    tmp_path: Path,
) -> None:
    shop = Shop(tmp_path, BLAST % "[deny, read_only on agent, incident]")
    open_for_incidents = threading.Event()
    append = shop.guard.journal.append

    def slowly(drafts: Any) -> Any:
        if any(isinstance(draft.event, IncidentOpened) for draft in drafts):
            assert open_for_incidents.wait(20)
        return append(drafts)

    shop.guard.journal.append = slowly  # type: ignore[method-assign]  # a disk that hangs, for incidents alone

    @shop.guard.write("shelf.put_slowly", target=lambda what: ("shop", "shelf", what), irreversible="sold")
    async def put(what: str) -> None:
        shop.effects.append(what)

    async def work() -> None:
        async with shop.guard.run("clerk@1"):
            for number in range(3):
                await put(f"tea {number}")
            with pytest.raises(CallDenied):
                await put("tea 3")
            assert len(shop.standing()) == 1
            assert list_incidents(shop.guard.journal) == []
            with pytest.raises(CallDenied):
                await put("tea 0")

    asyncio.run(work())
    open_for_incidents.set()
    assert shop.guard.watching is not None
    shop.guard.watching.finish(20)
    (incident,) = list_incidents(shop.guard.journal)
    assert incident.of("order")[0].ref == shop.standing()[0].order_id


def test_an_action_with_brackets_in_its_name_waits_for_a_person_where_the_policy_names_it(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "policy: {require_approval: ['pay[card].send']}")
    paid: list[str] = []
    pay = shop.guard.write("pay[card].send", irreversible="a test")(paid.append)
    with shop.guard.run("clerk@1"), pytest.raises(CallDenied, match=r"pay\[card\]\.send"):
        pay("ann")
    assert paid == []
