"""Receipts say what is known, guard by guard, and never more."""

import signal
from pathlib import Path

import msgspec
import pytest

from builders import NOON_US, an_order
from rescind.clock import SystemClock, SystemIds
from rescind.model.level import Level
from rescind.model.scope import Scope
from rescind.switch import desk
from rescind.switch.port import GuardReport
from rescind.switch.presence import Presence, Sighting
from rescind.switch.receipt import GuardReceipt, GuardState, Placed, Receipt, await_receipt, make_receipt
from rescind.switch.store import SqliteOrders
from rescind.testing.clock import ManualClock
from switch.agents import PATIENCE_S, Agent, a_live_run

PLACED = Placed(order=an_order(), stamp=42, placed_at_s=100.0)


def a_sighting(living: bool = True, **fields: object) -> Sighting:
    defaults: dict[str, object] = {
        "guard_id": "guard-1",
        "pid": 7,
        "program": "agent.py",
        "started_at_us": NOON_US - 1,
        "bound_stamp": 42,
        "bound_at_s": 100.004,
        "drained_at_s": 100.25,
        "in_flight": (),
        "runs": (),
    }
    report = GuardReport(**(defaults | fields))  # type: ignore[arg-type]  # builders take anything
    return Sighting(guard_id=report.guard_id, living=living, report=report)


def receipt_of(*sightings: Sighting, placed: Placed = PLACED) -> Receipt:
    return make_receipt(placed, sightings, now_s=101.0)


def receipt_for(sighting: Sighting, placed: Placed = PLACED) -> GuardReceipt:
    (guard,) = receipt_of(sighting, placed=placed).guards
    return guard


def placed_on(scope: str) -> Placed:
    return Placed(order=an_order(scope=scope), stamp=42, placed_at_s=100.0)


# --- the pure part ---


def test_without_guards_a_receipt_is_complete_and_empty() -> None:
    receipt = receipt_of()
    assert receipt.guards == ()
    assert receipt.all_bound
    assert receipt.all_drained
    assert receipt.waited_ms == 1000.0


def test_a_guard_that_has_not_bound_is_unknown() -> None:
    guard = receipt_for(a_sighting(bound_stamp=40))
    assert guard.state is GuardState.UNKNOWN
    assert guard.bound_ms is None
    assert guard.drained_ms is None
    assert "suspended" in guard.detail
    assert not receipt_of(a_sighting(bound_stamp=40)).all_bound


def test_a_guard_without_a_readable_report_is_unknown() -> None:
    sighting = Sighting(guard_id="guard-1", living=True, report=None, problem="its report cannot be understood")
    guard = receipt_for(sighting)
    assert guard.state is GuardState.UNKNOWN
    assert guard.detail == "its report cannot be understood"
    assert guard.runs_covered is None


def test_a_guard_that_has_bound_but_not_drained_says_what_still_runs() -> None:
    guard = receipt_for(a_sighting(drained_at_s=None, in_flight=("run-1/3", "run-2/1")))
    assert guard.state is GuardState.BOUND
    assert guard.bound_ms == 4.0
    assert guard.drained_ms is None
    assert guard.in_flight == ("run-1/3", "run-2/1")
    receipt = receipt_of(a_sighting(drained_at_s=None, in_flight=("run-1/3",)))
    assert receipt.all_bound
    assert not receipt.all_drained


def test_a_guard_that_has_drained_says_when() -> None:
    guard = receipt_for(a_sighting())
    assert (guard.state, guard.bound_ms, guard.drained_ms) == (GuardState.DRAINED, 4.0, 250.0)


def test_a_later_stamp_has_bound_this_order_too() -> None:
    assert receipt_for(a_sighting(bound_stamp=44)).state is GuardState.DRAINED


def test_binding_before_the_writer_looked_at_its_clock_took_no_time() -> None:
    assert receipt_for(a_sighting(bound_at_s=99.999, drained_at_s=99.999)).bound_ms == 0.0


def test_a_guard_whose_process_has_ended_is_gone_with_what_it_last_said() -> None:
    guard = receipt_for(a_sighting(living=False, bound_stamp=40, drained_at_s=None, in_flight=("run-1/3",)))
    assert guard.state is GuardState.GONE
    assert guard.in_flight == ("run-1/3",)
    assert guard.bound_ms is None
    assert receipt_of(a_sighting(living=False, bound_stamp=40)).all_drained


def test_a_receipt_counts_the_runs_that_the_order_covers() -> None:
    runs = (a_live_run("run-1"), a_live_run("run-2", tenant="other"), a_live_run("run-3", ancestors=("run-1",)))
    for scope, covered in [("everything", 3), ("tenant:acme", 2), ("run:run-1", 1), ("tree:run-1", 2), ("tenant:x", 0)]:
        guard = receipt_for(a_sighting(runs=runs), placed=placed_on(scope))
        assert (guard.runs_covered, guard.runs_open) == (covered, 3), scope


def test_an_order_for_an_action_concerns_every_run_that_might_call_it() -> None:
    runs = (a_live_run("run-1"), a_live_run("run-2", tenant="other"))
    guard = receipt_for(a_sighting(runs=runs), placed=placed_on("action:pay+tenant:acme"))
    assert guard.runs_covered == 1


def test_calls_of_neighbours_do_not_keep_an_order_from_draining() -> None:
    runs = (a_live_run("run-1"), a_live_run("run-2", tenant="other"))
    neighbour = a_sighting(runs=runs, drained_at_s=None, in_flight=("run-2/9",))
    guard = receipt_for(neighbour, placed=placed_on("tenant:acme"))
    assert guard.state is GuardState.DRAINED
    assert guard.drained_ms is None  # when the covered calls ended, it did not say

    closed = a_sighting(runs=runs, drained_at_s=None, in_flight=("run-3/1",))  # whose run-3 was, nobody knows any more
    assert receipt_for(closed, placed=placed_on("tenant:acme")).state is GuardState.BOUND


def test_a_fault_is_shown_and_a_later_start_explained() -> None:
    assert receipt_for(a_sighting(bound_stamp=40, fault="cannot read the orders")).detail == "cannot read the orders"
    assert "began under" in receipt_for(a_sighting(started_at_us=NOON_US + 1)).detail


def test_a_receipt_survives_json() -> None:
    receipt = receipt_of(a_sighting(), a_sighting(guard_id="guard-0", drained_at_s=None, in_flight=("run-1/3",)))
    data = msgspec.json.encode(receipt)
    assert b'"state":"drained"' in data
    assert msgspec.json.decode(data, type=Receipt) == receipt
    assert [guard.guard_id for guard in receipt.guards] == ["guard-0", "guard-1"]


# --- with real processes ---


def stop(directory: Path, scope: str = "everything") -> Placed:
    orders = SqliteOrders(directory)
    placed = desk.place(
        orders, Scope.parse(scope), Level.HALTED, reason="a test", actor="ops", clock=SystemClock(), ids=SystemIds()
    )
    orders.close()
    return placed


def wait_for(directory: Path, placed: Placed, timeout_s: float = PATIENCE_S) -> Receipt:
    return await_receipt(directory, placed, timeout_s=timeout_s, clock=SystemClock())


def states(receipt: Receipt) -> dict[str, str]:
    return {guard.guard_id: guard.state.value for guard in receipt.guards}


def test_guards_in_other_processes_acknowledge_and_drain(tmp_path: Path) -> None:
    with Agent("guard", tmp_path, "one") as one, Agent("guard", tmp_path, "two") as two:
        assert [one.says(), two.says()] == ["ready", "ready"]
        one.ask("run run-1")
        one.ask("begin run-1/1")
        placed = stop(tmp_path)

        shown: list[Receipt] = []

        def progress(receipt: Receipt) -> None:
            shown.append(receipt)
            if states(receipt) == {"one": "bound", "two": "drained"}:
                one.ask("end run-1/1")

        receipt = await_receipt(tmp_path, placed, timeout_s=PATIENCE_S, clock=SystemClock(), progress=progress)

    assert states(receipt) == {"one": "drained", "two": "drained"}
    assert receipt.all_drained
    assert any(guard.in_flight == ("run-1/1",) for seen in shown for guard in seen.guards)
    assert shown[-1].guards == receipt.guards
    for guard in receipt.guards:
        assert guard.bound_ms is not None
        assert guard.drained_ms is not None
        assert guard.drained_ms >= guard.bound_ms


def test_a_suspended_process_stays_unknown_until_it_goes_on(tmp_path: Path) -> None:
    with Agent("guard", tmp_path, "one") as one, Agent("guard", tmp_path, "two") as two:
        assert [one.says(), two.says()] == ["ready", "ready"]
        two.signal(signal.SIGSTOP)
        placed = stop(tmp_path)

        receipt = wait_for(tmp_path, placed, timeout_s=0.3)
        assert states(receipt)["two"] == "unknown"
        assert not receipt.all_bound

        two.signal(signal.SIGCONT)
        receipt = wait_for(tmp_path, placed)
        assert states(receipt) == {"one": "drained", "two": "drained"}


def test_a_guard_that_is_killed_while_somebody_waits_is_gone(tmp_path: Path) -> None:
    with Agent("guard", tmp_path, "one") as one:
        assert one.says() == "ready"
        one.ask("begin run-1/1")
        placed = stop(tmp_path)

        def kill(receipt: Receipt) -> None:
            if states(receipt) == {"one": "bound"}:
                one.kill()

        receipt = await_receipt(tmp_path, placed, timeout_s=PATIENCE_S, clock=SystemClock(), progress=kill)
    assert states(receipt) == {"one": "gone"}
    assert receipt.guards[0].in_flight == ("run-1/1",)
    assert receipt.all_drained


def test_a_guard_that_leaves_while_somebody_waits_is_gone_though_its_files_are_too(tmp_path: Path) -> None:
    with Agent("guard", tmp_path, "one") as one:
        assert one.says() == "ready"
        one.ask("begin run-1/1")
        placed = stop(tmp_path)

        def close(receipt: Receipt) -> None:
            if states(receipt) == {"one": "bound"}:
                one.ask("close")

        receipt = await_receipt(tmp_path, placed, timeout_s=PATIENCE_S, clock=SystemClock(), progress=close)
    assert states(receipt) == {"one": "gone"}


def test_who_starts_under_an_order_has_bound_it(tmp_path: Path) -> None:
    placed = stop(tmp_path)
    with Agent("guard", tmp_path, "one") as one:
        assert one.says() == "ready"
        receipt = wait_for(tmp_path, placed, timeout_s=0)
    assert states(receipt) == {"one": "drained"}
    assert "began under" in receipt.guards[0].detail


def test_a_guard_that_died_long_ago_is_no_part_of_a_receipt(tmp_path: Path) -> None:
    with Agent("guard", tmp_path, "one") as one:
        assert one.says() == "ready"
        one.kill()
    assert wait_for(tmp_path, stop(tmp_path), timeout_s=0).guards == ()


def test_waiting_ends_when_time_is_up(tmp_path: Path) -> None:
    presence = Presence(tmp_path, "silent")
    presence.register()
    clock = ManualClock()
    receipt = await_receipt(tmp_path, PLACED, timeout_s=2.0, clock=clock)
    assert states(receipt) == {"silent": "unknown"}
    assert sum(clock.slept_s) == pytest.approx(2.0)
    presence.close()
