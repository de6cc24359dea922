"""Small functions get the arguments that they name."""

from typing import Any

import pytest

from rescind.errors import DeclarationError
from rescind.guard.binding import Binding, MissingArgument

CALL = {"name": "ann", "plan": "gold", "seats": 3}


def _positional(plan: str, /, seats: int) -> tuple[str, int]:
    return plan, seats


def test_it_takes_what_it_names_and_no_more() -> None:
    assert Binding(lambda plan: plan, role="key")(CALL) == "gold"
    assert Binding(lambda: "fixed", role="key")(CALL) == "fixed"
    assert Binding(_positional, role="key")(CALL) == ("gold", 3)
    assert Binding(lambda *, seats, region="eu": (seats, region), role="key")(CALL) == (3, "eu")


def test_the_rest_goes_to_the_keywords() -> None:
    def everything(name: str, **rest: Any) -> tuple[str, dict[str, Any]]:
        return name, rest

    assert Binding(everything, role="rows")(CALL) == ("ann", {"plan": "gold", "seats": 3})
    assert Binding(everything, role="rows").parameters == {"name"}


def test_a_missing_argument_is_named_beside_those_there_are() -> None:
    with pytest.raises(MissingArgument, match="rows takes naem, and the call has only name, plan, seats"):
        Binding(lambda naem: naem, role="rows")(CALL)


def test_what_is_no_function_of_named_arguments_is_refused() -> None:
    with pytest.raises(DeclarationError, match="must be a function"):
        Binding("customers", role="rows")  # type: ignore[arg-type]  # the mistake itself
    with pytest.raises(DeclarationError, match="have no names"):
        Binding(lambda *values: values, role="rows")
