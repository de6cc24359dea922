"""Amounts in arguments, also those that were written to be misread."""

import decimal
from decimal import Decimal
from typing import Any

import pytest

from rescind.triggers.amounts import add, read_amount, sum_of, values_at


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (5, "5"),
        (-5, "5"),
        (0, "0"),
        (0.1, "0.1"),
        (-0.0, "0"),
        ("12.50", "12.50"),
        (" 12 ", "12"),
        ("-3e2", "300"),
        ("٣", "3"),
        (Decimal("-7.25"), "7.25"),
        (10**18, str(10**18)),
    ],
)
def test_a_number_or_its_text_is_read_exactly_and_without_its_sign(value: Any, amount: str) -> None:
    assert read_amount(value) == Decimal(amount)


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        None,
        "",
        "five",
        "1,000",
        "5 USD",
        "0x10",
        "NaN",
        "sNaN",
        "-Infinity",
        float("nan"),
        float("inf"),
        1e300,
        10**400,
        "1e999999999999",
        "9" * 70,
        "\ud800",
        [5],
        {"$redacted": True},
        Decimal("NaN"),
        b"5",
        10**18 + 1,
    ],
)
def test_what_is_no_amount_is_not_read(value: Any) -> None:
    assert read_amount(value) is None


def test_sums_are_exact_whatever_the_programs_own_precision_is() -> None:
    with decimal.localcontext(decimal.Context(prec=2, traps=[decimal.Inexact, decimal.FloatOperation])):
        assert sum_of([0.1, 0.2, "0.0000001"]) == Decimal("0.3000001")
        assert add(Decimal(10**18), Decimal("0.01")) == Decimal("1000000000000000000.01")


def test_one_unreadable_element_makes_the_sum_unreadable() -> None:
    assert sum_of([1, "two", 3]) is None


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ({}, []),
        ({"payments": []}, []),
        ({"payments": [{"amount": 1}, {"amount": 2}]}, [1, 2]),
        ({"payments": {"amount": 3}}, [3]),
        ({"payments": [{"amount": 1}, {"Amount": 2}]}, [1, None]),
        ({"payments": '{"amount": 9}'}, [None]),
        ({"payments": None}, [None]),
        ({"payments": [[{"amount": 1}]]}, [None]),
        ({"payments": [{"amount": 1}] * 1_001}, [None]),
        ({"payments": [{"amount": [1, 2]}]}, [1, 2]),
    ],
)
def test_a_path_is_followed_through_lists_and_what_hides_from_it_is_unreadable(
    arguments: dict[str, Any], values: list[Any]
) -> None:
    assert values_at(arguments, ("payments", "amount")) == values
