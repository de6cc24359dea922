"""Patterns of names and targets."""

import time

import pytest

from rescind.model.step import Target
from rescind.triggers.patterns import first_match, names_matching, targets_matching


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("payment.*", "payment.send", True),
        ("payment.*", "payment.", True),
        ("payment.*", "payment", False),
        ("payment.*", "xpayment.send", False),
        ("payment.*", "Payment.send", False),
        ("payment.*", "payment.send\nevil", True),
        ("payment", "payment\n", False),
        ("p?y", "pay", True),
        ("a.b", "axb", False),
        ("a[bc]", "ab", False),
        ("a[bc]", "a[bc]", True),
        ("*", "\ud800", True),
        ("*", "x" * 1_001, False),
    ],
)
def test_a_star_is_any_text_and_all_else_is_itself(pattern: str, name: str, matches: bool) -> None:
    assert names_matching([pattern])(name) is matches


@pytest.mark.parametrize("length", [1, 5_000])
def test_the_first_pattern_that_matches_is_named_and_no_name_is_too_long_for_it(length: int) -> None:
    name = "pay[card]." + "x" * length
    assert first_match(("refund.*", "pay[card].*", "*"), name) == "pay[card].*"
    assert first_match(("pay[a-z].*",), name) == ""
    assert first_match((), name) == ""


def test_no_pattern_matches_nothing() -> None:
    assert not names_matching([])("payment.send")
    assert not targets_matching([])(Target("erp"))


def test_one_of_several_patterns_is_enough() -> None:
    allowed = names_matching(["invoice.*", "note.add"])

    assert [allowed(name) for name in ("invoice.void", "note.add", "note.add2")] == [True, True, False]


@pytest.mark.parametrize(
    ("pattern", "target", "matches"),
    [
        ("erp/invoice/*", Target("erp", "invoice", "inv_1"), True),
        ("erp/invoice/*", Target("erp", "invoice", "a/b/c"), True),
        ("erp/invoice/*", Target("erp", "customer", "invoice/1"), False),
        ("erp/invoice/*", Target("erp/invoice", "", "1"), False),
        ("erp/invoice/*", Target("erp", "", "invoice/1"), False),
        ("erp/invoice", Target("erp", "invoice", "inv_1"), True),
        ("erp", Target("erp", "customer", "7"), True),
        ("erp", Target("erp2"), False),
        ("*", Target("crm"), True),
        ("files//reports/*", Target("files", "", "reports/may.csv"), True),
        ("files//reports/*", Target("files", "", "reports/../../etc/passwd"), False),
        ("files//reports/*", Target("files", "", "reports\\..\\secret"), False),
        ("files//reports/*", Target("files", "", "reports/a..b"), True),
        ("files", Target("files", "", "../x"), True),
        ("erp/invoice/*", Target("erp", "invoice", "x" * 2_000), False),
    ],
)
def test_a_target_is_matched_part_by_part(pattern: str, target: Target, matches: bool) -> None:
    assert targets_matching([pattern])(target) is matches


def test_a_name_made_to_nearly_match_takes_no_time() -> None:
    allowed = names_matching(["*a" * 30 + "*b"])
    began = time.perf_counter()

    assert not allowed("a" * 1_000)

    assert time.perf_counter() - began < 0.5
