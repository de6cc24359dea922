"""The shapes of results, learned from those that came."""

from typing import Any

import pytest

from rescind.triggers.learned import KEYS_MAX, LearnedConfig, LearnedShapes


def taught(result: Any, times: int = 20) -> LearnedShapes:
    shapes = LearnedShapes()
    for _ in range(times):
        assert shapes.problem_with("price.read", result) == ""
    return shapes


def test_a_key_that_was_always_there_and_is_gone_is_told_once() -> None:
    shapes = taught({"id": "a", "total": 5})

    assert shapes.problem_with("price.read", {"id": "a"}) == "`total` was there in 20 results, and is gone"
    assert shapes.problem_with("price.read", {"id": "a"}) == ""


def test_a_value_of_another_kind_is_told_once() -> None:
    shapes = taught({"total": 5})

    assert shapes.problem_with("price.read", {"total": 7.5}) == ""
    assert shapes.problem_with("price.read", {"total": "5"}) == ("`total` was a number in 21 results, and is a text")
    assert shapes.problem_with("price.read", {"total": "5"}) == ""
    assert "a number or a text" in shapes.problem_with("price.read", {"total": None})


def test_a_result_of_another_kind_is_told_and_so_is_the_first_item_of_a_list() -> None:
    assert shapes_say([{"id": 1}], [{"id": "1"}]) == "`id` was a number in 20 results, and is a text"
    assert shapes_say({"id": 1}, "error: no such page") == "the result was an object in 20 results, and is a text"


def shapes_say(before: Any, then: Any) -> str:
    return taught(before).problem_with("price.read", then)


def test_before_enough_is_known_nothing_is_told_and_what_changes_is_learned() -> None:
    shapes = LearnedShapes()
    for number in range(20):
        assert shapes.problem_with("a", {"id": 1} | ({"sometimes": 1} if number == 0 else {})) == ""

    assert shapes.problem_with("a", {"id": 1}) == ""
    assert shapes.problem_with("a", {}) != ""


def test_further_keys_are_no_difference_and_actions_are_kept_apart() -> None:
    shapes = taught({"id": 1})

    assert shapes.problem_with("price.read", {"new": 1, "id": 2}) == ""
    assert shapes.problem_with("other", {}) == ""


def test_a_key_is_found_wherever_it_stands_in_a_large_result() -> None:
    shapes = taught({"id": 1})

    assert shapes.problem_with("price.read", {str(number): 0 for number in range(1_000)} | {"id": 2}) == ""


def test_what_is_kept_is_bounded_whatever_tools_return() -> None:
    shapes = LearnedShapes(LearnedConfig(actions_max=3))

    for number in range(1_000):
        shapes.problem_with(f"action-{number}", {f"{number}-{key}" * 500: key for key in range(200)})
        shapes.problem_with("action-0", {f"{number}-{key}": key for key in range(200)})

    assert len(shapes._actions) == 3
    assert all(len(learned.kinds) <= KEYS_MAX + 1 for learned in shapes._actions.values())


@pytest.mark.parametrize("result", [{1: 2, None: 3, "": 4}, {"\ud800": 1}, [[]], [], float("nan"), object(), b"", ()])
def test_no_result_makes_it_raise(result: Any) -> None:
    shapes = taught({"id": 1})

    assert isinstance(shapes.problem_with("price.read", result), str)
    assert isinstance(shapes.problem_with("\ud800" * 10, result), str)


def test_limits_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="results_min is 1; it must be a whole number from 2"):
        LearnedConfig(results_min=1)
