"""Several systems that no longer agree."""

from typing import Any

import msgspec
import pytest

from builders import a_call, a_run, an_end
from rescind.model.outcome import Failed, Outcome, Unknown
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import Target
from rescind.triggers.consistency import ConsistencyConfig, ConsistencyDetector, ConsistencyWatch
from rescind.triggers.facts import End, ToolReport

LOST: Outcome = Unknown("no reply")


def a_watch(**fields: Any) -> ConsistencyWatch:
    return ConsistencyDetector(ConsistencyConfig(**fields)).watch(a_run())


def in_system(system: str, outcome: Outcome | None = None, *, record: object = 1, **fields: Any) -> End:
    return an_end(a_call(target=Target(system, "customer", str(record))), outcome, **fields)


def said(watch: ConsistencyWatch, *ends: End) -> list[int]:
    return [index for index, end in enumerate(ends) if watch.ended(end) is not None]


def test_failures_in_one_system_while_another_succeeds_are_found() -> None:
    watch = a_watch()

    assert said(watch, in_system("erp"), in_system("crm", LOST)) == []
    finding = watch.ended(in_system("crm", Failed("closed"), record=2))

    assert finding is not None
    assert (finding.kind, finding.rule, finding.severity) == (
        SignalKind.INCONSISTENCY,
        "partial_failures",
        Severity.HIGH,
    )
    assert finding.detail == "2 failed writes in crm, never mended, while writes in erp succeeded"


def test_the_success_may_come_after_the_failures() -> None:
    assert said(a_watch(), in_system("crm", LOST), in_system("crm", LOST), in_system("erp")) == [2]


def test_a_system_that_fails_alone_or_in_which_all_fails_disagrees_with_nothing() -> None:
    assert said(a_watch(), in_system("crm", record=2), in_system("crm", LOST), in_system("crm", LOST)) == []
    assert said(a_watch(), in_system("crm", LOST), in_system("erp", LOST), in_system("erp", LOST)) == []


def test_a_later_success_on_the_same_target_mends_it_and_one_on_another_does_not() -> None:
    mended = (in_system("erp"), in_system("crm", LOST), in_system("crm"), in_system("crm", LOST, record=2))
    unmended = (in_system("erp"), in_system("crm", LOST), in_system("crm", record=9), in_system("crm", LOST, record=2))

    assert said(a_watch(), *mended) == []
    assert said(a_watch(), *unmended) == [3]


@pytest.mark.parametrize("fields", [{"verified": False}, {"report": ToolReport(failed_parts=("tags",))}])
def test_what_completed_in_part_has_failed(fields: dict[str, Any]) -> None:
    assert said(a_watch(failures_min=1), in_system("erp"), in_system("crm", **fields)) == [1]


def test_it_is_said_again_when_twice_as_bad_and_when_it_begins_anew() -> None:
    watch = a_watch()
    lost = [in_system("crm", LOST) for _ in range(8)]

    assert said(watch, in_system("erp"), *lost) == [2, 4, 8]
    assert said(watch, in_system("crm"), *lost) == [2, 4, 8]


def test_reads_and_writes_that_name_no_target_say_nothing_of_systems() -> None:
    read = an_end(a_call(target=Target("crm"), writes=False), Failed("closed"))

    assert said(a_watch(failures_min=1), in_system("erp"), read, an_end(outcome=LOST)) == []


def test_a_run_that_fails_everywhere_is_kept_in_bounded_memory() -> None:
    watch = a_watch()

    for number in range(1_000):
        watch.ended(in_system(f"ok-{number}"))
        watch.ended(in_system(f"bad-{number}", LOST))

    assert len(watch._failures or ()) == 32
    assert len(watch._succeeded or ()) == 16


@pytest.mark.parametrize("answer", [True, None, ""])
def test_an_invariant_that_holds_is_no_finding(answer: object) -> None:
    assert a_watch().invariant("ledger balances", answer) is None


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (False, "it said so"),
        ("erp has 3, crm has 2", "erp has 3, crm has 2"),
        (ConnectionError("password=hunter2"), "it raised ConnectionError"),
        (0, "it answered with a int"),
        ({"ok": False}, "it answered with a dict"),
    ],
)
def test_an_invariant_that_does_not_hold_or_cannot_be_read_is_critical(answer: object, detail: str) -> None:
    finding = a_watch().invariant("ledger balances", answer)

    assert finding is not None
    assert (finding.rule, finding.severity) == ("invariant", Severity.CRITICAL)
    assert detail in finding.detail
    assert "hunter2" not in finding.detail


def test_a_broken_invariant_is_said_once_until_it_has_held_again() -> None:
    watch = a_watch()

    def is_said(answer: object) -> bool:
        finding: Finding | None = watch.invariant("ledger balances", answer)
        return finding is not None

    assert [is_said(answer) for answer in (False, False, True, False)] == [True, False, False, True]


@pytest.mark.parametrize(
    ("fields", "problem"), [({"failures_min": 0}, "failures_min is 0.*from 1"), ({"failures": 2}, "unknown field")]
)
def test_limits_that_cannot_be_meant_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(fields, ConsistencyConfig)
