"""What follows for an order's receipt from what guards have said and have not."""

from typing import Any

import pytest

from builders import an_order
from rescind.model.order import Order
from rescind.switch.receipt import GuardReceipt, GuardState
from rescind.switch.service import registry as registries
from rescind.switch.service.ledger import Seen
from rescind.switch.service.registry import FORGOTTEN_AFTER_S, MARGIN_S, Guard, Placement, Registry
from rescind.switch.wire import Ended, Report, RunDoc
from rescind.testing import ManualClock
from rescind.web.problems import Refused

TTL_S = 10.0
RUN = RunDoc(run_id="run-1", agent="billing-agent@2.4.0", tenant="acme")


class Desk:
    """A registry, its clock, and an order at sequence 5."""

    def __init__(self, **elsewhere: float) -> None:
        self.clock = ManualClock()
        self.clock.advance(1_000)
        self.registry = Registry("sw_here", self.clock)
        self.elsewhere, self.placed_s = elsewhere, 0.0

    def says(self, guard_id: str = "g1", owner: str = "billing", **fields: Any) -> Guard:
        defaults: dict[str, Any] = {"pid": 7, "host": "web-1", "lease_ttl_s": TTL_S, "hears": ("sw_here",)}
        return self.registry.report(guard_id, owner, Report(**(defaults | fields)))

    def listens(self, guard_id: str = "g1", **fields: Any) -> Guard:
        guard = self.says(guard_id, **fields)
        self.registry.stream_began(guard)
        return guard

    def place(self, order: Order | None = None) -> None:
        self.placed_s = self.clock.boot_s()
        self.placement = Placement(order=order or an_order(), sequence=5, at_s=self.placed_s, elsewhere=self.elsewhere)

    def receipt_of(self, guard_id: str = "g1") -> GuardReceipt:
        return {each.guard_id: each for each in self.registry.receipt(self.placement).guards}[guard_id]

    def states(self) -> dict[str, str]:
        return {each.guard_id: each.state.value for each in self.registry.receipt(self.placement).guards}


# --- what it has said ---


def test_from_unknown_to_bound_to_drained_with_times() -> None:
    desk = Desk()
    desk.listens(runs=(RUN,), runs_open=1)
    desk.place()
    assert desk.receipt_of().state is GuardState.UNKNOWN

    desk.clock.advance(0.1)
    desk.says(bound=5, drained=False, in_flight=("run-1/3",), runs=(RUN,), runs_open=1)
    bound = desk.receipt_of()
    desk.clock.advance(0.2)
    desk.says(bound=5, runs=(RUN,), runs_open=1)
    drained = desk.receipt_of()

    assert (bound.state, bound.bound_ms, bound.drained_ms) == (GuardState.BOUND, 100.0, None)
    assert (bound.in_flight, bound.runs_covered, bound.runs_open) == (("run-1/3",), 1, 1)
    assert (drained.state, drained.bound_ms, drained.drained_ms) == (GuardState.DRAINED, 100.0, 300.0)
    assert drained.in_flight == ()


def test_a_binding_of_older_orders_says_nothing_of_this_one() -> None:
    desk = Desk()
    desk.listens(bound=4)
    desk.place()

    assert desk.states() == {"g1": "unknown"}
    desk.says(bound=6)
    assert desk.states() == {"g1": "drained"}


def test_what_was_said_earlier_and_arrives_later_takes_nothing_back() -> None:
    desk = Desk()
    desk.listens()
    desk.place()
    desk.says(bound=5)
    desk.says(bound=3, drained=False)
    desk.says(bound=-1)

    assert desk.states() == {"g1": "drained"}


def test_a_later_binding_s_drain_includes_the_earlier_ones() -> None:
    desk = Desk()
    desk.listens()
    desk.place()
    desk.says(bound=5, drained=False)
    desk.says(bound=9, drained=False)
    assert desk.states() == {"g1": "bound"}
    desk.says(bound=9)
    assert desk.states() == {"g1": "drained"}


def test_who_leaves_is_gone_and_who_left_before_is_history() -> None:
    desk = Desk()
    desk.says("before", leaving=True)
    desk.listens("during")
    desk.clock.advance(1)
    desk.place()
    desk.clock.advance(1)
    desk.says("during", leaving=True)

    assert desk.states() == {"during": "gone"}


def test_who_had_drained_before_it_left_is_drained() -> None:
    desk = Desk()
    desk.listens()
    desk.place()
    desk.says(bound=5)
    desk.says(bound=5, leaving=True)

    assert desk.states() == {"g1": "drained"}


@pytest.mark.parametrize(
    ("scope", "runs_open", "covered"),
    [
        ("everything", 1, 1),
        ("agent:billing-agent", 1, 1),
        ("agent:billing-agent@2.4.0+tenant:acme", 1, 1),
        ("agent:other", 1, 0),
        ("agent:billing-agent+action:invoice.send", 1, 1),
        ("agent:billing-agent", 300, None),
    ],
)
def test_how_many_runs_an_order_covers_as_far_as_they_are_named(
    scope: str, runs_open: int, covered: int | None
) -> None:
    desk = Desk()
    desk.listens(runs=(RUN,), runs_open=runs_open)
    desk.place(an_order(scope=scope))

    assert desk.receipt_of().runs_covered == covered


# --- what follows from silence ---


def test_silence_is_certain_when_the_lease_is_over_and_not_a_moment_earlier() -> None:
    desk = Desk()
    desk.listens()
    desk.place()
    unknown = desk.receipt_of()

    desk.clock.advance(TTL_S + MARGIN_S - 0.001)
    assert desk.states() == {"g1": "unknown"}
    desk.clock.advance(0.001)
    silenced = desk.receipt_of()

    assert silenced.state is GuardState.SILENCED
    assert unknown.until == silenced.until
    assert unknown.until is not None
    assert abs((unknown.until - desk.clock.now()).total_seconds()) < 0.002
    assert unknown.detail == "has not acknowledged"


def test_a_suspended_machine_counts_as_time_and_a_wall_clock_that_jumps_does_not() -> None:
    desk = Desk()
    desk.listens()
    desk.place()
    desk.clock.suspend(TTL_S + MARGIN_S)

    assert desk.states() == {"g1": "silenced"}


def test_who_had_stopped_listening_before_the_stop_is_silent_since_then() -> None:
    desk = Desk()
    guard = desk.listens()
    desk.registry.stream_ended(guard)
    desk.clock.advance(TTL_S - 1)
    desk.place()
    assert desk.receipt_of().detail == "is not connected"

    desk.clock.advance(1 + MARGIN_S)

    assert desk.states() == {"g1": "silenced"}


def test_of_two_streams_the_last_one_counts() -> None:
    desk = Desk()
    guard = desk.listens()
    desk.registry.stream_began(guard)
    desk.registry.stream_ended(guard)
    desk.clock.advance(TTL_S)
    desk.place()
    desk.clock.advance(1)

    assert desk.states() == {"g1": "unknown"}


def test_a_guard_of_two_switches_is_silenced_when_both_had_the_order_for_that_long() -> None:
    desk = Desk()
    desk.listens(switches=2, hears=("sw_here", "sw_other"))
    desk.place()
    desk.clock.advance(100)
    assert desk.receipt_of().until is None
    assert "another switch" in desk.receipt_of().detail

    desk.elsewhere["sw_other"] = desk.clock.boot_s()
    desk.clock.advance(TTL_S)
    assert desk.states() == {"g1": "unknown"}
    desk.clock.advance(MARGIN_S)
    assert desk.states() == {"g1": "silenced"}


def test_a_switch_that_it_has_not_named_yet_may_be_one_that_nobody_here_knows() -> None:
    desk = Desk(sw_other=1_000.0)
    desk.listens(switches=2, hears=("sw_here",))
    desk.place()
    desk.clock.advance(1_000)

    assert desk.receipt_of().until is None
    assert desk.states() == {"g1": "unknown"}


def test_a_guard_whom_silence_does_not_hold_is_never_silenced() -> None:
    desk = Desk()
    desk.listens(on_silence="normal")
    desk.place()
    desk.clock.advance(10_000)

    assert desk.states() == {"g1": "unknown"}


def test_a_guard_remembered_from_before_a_restart_is_unknown_for_its_lease_and_then_silenced() -> None:
    desk = Desk()
    seen = Seen("g1", "billing", Report(pid=7, lease_ttl_s=TTL_S, hears=("sw_here",)))
    desk.registry.remember([seen])
    desk.place()

    assert desk.states() == {"g1": "unknown"}
    desk.clock.advance(TTL_S + MARGIN_S)
    assert desk.states() == {"g1": "silenced"}


# --- supervisors ---


def test_a_guard_whose_supervisor_saw_its_process_end_is_killed() -> None:
    desk = Desk()
    desk.listens("g1", pid=41, supervisor="s1")
    desk.listens("g2", pid=42, supervisor="s1")
    desk.listens("g3", pid=41, supervisor="another")
    desk.listens("g4", pid=41, supervisor="s1", host="web-2")
    desk.place()
    desk.says("s1", pid=40, kind="supervisor", ended=(Ended(pid=41, how="killed", status=-9),))

    assert {name: state for name, state in desk.states().items() if name != "s1"} == {
        "g1": "killed",
        "g2": "unknown",
        "g3": "unknown",
        "g4": "unknown",
    }


def test_a_supervisor_that_ended_its_program_and_halts_its_run_is_killed() -> None:
    desk = Desk()
    desk.listens("s1", kind="supervisor", runs=(RUN,))
    desk.place()
    halted = RunDoc(run_id="run-1", agent="billing-agent", level="halted", halted=True)
    ended = (Ended(pid=41, how="terminated", status=-15),)

    desk.says("s1", kind="supervisor", runs=(halted,), ended=ended, bound=5, drained=False)
    assert desk.states() == {"s1": "bound"}
    desk.says("s1", kind="supervisor", runs=(halted,), ended=ended, bound=5)
    assert desk.states() == {"s1": "killed"}


def test_a_program_that_crashed_and_was_started_again_makes_nobody_killed() -> None:
    desk = Desk()
    desk.listens("s1", kind="supervisor", runs=(RUN,), ended=(Ended(pid=41, how="exited", status=1),))
    desk.place()

    assert desk.states() == {"s1": "unknown"}
    desk.says("s1", kind="supervisor", runs=(RUN,), ended=(Ended(pid=41, how="exited", status=1),), bound=5)
    assert desk.states() == {"s1": "drained"}


# --- the receipt as a whole ---


def test_a_receipt_adds_up_what_is_said_of_all() -> None:
    desk = Desk()
    desk.listens("g1")
    desk.place()
    empty = Desk()
    empty.place()

    assert (desk.registry.receipt(desk.placement).all_bound, desk.registry.receipt(desk.placement).all_drained) == (
        False,
        False,
    )
    desk.says("g1", bound=5, drained=False)
    assert (desk.registry.receipt(desk.placement).all_bound, desk.registry.receipt(desk.placement).all_drained) == (
        True,
        False,
    )
    nobody = empty.registry.receipt(empty.placement)
    assert (nobody.all_bound, nobody.all_drained, nobody.guards, nobody.heard) == (True, True, (), ("sw_here",))


def test_who_waits_is_woken_when_the_last_one_has_drained_or_left() -> None:
    desk, woken = Desk(), list[str]()
    for name in ("g1", "g2", "g3"):
        desk.listens(name)
    desk.place()
    desk.says("g3", bound=7)
    waiting = desk.registry.await_drained(desk.placement, lambda: woken.append("!"))

    desk.says("g1", bound=5, drained=False)
    desk.says("g1", bound=5)
    assert woken == []
    desk.says("g2", leaving=True)
    assert woken == ["!"]
    desk.registry.forget(waiting)


def test_more_than_can_be_served_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "WAITING_MAX", 2)
    desk = Desk()
    desk.place()
    for _ in range(2):
        desk.registry.await_drained(desk.placement, lambda: None)

    with pytest.raises(Refused) as refused:
        desk.registry.await_drained(desk.placement, lambda: None)
    assert refused.value.status == 503


# --- whose it is, and how many ---


def test_the_first_token_to_use_an_id_owns_it_after_a_restart_too() -> None:
    desk = Desk()
    desk.says("g1", owner="billing")
    with pytest.raises(Refused) as refused:
        desk.says("g1", owner="evil", leaving=True)
    assert refused.value.status == 403

    seen, _ = desk.registry.unsaved()
    again = Desk()
    again.registry.remember(seen)
    with pytest.raises(Refused):
        again.says("g1", owner="evil", leaving=True)
    again.says("g1", owner="billing")
    assert not again.registry.guards["g1"].left


def test_a_guard_from_before_there_were_tokens_goes_to_the_first_that_shows_one() -> None:
    desk = Desk()
    desk.says("g1", owner="")
    desk.says("g1", owner="billing")
    with pytest.raises(Refused):
        desk.says("g1", owner="")


def test_nobody_fills_the_memory_and_who_left_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "GUARDS_PER_TOKEN_MAX", 3)
    desk = Desk()
    for number in range(3):
        desk.says(f"g{number}")
    with pytest.raises(Refused) as refused:
        desk.says("g3")
    assert refused.value.status == 503
    desk.says("other", owner="other")

    desk.says("g0", leaving=True)
    desk.says("g3")
    assert sorted(desk.registry.guards) == ["g1", "g2", "g3", "other"]


def test_who_has_been_away_for_long_is_forgotten_and_who_listens_is_not() -> None:
    desk = Desk()
    desk.listens("listens")
    desk.says("away")
    desk.says("left", leaving=True)
    desk.registry.unsaved()
    desk.clock.advance(FORGOTTEN_AFTER_S + 1)
    desk.registry.tidy()

    assert sorted(desk.registry.guards) == ["listens"]
    assert desk.registry.unsaved() == ([], ["away", "left"])


# --- what the ledger is told ---


def test_only_what_lasts_is_told_and_only_when_it_changes() -> None:
    desk, told = Desk(), list[str]()
    desk.registry.on_unsaved = lambda: told.append("!")
    desk.says("g1", runs=(RUN,), in_flight=("run-1/1",), bound=3, fault="a fault")
    seen, left = desk.registry.unsaved()
    assert left == []
    assert [(each.guard_id, each.owner, each.report.runs, each.report.bound) for each in seen] == [
        ("g1", "billing", (), -1)
    ]
    desk.registry.saved(seen)
    assert desk.registry.guards["g1"].is_kept

    told.clear()
    desk.says("g1", bound=4)
    assert told == []
    desk.says("g1", bound=4, hears=("sw_here", "sw_other"))
    assert told == ["!"]
    assert not desk.registry.guards["g1"].is_kept


def test_what_could_not_be_told_is_told_again() -> None:
    desk = Desk()
    desk.says("g1")
    desk.says("g2", leaving=True)
    seen, left = desk.registry.unsaved()
    assert desk.registry.unsaved() == ([], [])

    desk.registry.not_saved(seen, left)

    again, gone = desk.registry.unsaved()
    assert ([each.guard_id for each in again], gone) == (["g1"], ["g2"])


def test_a_guard_that_changed_while_it_was_written_down_is_not_kept_yet() -> None:
    desk = Desk()
    desk.says("g1")
    seen, _ = desk.registry.unsaved()
    desk.says("g1", lease_ttl_s=20.0)
    desk.registry.saved(seen)

    assert not desk.registry.guards["g1"].is_kept
