"""A call that did other than it should have done."""

from typing import Any

import msgspec
import pytest

from builders import a_call, a_run, an_end
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import Target
from rescind.triggers.verification import VerificationConfig, VerificationDetector, VerificationWatch


def a_watch(**fields: bool) -> VerificationWatch:
    return VerificationDetector(VerificationConfig(**fields)).watch(a_run())


def rule_of(finding: Finding | None) -> str:
    return "" if finding is None else finding.rule


def test_a_postcondition_that_does_not_hold_is_found() -> None:
    finding = a_watch().ended(an_end(a_call(target=Target("erp", "invoice", "inv_1")), verified=False))

    assert finding is not None
    assert (finding.kind, finding.rule, finding.severity) == (
        SignalKind.VERIFICATION_FAILURE,
        "postcondition",
        Severity.HIGH,
    )
    assert finding.detail == "invoice.status.update on erp/invoice/inv_1: its postcondition does not hold"


@pytest.mark.parametrize("verified", [True, None])
def test_one_that_holds_or_that_nobody_has_declared_is_not(verified: bool | None) -> None:
    assert a_watch().ended(an_end(verified=verified)) is None


def test_doing_other_than_was_approved_is_critical_whatever_else_fails() -> None:
    finding = a_watch().ended(an_end(verified=False, approved_differs="amount 500, approved 50"))

    assert finding is not None
    assert (finding.rule, finding.severity) == ("approved_differs", Severity.CRITICAL)
    assert "amount 500, approved 50" in finding.detail


def test_it_is_said_again_when_there_are_twice_as_many() -> None:
    watch = a_watch()

    said = [number for number in range(1, 20) if watch.ended(an_end(verified=False)) is not None]

    assert said == [1, 2, 4, 8, 16]


def test_what_is_switched_off_is_not_looked_at() -> None:
    assert a_watch(postcondition=False).ended(an_end(verified=False)) is None
    assert a_watch(approved_differs=False).ended(an_end(approved_differs="x")) is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"postcondition": False, "approved_differs": False}, "switch it `off`"),
        ({"postconditions": True}, "unknown field"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(fields, VerificationConfig)
