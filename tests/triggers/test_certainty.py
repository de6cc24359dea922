"""What a tool is not certain of."""

from typing import Any

import msgspec
import pytest

from builders import a_call, a_run, an_end
from rescind.model.outcome import Failed, Unknown
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.triggers.certainty import CertaintyConfig, CertaintyDetector, CertaintyWatch
from rescind.triggers.facts import ToolReport


def a_watch(**fields: Any) -> CertaintyWatch:
    return CertaintyDetector(CertaintyConfig(**fields)).watch(a_run())


def rule_of(finding: Finding | None) -> str:
    return "" if finding is None else finding.rule


@pytest.mark.parametrize(
    ("confidence", "rule"),
    [
        (0.8, ""),
        (1, ""),
        (0.79, "low_parse"),
        (0, "low_parse"),
        (float("nan"), "low_parse"),
        (True, "low_parse"),
        (7, "low_parse"),
        ("0.9", "low_parse"),
    ],
)
def test_a_parse_below_the_limit_or_without_a_meaning_is_found(confidence: Any, rule: str) -> None:
    assert rule_of(a_watch().ended(an_end(report=ToolReport(confidence={"parse": confidence})))) == rule


def test_confidence_in_other_things_is_not_its_business() -> None:
    assert a_watch().ended(an_end(report=ToolReport(confidence={"record": 0.1}))) is None


def test_a_result_that_is_not_as_declared_is_found() -> None:
    finding = a_watch().ended(an_end(a_call("price.read", writes=False), problem="`total` is gone"))

    assert finding is not None
    assert (finding.kind, finding.rule) == (SignalKind.TOOL_UNCERTAINTY, "schema_drift")
    assert finding.detail == "price.read: its result is not as declared: `total` is gone"


def test_parts_that_did_not_happen_are_named() -> None:
    finding = a_watch().ended(an_end(report=ToolReport(failed_parts=("crm", "mail"))))

    assert finding is not None
    assert (finding.rule, finding.severity) == ("partial_failure", Severity.HIGH)
    assert "2 of its parts did not happen: crm, mail" in finding.detail


@pytest.mark.parametrize(
    ("action", "report", "outcome", "rule"),
    [
        ("payment.send", None, None, "no_receipt"),
        ("payment.send", ToolReport(), None, "no_receipt"),
        ("payment.send", ToolReport(receipt=""), None, "no_receipt"),
        ("payment.send", ToolReport(receipt="r-1"), None, ""),
        ("payment.send", None, Failed("no"), ""),
        ("note.add", None, None, ""),
    ],
)
def test_a_completed_call_that_needs_a_receipt_must_report_one(
    action: str, report: ToolReport | None, outcome: Any, rule: str
) -> None:
    watch = a_watch(receipts=("payment.*",))

    assert rule_of(watch.ended(an_end(a_call(action), outcome, report=report))) == rule


def test_an_unknown_outcome_is_found_and_a_vouched_failure_is_not() -> None:
    assert rule_of(a_watch().ended(an_end(outcome=Unknown("timeout")))) == "unknown_outcome"
    assert a_watch().ended(an_end(outcome=Failed("refused"))) is None


def test_of_several_doubts_the_gravest_speaks_first_and_the_others_wait_their_turn() -> None:
    watch = a_watch(receipts=("*",))
    end = an_end(
        outcome=Unknown("half done"),
        report=ToolReport(failed_parts=("crm",), confidence={"parse": 0.1}),
        problem="`total` is gone",
    )

    said = [rule_of(watch.ended(end)) for _ in range(4)]

    assert said == ["partial_failure", "partial_failure", "unknown_outcome", "partial_failure"]


def test_it_is_said_again_when_there_are_twice_as_many_and_then_weighs_more() -> None:
    watch = a_watch()

    found = [watch.ended(an_end(outcome=Unknown("timeout"))) for _ in range(20)]

    assert [index + 1 for index, finding in enumerate(found) if finding] == [1, 2, 4, 8, 16]
    assert [finding.severity for finding in found if finding] == [Severity.WARNING] * 3 + [Severity.HIGH] * 2


def test_what_is_switched_off_is_not_looked_at() -> None:
    watch = a_watch(schema_drift=False, partial_failures=False, unknown_outcomes=False, parse_min=0)
    report = ToolReport(failed_parts=("crm",), confidence={"parse": 0.0})

    assert watch.ended(an_end(outcome=Unknown("timeout"), problem="gone", report=report)) is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"parse_min": 80}, "parse_min is 80.*from 0 to 1"),
        ({"parse_min": float("nan")}, "parse_min is nan"),
        ({"receipts": [""]}, "receipts holds ''"),
        ({"receipt": ["x"]}, "unknown field"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(fields, CertaintyConfig)
