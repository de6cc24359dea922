"""What a run may spend, with the runs that it starts."""

import gc
from typing import Any

import msgspec
import pytest

from builders import a_call, a_run, an_end, at_once
from rescind.model.signal import Finding, SignalKind
from rescind.triggers.budgets import BudgetConfig, BudgetDetector, BudgetWatch
from rescind.triggers.facts import ToolReport


def a_watch(**limits: float) -> BudgetWatch:
    watch = BudgetDetector(msgspec.convert(limits, BudgetConfig)).watch(a_run())
    assert watch is not None
    return watch


def rule_of(finding: Finding | None) -> str:
    return "" if finding is None else finding.rule


def costing(usd: Any) -> Any:
    return an_end(report=ToolReport(usd=usd))


def test_a_run_without_a_budget_is_not_watched() -> None:
    assert BudgetDetector(BudgetConfig()).watch(a_run()) is None


def test_steps_are_writes_and_reads_cost_none() -> None:
    watch = a_watch(max_steps=2)

    found = [rule_of(watch.asked(a_call(writes=writes))) for writes in (True, False, True, False, True, False)]

    assert found == ["", "", "", "", "max_steps", ""]


def test_reads_and_writes_are_both_calls() -> None:
    watch = a_watch(max_tool_calls=3)

    assert [rule_of(watch.asked(a_call(writes=n % 2 == 0))) for n in range(4)] == ["", "", "", "max_tool_calls"]


def test_seconds_count_from_the_first_call() -> None:
    watch = a_watch(max_seconds=10)

    assert [rule_of(watch.asked(a_call(at_s=at_s))) for at_s in (1000, 1010, 1010.5)] == ["", "", "max_seconds"]


def test_a_time_that_is_none_is_no_way_around_the_budget() -> None:
    watch = a_watch(max_seconds=10)
    watch.asked(a_call(at_s=0))

    assert rule_of(watch.asked(a_call(at_s=float("nan")))) == "max_seconds"


def test_ten_calls_of_ten_cents_spend_a_dollar_and_there_is_no_eleventh() -> None:
    watch = a_watch(max_usd=1)

    for _ in range(10):
        assert watch.asked(a_call()) is None
        assert watch.ended(costing(0.1)) is None

    assert rule_of(watch.asked(a_call())) == "max_usd"


def test_a_call_that_spends_too_much_is_told_of_when_it_has() -> None:
    watch = a_watch(max_usd=1)

    assert rule_of(watch.ended(costing(1.5))) == "max_usd"
    assert watch.ended(costing(0.1)) is None  # said, and not much worse
    finding = watch.asked(a_call())
    assert finding is not None
    assert finding.again
    assert rule_of(watch.ended(costing(1.5))) == "max_usd"  # twice as bad


@pytest.mark.parametrize("usd", [float("nan"), float("inf"), -5.0, True, "0.1", 1e300])
def test_a_cost_that_cannot_be_read_is_all_there_is(usd: Any) -> None:
    watch = a_watch(max_usd=1_000)

    assert rule_of(watch.ended(costing(usd))) == "max_usd"
    assert watch.left(0) == {"usd": 0}


def test_what_is_left_is_shown_and_never_below_nothing() -> None:
    watch = a_watch(max_steps=5, max_tool_calls=3, max_seconds=60, max_usd=1)

    assert watch.left(7) == {"steps": 5, "tool_calls": 3, "seconds": 60, "usd": 1}
    watch.asked(a_call(at_s=10))
    watch.ended(costing(0.25))
    assert watch.left(25) == {"steps": 4, "tool_calls": 2, "seconds": 45, "usd": 0.75}
    for _ in range(10):
        watch.asked(a_call(at_s=10))
    # What was asked for counts, whatever becomes of it: only the policy knows which of the limits refuses.
    assert watch.left(1_000) == {"steps": 0, "tool_calls": 0, "seconds": 0, "usd": 0.75}


def test_d6_a_limit_that_is_only_reported_hides_none_that_is_enforced() -> None:
    watch = a_watch(max_steps=2, max_tool_calls=1)
    found = [watch.asked(a_call()) for _ in range(3)]
    assert found[2] is not None
    assert [found[2].rule, *(each.rule for each in found[2].besides)] == ["max_tool_calls", "max_steps"]


def test_it_is_said_once_found_at_each_call_and_said_again_when_twice_as_bad() -> None:
    watch = a_watch(max_steps=4)

    found = [watch.asked(a_call()) for _ in range(12)]

    assert [index + 1 for index, finding in enumerate(found) if finding] == list(range(5, 13))
    assert [index + 1 for index, finding in enumerate(found) if finding and not finding.again] == [5, 10]
    assert found[4] is not None
    assert found[4].kind is SignalKind.BUDGET
    assert found[4].detail == "5 writes in this run and those it started, 4 are allowed"


def test_what_a_child_and_its_child_spend_counts_on_all_of_them() -> None:
    detector = BudgetDetector(BudgetConfig(max_tool_calls=3))
    parent = detector.watch(a_run("p"))
    child = detector.watch(a_run("c", ancestors=("p",)))
    grandchild = detector.watch(a_run("g", ancestors=("c", "p")))
    stranger = detector.watch(a_run("s"))
    assert parent
    assert child
    assert grandchild
    assert stranger

    found = [rule_of(watch.asked(a_call())) for watch in (grandchild, child, parent, grandchild, parent, stranger)]

    assert found == ["", "", "", "max_tool_calls", "max_tool_calls", ""]


def test_a_child_whose_parent_has_left_spends_from_the_next_ancestor() -> None:
    detector = BudgetDetector(BudgetConfig(max_tool_calls=1))
    top = detector.watch(a_run("top"))
    middle = detector.watch(a_run("middle", ancestors=("top",)))
    assert top
    assert middle
    middle.asked(a_call())
    del middle
    gc.collect()
    late = detector.watch(a_run("late", ancestors=("middle", "top")))

    assert late
    assert rule_of(late.asked(a_call())) == "max_tool_calls"


def test_a_run_that_is_entered_again_has_no_new_budget() -> None:
    detector = BudgetDetector(BudgetConfig(max_tool_calls=1))
    first = detector.watch(a_run())
    again = detector.watch(a_run())
    assert first
    assert again

    first.asked(a_call())

    assert rule_of(again.asked(a_call())) == "max_tool_calls"


def test_runs_that_are_over_are_forgotten() -> None:
    detector = BudgetDetector(BudgetConfig(max_tool_calls=1))
    parent = detector.watch(a_run("p"))

    for number in range(1_000):
        detector.watch(a_run(f"c{number}", ancestors=("p",)))
    gc.collect()

    assert parent
    assert len(detector._watches) == 1


def test_calls_that_overlap_do_not_share_what_is_left() -> None:
    watch = a_watch(max_steps=1_000)
    admitted: list[int] = []

    def in_thread() -> None:
        admitted.append(sum(watch.asked(a_call()) is None for _ in range(400)))

    at_once(in_thread for _ in range(4))

    assert sum(admitted) == 1_000


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"max_steps": -1}, "max_steps is -1; it must be a whole number from 0"),
        ({"max_seconds": 0}, "max_seconds is 0.*from 0.001"),
        ({"max_usd": float("nan")}, "max_usd is nan"),
        ({"max_usd": 0}, "from 1e-06"),
        ({"max_calls": 1}, "unknown field"),
    ],
)
def test_budgets_that_cannot_be_meant_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(fields, BudgetConfig)
