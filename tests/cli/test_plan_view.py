"""How a plan is drawn."""

import pytest

from rescind.cli.plan_view import LINES_MAX, plan_lines, summary_of, tree_lines
from rescind.compensation.decision import Compensate, Decision, Plan, PlanItem, Restore, Review
from rescind.compensation.port import ReviewReason
from rescind.model.entry import StepRef
from rescind.model.step import Target


def an_item(
    number: int, decision: Decision | None = None, *, after: tuple[int, ...] = (), run: str = "run-1"
) -> PlanItem:
    return PlanItem(
        step=StepRef(run, str(number)),
        action="price.set",
        target=Target("shop", "price", f"p{number}"),
        decision=decision or Compensate(),
        waits_for=tuple(StepRef(run, str(each)) for each in after),
        intended_sequence=number,
        outcome="completed",
    )


def a_plan(*items: PlanItem) -> Plan:
    return Plan(digest="0" * 64, items=items)


def drawn(plan: Plan, *, every: bool = False, width: int = 80) -> list[str]:
    return [line for line, _ in plan_lines(plan, every=every, tree=False, width=width)]


def test_a_short_plan_is_listed_step_by_step_in_its_order() -> None:
    lines = drawn(a_plan(an_item(9), an_item(4, Restore(leaves="v1", expects="v2", note="compared again"))))

    assert [line.split()[:3] for line in lines[1:3]] == [["1", "compensate", "9"], ["2", "restore", "4"]]
    assert lines[3].strip() == "compared again"


def test_a_long_plan_is_grouped_by_what_is_done_and_why() -> None:
    conflicts = [an_item(n, Review(ReviewReason.CONFLICT, f"changed by run-{n}")) for n in range(3)]
    plan = a_plan(*[an_item(n) for n in range(10, 10 + LINES_MAX)], *conflicts)

    text = "\n".join(drawn(plan))

    assert f"{LINES_MAX}  compensate   price.set" in text
    assert f"shop/price/p10, shop/price/p11, shop/price/p12 and {LINES_MAX - 3} more" in text
    assert "conflict: changed by somebody since" in text
    assert len(drawn(plan, every=True)) > len(plan.items)
    assert summary_of(plan) == f"{LINES_MAX} to compensate, 3 for a person"


def test_no_line_is_longer_than_the_terminal_where_words_allow_it() -> None:
    plan = a_plan(an_item(1, Review(ReviewReason.CONFLICT, "somebody has changed the target " * 9)))

    assert max(len(line) for line in drawn(plan)) <= 80


def test_a_chain_goes_straight_down_and_branches_are_indented() -> None:
    plan = a_plan(
        an_item(5), an_item(4, after=(5,)), an_item(3, after=(4,)), an_item(2, after=(4,)), an_item(1, after=(2,))
    )

    assert [line.partition(" on ")[0] + line[-4:] for line in tree_lines(plan)] == [
        "compensate price.set (5)",
        "compensate price.set (4)",
        "├─ compensate price.set (3)",
        "└─ compensate price.set (2)",
        "   compensate price.set (1)",
    ]


def test_a_chain_of_ten_thousand_steps_is_drawn() -> None:
    items = [an_item(10_000)] + [an_item(n, after=(n + 1,)) for n in range(9_999, 0, -1)]

    lines = list(tree_lines(a_plan(*items)))

    assert len(lines) == 10_000
    assert not lines[-1].startswith(" ")


def test_steps_of_several_runs_are_told_apart() -> None:
    lines = drawn(a_plan(an_item(1, run="run_1m7yne1b1mja55hy35j"), an_item(1, run="run_1m7yne1b1mja55hy99x")))

    assert "…y35j/1" in lines[1]
    assert "…y99x/1" in lines[2]


@pytest.mark.parametrize("many", [1, LINES_MAX + 1])
def test_a_narrow_terminal_gets_one_item_per_block(many: int) -> None:
    items = [an_item(n, Review(ReviewReason.CONFLICT, "changed by somebody at night")) for n in range(many)]

    lines = drawn(a_plan(*items), width=40)

    assert lines[0] == f"{1 if many == 1 else many} review"
    assert "  price.set" in lines
    assert max(map(len, lines)) <= 40
