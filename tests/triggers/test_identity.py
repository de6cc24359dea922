"""Whether the agent knows what it is about to change."""

from typing import Any

import msgspec
import pytest

from builders import a_call, a_run, an_end
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import Target
from rescind.triggers.facts import ToolReport
from rescind.triggers.identity import IdentityConfig, IdentityDetector, IdentityWatch

ONE, TWO = Target("crm", "customer", "1"), Target("crm", "customer", "2")


def a_watch(**fields: Any) -> IdentityWatch:
    return IdentityDetector(IdentityConfig(**fields)).watch(a_run())


def a_read(confidence: Any, of: str = "record", target: Target | None = None) -> Any:
    call = a_call("customer.find", writes=False, target=target)
    return an_end(call, report=ToolReport(confidence={of: confidence}))


def a_write(target: Target | None = ONE) -> Any:
    return a_call("customer.merge", target=target)


def is_found(finding: Finding | None) -> bool:
    return finding is not None


def test_a_write_after_a_read_that_was_not_sure_is_found_before_it_is_made() -> None:
    watch = a_watch()

    assert watch.ended(a_read(0.4)) is None
    finding = watch.asked(a_write())

    assert finding is not None
    assert (finding.kind, finding.rule, finding.severity) == (
        SignalKind.LOST_IDENTITY,
        "unsure_read",
        Severity.HIGH,
    )
    assert finding.detail == "customer.merge after customer.find, which was 40% sure of the record; 80% is asked"


def test_it_is_said_once_and_found_at_each_write() -> None:
    watch = a_watch()
    watch.ended(a_read(0.4))
    watch.ended(a_read(0.3))

    found = [watch.asked(a_write()) for _ in range(3)]

    assert [finding is not None and finding.again for finding in found] == [False, True, True]


def test_reads_go_on_while_something_is_in_doubt() -> None:
    watch = a_watch()
    watch.ended(a_read(0.4))

    assert watch.asked(a_call("customer.find", writes=False)) is None


def test_a_later_read_that_is_sure_of_the_same_thing_settles_it() -> None:
    watch = a_watch()
    watch.ended(a_read(0.4))

    watch.ended(a_read(0.9, of="tenant"))
    assert is_found(watch.asked(a_write()))
    watch.ended(a_read(0.9))
    assert watch.asked(a_write()) is None
    watch.ended(a_read(0.4))
    finding = watch.asked(a_write())
    assert finding is not None
    assert not finding.again  # another doubt than the first


def test_a_doubt_about_one_target_leaves_writes_to_others_alone() -> None:
    watch = a_watch()
    watch.ended(a_read(0.4, target=ONE))

    assert is_found(watch.asked(a_write(ONE)))
    assert watch.asked(a_write(TWO)) is None
    assert is_found(watch.asked(a_write(None)))  # which may be on any of them
    watch.ended(a_read(0.9, target=TWO))
    assert is_found(watch.asked(a_write(ONE)))
    watch.ended(a_read(0.9, target=ONE))
    assert watch.asked(a_write(ONE)) is None


def test_where_any_write_may_rest_on_a_read_all_are_found() -> None:
    watch = a_watch(rests_on="any")
    watch.ended(a_read(0.4, target=ONE))

    assert is_found(watch.asked(a_write(TWO)))
    watch.ended(a_read(0.9, target=TWO))
    assert watch.asked(a_write(ONE)) is None


def test_a_run_that_is_unsure_of_more_targets_than_are_kept_may_write_to_none() -> None:
    watch = a_watch()
    for number in range(17):
        watch.ended(a_read(0.1, target=Target("crm", "customer", str(number))))

    assert is_found(watch.asked(a_write(Target("crm", "customer", "99"))))


def test_a_write_that_was_not_sure_is_told_of_at_once_and_again_when_there_are_twice_as_many() -> None:
    watch = a_watch()

    found = [watch.ended(an_end(a_write(), report=ToolReport(confidence={"record": 0.4}))) for _ in range(9)]

    assert [index + 1 for index, finding in enumerate(found) if finding] == [1, 2, 4, 8]
    assert found[0] is not None
    assert found[0].rule == "unsure_write"
    assert found[0].detail == "customer.merge on crm/customer/1 was 40% sure of the record; 80% is asked"


def test_not_knowing_the_tenant_is_critical() -> None:
    watch = a_watch()
    watch.ended(an_end(a_call(writes=False), report=ToolReport(confidence={"record": 0.5, "tenant": 0.2})))
    finding = watch.asked(a_write())

    assert finding is not None
    assert (finding.severity, finding.facts["of"]) == (Severity.CRITICAL, "tenant")


@pytest.mark.parametrize("confidence", [float("nan"), True, "0.99", None, 7, -1])
def test_a_confidence_without_a_meaning_is_none(confidence: Any) -> None:
    watch = a_watch()
    watch.ended(a_read(confidence))

    assert is_found(watch.asked(a_write()))


def test_confidence_in_what_was_parsed_is_not_its_business() -> None:
    watch = a_watch()
    watch.ended(a_read(0.1, of="parse"))

    assert watch.asked(a_write()) is None


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"confidence_min": 80}, "confidence_min is 80.*from 0 to 1"),
        ({"of": [""]}, "of holds ''"),
        ({"rests_on": "all"}, "Invalid enum value 'all'"),
        ({"threshold": 0.5}, "unknown field"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(fields, IdentityConfig)
