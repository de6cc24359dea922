"""How far a run's writes reach."""

import functools
from typing import Any

import msgspec
import pytest

from builders import a_call, a_run, an_end, at_once
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo, Target
from rescind.triggers.blast import BlastConfig, BlastDetector, BlastWatch


def a_watch(run: RunInfo | None = None, **limits: int) -> BlastWatch:
    wide = {"records_per_minute": 10_000, "records_per_run": 1_000_000, "systems_per_run": 10_000}
    return BlastDetector(BlastConfig(**(wide | limits))).watch(run or a_run())


def on(record: object, at_s: float = 0.0, **fields: Any) -> Any:
    return a_call(target=Target("erp", "invoice", str(record)), at_s=at_s, **fields)


def rule_of(finding: Finding | None) -> str:
    return "" if finding is None else finding.rule


def test_with_a_limit_of_25_records_exactly_25_are_touched() -> None:
    watch = a_watch(records_per_run=25)

    touched = [record for record in range(340) for _ in range(3) if watch.asked(on(record)) is None]

    assert sorted(set(touched)) == list(range(25))


def test_records_within_the_limit_may_be_touched_again_when_it_is_reached() -> None:
    watch = a_watch(records_per_run=2)

    assert [watch.asked(on(record)) is None for record in "ababcabcac"] == [c in "ab" for c in "ababcabcac"]


def test_it_is_said_once_and_found_at_each_call_beyond() -> None:
    watch = a_watch(records_per_run=1)
    watch.asked(on(0))

    first, second, third = (watch.asked(on(record)) for record in (1, 1, 2))

    assert first is not None
    assert second is not None
    assert third is not None
    assert (first.again, second.again, third.again) == (False, True, True)
    assert (first.kind, first.rule, first.severity) == (SignalKind.BLAST_RADIUS, "records_per_run", Severity.HIGH)
    assert first.detail == "one record more than the 1 allowed in this run: erp/invoice/1"
    assert str(first.scope) == "run:run-1"


def test_reads_touch_nothing() -> None:
    watch = a_watch(records_per_run=1)

    assert not any(watch.asked(on(record, writes=False)) for record in range(10))


def test_records_of_a_minute_are_refused_until_the_minute_is_over() -> None:
    watch = a_watch(records_per_minute=3)

    assert [rule_of(watch.asked(on(number, at_s=number))) for number in range(4)] == ["", "", "", "records_per_minute"]
    assert watch.asked(on(1, at_s=50)) is None  # and so stays in the window for another minute
    assert watch.asked(on("new", at_s=60)) is None
    assert watch.asked(on("newer", at_s=62)) is None
    assert rule_of(watch.asked(on("newest", at_s=64))) == "records_per_minute"


def test_a_rate_that_is_passed_again_after_a_quiet_minute_is_said_again() -> None:
    watch = a_watch(records_per_minute=1)

    def again(record: int, at_s: float) -> bool | None:
        finding = watch.asked(on(record, at_s=at_s))
        return None if finding is None else finding.again

    assert [again(1, 0), again(2, 1), again(3, 59)] == [None, False, True]
    assert [again(4, 130), again(5, 131)] == [None, False]


def test_what_a_minute_has_refused_does_not_count_for_the_run() -> None:
    watch = a_watch(records_per_minute=2, records_per_run=3)

    for number in range(100):
        watch.asked(on(number, at_s=0))

    assert watch.asked(on("third", at_s=61)) is None
    assert rule_of(watch.asked(on("fourth", at_s=62))) == "records_per_run"


def test_what_goes_on_beyond_one_limit_counts_for_the_others() -> None:  # D6
    watch = a_watch(records_per_minute=2, records_per_run=4, tenants_per_run=1)

    found: list[list[str]] = []
    for number in range(6):  # nobody refuses: each limit but one may be in shadow
        call = on(number, tenant="acme" if number < 3 else "globex")
        finding = watch.asked(call)
        found.append([] if finding is None else [finding.rule, *(each.rule for each in finding.besides)])
        watch.ended(an_end(call))

    minute, tenants, run = "records_per_minute", "tenants_per_run", "records_per_run"
    assert found == [[], [], [minute], [tenants, minute], [tenants, minute, run], [tenants, minute, run]]


def test_children_that_start_beyond_the_minute_count_for_the_run() -> None:  # D6
    watch = a_watch(children_per_minute=1, children_per_run=2)

    last = [watch.spawned(0.0) for _ in range(3)][-1]

    assert last is not None
    assert [last.rule, *(each.rule for each in last.besides)] == ["children_per_minute", "children_per_run"]


def test_a_write_without_a_target_touches_a_record_for_each_set_of_arguments() -> None:
    watch = a_watch(records_per_run=2)

    found = [rule_of(watch.asked(a_call("mail.send", repeats=digest))) for digest in ("a", "b", "a", "c")]

    assert found == ["", "", "", "records_per_run"]


def test_of_writes_that_nobody_can_tell_apart_each_one_counts() -> None:
    watch = a_watch(records_per_run=2)

    found = [rule_of(watch.asked(a_call("mail.send", step_id=str(number)))) for number in range(3)]

    assert found == ["", "", "records_per_run"]


def test_parts_of_a_target_are_not_run_together() -> None:
    watch = a_watch(records_per_run=1)

    assert watch.asked(a_call(target=Target("erp", "a", "b/c"))) is None
    assert watch.asked(a_call(target=Target("erp", "a/b", "c"))) is not None


def test_numbers_that_python_hashes_alike_are_different_records() -> None:
    watch = a_watch(records_per_run=3)
    ids: list[Any] = [1, 1 + 2**61 - 1, -1, -2]

    found = [rule_of(watch.asked(a_call(target=Target("erp", "invoice", each)))) for each in ids]

    assert found == ["", "", "", "records_per_run"]


def test_tenants_and_systems_have_bounds_of_their_own() -> None:
    tenants, systems = a_watch(tenants_per_run=2), a_watch(systems_per_run=2)

    assert [rule_of(tenants.asked(on(1, tenant=tenant))) for tenant in ("acme", "b", "", "c")] == [
        "",
        "",
        "",
        "tenants_per_run",
    ]
    assert [rule_of(systems.asked(a_call(target=Target(name)))) for name in "abac"] == ["", "", "", "systems_per_run"]


def test_children_count_whether_a_call_starts_them_or_the_guard_does() -> None:
    watch = a_watch(children_per_run=3)

    assert watch.spawned(0.0) is None
    assert watch.asked(a_call("run.spawn", writes=False, spawns=True)) is None
    assert watch.spawned(0.0) is None
    assert rule_of(watch.spawned(0.0)) == "children_per_run"
    assert rule_of(watch.asked(a_call("run.spawn", writes=False, spawns=True))) == "children_per_run"


def test_children_of_a_minute_are_refused_until_there_is_room_again() -> None:
    watch = a_watch(children_per_minute=2)

    assert [rule_of(watch.spawned(at_s)) for at_s in (0, 30, 59, 60, 61, 91)] == [
        "",
        "",
        "children_per_minute",
        "",
        "children_per_minute",
        "",
    ]


def test_a_run_may_be_given_no_children_at_all() -> None:
    assert a_watch(children_per_run=0).spawned(0.0) is not None


def test_calls_that_overlap_touch_no_more_than_the_limit() -> None:
    watch = a_watch(records_per_run=100)
    touched: set[int] = set()

    def in_thread(which: int) -> None:
        for number in range(300):
            if watch.asked(on(number * 4 + which)) is None:
                touched.add(number * 4 + which)

    at_once(functools.partial(in_thread, which) for which in range(4))

    assert len(touched) == 100


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"records_per_run": -1}, "records_per_run is -1; it must be a whole number from 1 to 1000000"),
        ({"records_per_minute": 10_001}, "from 1 to 10000"),
        ({"children_per_run": -1}, "from 0"),
        ({"records": 5}, "unknown field"),
        ({"records_per_run": 2.5}, "Expected `int`"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(fields, BlastConfig)
