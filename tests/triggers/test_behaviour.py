"""Runs that retry, turn in circles, go on and on, or do what the healthy runs of their agent do not."""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo, Target, digest_of
from rescind.triggers.baseline import Baseline, learn
from rescind.triggers.behaviour import BehaviourConfig, BehaviourDetector, BehaviourWatch
from rescind.triggers.facts import Call, End
from rescind.triggers.likeness import View

if TYPE_CHECKING:
    from rescind.triggers.detector import Detector

KEY = b"k" * 16
DONE, FAILED, LOST = Completed(), Failed("no"), Unknown("no reply")


def a_run(run_id: str = "run_1", workflow: str = "", agent: str = "clerk") -> RunInfo:
    return RunInfo(run_id=run_id, agent_name=agent, agent_version="1", workflow=workflow)


def a_call(action: str = "invoice.void", run: RunInfo | None = None, *, writes: bool = True, **arguments: Any) -> Call:
    return Call(
        run=run or a_run(),
        action=action,
        writes=writes,
        at_s=1.0,
        arguments=arguments,
        repeats=digest_of(action, arguments),
    )


def watched(baseline: Baseline | None = None, run: RunInfo | None = None, **limits: int) -> BehaviourWatch:
    return BehaviourDetector(BehaviourConfig(**limits), baseline).watch(run or a_run())


def rules(findings: Iterable[Finding | None]) -> list[str]:
    return [
        each.rule + ("+" if each.again else "")
        for finding in findings
        if finding is not None
        for each in (finding, *finding.besides)
    ]


def healthy(runs: int = 60) -> Iterator[Call]:
    """Runs of two workflows: a refund to one of few payees, and an address that is changed after it was read."""
    for number in range(runs):
        run = a_run(f"healthy_{number}", "refund")
        yield a_call("orders.read", run, writes=False, limit=10)
        yield a_call("money.send", run, to=f"payee-{number % 3}", note=f"order {number}")
        run = a_run(f"moved_{number}", "move")
        yield a_call("letters.read", run, writes=False, name="moved.txt")
        yield a_call("address.set", run, street=f"street {number}")


BASELINE = learn(healthy(), key=KEY)


def test_a_call_is_one_too_many_when_it_was_made_as_often_as_allowed() -> None:
    watch = watched(repeats_max=3)

    said = [watch.asked(a_call(invoice=1)) for _ in range(3)]
    finding = watch.asked(a_call(invoice=1))

    assert said == [None, None, None]
    assert finding is not None
    assert (finding.kind, finding.rule, finding.severity) == (SignalKind.BEHAVIOUR, "repeated_call", Severity.HIGH)
    assert str(finding.scope) == "run:run_1"
    assert "4 times" in finding.detail
    assert "3 are allowed" in finding.detail


def test_a_read_that_is_repeated_is_a_warning_only() -> None:
    watch = watched(repeats_max=1)
    watch.asked(a_call("orders.read", writes=False))

    finding = watch.asked(a_call("orders.read", writes=False))

    assert finding is not None
    assert finding.severity is Severity.WARNING


def test_calls_with_other_arguments_are_no_circle() -> None:
    watch = watched(repeats_max=3)

    assert not rules(watch.asked(a_call(invoice=number)) for number in range(100))


def test_a_circle_of_several_calls_is_seen_however_many_others_lie_between() -> None:
    watch = watched(repeats_max=3)

    said = [watch.asked(a_call(f"step.{number % 16}")) for number in range(64)]

    assert rules(said) == ["repeated_call"] * 16


def test_a_call_that_comes_back_between_ever_new_ones_is_not_forgotten() -> None:
    watch = watched(repeats_max=3)

    said = [watch.asked(a_call("hot" if number % 15 == 0 else f"fresh.{number}")) for number in range(75)]

    assert rules(said) == ["repeated_call", "repeated_call+"]


def test_a_call_beyond_two_limits_is_found_by_both() -> None:  # D6
    watch = watched(repeats_max=1, mutations_max=3)

    said = [watch.asked(a_call(invoice=1)) for _ in range(4)]

    assert rules(said) == ["repeated_call", "repeated_call", "repeated_call+", "mutations"]


def test_it_makes_a_signal_when_it_has_doubled_and_is_found_at_every_call_between() -> None:  # D5
    watch = watched(repeats_max=2)

    said = [watch.asked(a_call(invoice=1)) for _ in range(9)]

    new, again = "repeated_call", "repeated_call+"
    assert rules(said) == [new, again, new, again, again, again, new]


@pytest.mark.parametrize("outcome", [FAILED, LOST])
def test_an_action_that_fails_again_and_again_is_not_asked_for_once_more(outcome: Outcome) -> None:
    watch = watched(retries_max=2)

    said: list[Finding | None] = []
    for number in range(3):
        call = a_call(invoice=number)
        said.append(watch.asked(call))
        watch.ended(End(call=call, at_s=2.0, outcome=outcome))

    assert rules(said) == ["retries"]


def test_one_success_forgives_the_failures_before_it() -> None:
    watch = watched(retries_max=2)

    said: list[Finding | None] = []
    outcomes: tuple[Outcome, ...] = (FAILED, DONE, FAILED, DONE, FAILED, DONE)
    for number, outcome in enumerate(outcomes):
        call = a_call(invoice=number)
        said.append(watch.asked(call))
        watch.ended(End(call=call, at_s=2.0, outcome=outcome))

    assert not rules(said)


def test_after_a_rest_one_more_try_is_in_order_and_what_fails_on_is_said_again() -> None:
    watch = watched(retries_max=2)
    said: list[Finding | None] = []

    def call_at(at_s: float, outcome: Outcome) -> None:
        call = msgspec.structs.replace(a_call(invoice=at_s), at_s=at_s)
        said.append(watch.asked(call))
        if said[-1] is None:
            watch.ended(End(call=call, at_s=at_s, outcome=outcome))

    for at_s in (0, 1, 2, 30, 31, 32, 61, 62):  # at 31 and 61, the last failure is 30 seconds past
        call_at(at_s, FAILED)
    assert rules(said) == ["retries", "retries+", "retries+", "retries"]
    said.clear()
    for at_s in (91, 92, 93):
        call_at(at_s, DONE)
    assert said == [None, None, None]  # it is well again


def test_writes_are_counted_apart_from_calls() -> None:
    watch = watched(mutations_max=2, steps_max=5)

    said = [watch.asked(a_call(writes=number % 2 == 0, invoice=number)) for number in range(7)]

    assert [(number, each.rule) for number, each in enumerate(said) if each is not None] == [
        (4, "mutations"),
        (5, "steps"),
        (6, "mutations"),
    ]


def test_without_a_baseline_nothing_is_unlike_it() -> None:
    watch = watched(run=a_run(workflow="refund"))

    assert watch.asked(a_call("password.set", to="mallory")) is None


def test_a_write_that_no_healthy_run_of_the_workflow_makes_is_found_before_it_is_made() -> None:
    run = a_run(workflow="refund")
    watch = watched(BASELINE, run)

    reading = watch.asked(a_call("orders.read", run, writes=False, limit=10))
    finding = watch.asked(a_call("address.set", run, street="street 1"))

    assert reading is None
    assert finding is not None
    assert (finding.rule, finding.severity) == ("unlike_baseline", Severity.HIGH)
    assert "address.set" in finding.detail
    assert "workflow refund" in finding.detail
    assert finding.facts["bits"] > finding.facts["bits_allowed"]


def test_what_is_unlike_stays_refused_when_it_is_repeated_and_makes_one_signal() -> None:  # D5
    run = a_run(workflow="refund")
    watch = watched(BASELINE, run)

    said = [watch.asked(a_call("address.set", run, street="street 1")) for _ in range(3)]

    assert rules(said) == ["unlike_baseline", "unlike_baseline+", "unlike_baseline+"]


def test_money_to_somebody_new_is_unlike_what_healthy_runs_do_and_a_new_note_is_not() -> None:
    run = a_run(workflow="refund")

    known = watched(BASELINE, run).asked(a_call("money.send", run, to="payee-1", note="order 9000"))
    strange = watched(BASELINE, run).asked(a_call("money.send", run, to="mallory", note="order 9000"))

    assert known is None
    assert strange is not None
    assert strange.facts["argument"] == "to"
    assert "mallory" not in strange.detail


def test_what_came_before_tells_runs_apart_that_name_no_workflow() -> None:
    unnamed = learn((msgspec.structs.replace(call, run=a_run(call.run.run_id)) for call in healthy()), key=KEY)
    run = a_run()

    def asked(*calls: Call) -> list[Finding | None]:
        watch = watched(unnamed, run)
        return [watch.asked(call) for call in calls]

    letter = a_call("letters.read", run, writes=False, name="moved.txt")
    orders = a_call("orders.read", run, writes=False, limit=10)
    refund, move = a_call("money.send", run, to="payee-1"), a_call("address.set", run, street="street 3")

    assert not rules([*asked(letter, move), *asked(orders, refund)])
    assert rules(asked(letter, refund)) == ["unlike_baseline"]
    assert rules(asked(orders, move)) == ["unlike_baseline"]


def test_a_second_try_of_the_same_write_is_no_further_evidence() -> None:
    run = a_run(workflow="refund")
    watch = watched(BASELINE, run)

    assert not rules(watch.asked(a_call("money.send", run, to="payee-1")) for _ in range(5))


def test_an_agent_version_that_was_never_learned_is_not_judged() -> None:
    stranger = RunInfo(run_id="r", agent_name="clerk", agent_version="2", workflow="refund")

    assert watched(BASELINE, stranger).asked(a_call("address.set", stranger)) is None


def test_too_few_healthy_runs_for_a_budget_say_nothing() -> None:
    run = a_run(workflow="refund")
    few = learn(healthy(11), key=KEY)  # 22 runs cannot tell 1 in 25 from none

    assert watched(few, run).asked(a_call("address.set", run)) is None
    assert watched(few, run, false_stops_per_1000=100).asked(a_call("address.set", run)) is not None


def test_the_first_write_of_an_agent_that_only_ever_read_is_found() -> None:
    reading = learn([a_call("orders.read", a_run(f"r{number}"), writes=False) for number in range(40)], key=KEY)

    assert rules([watched(reading).asked(a_call("money.send"))]) == ["unlike_baseline"]


def test_arguments_that_nobody_recorded_make_it_say_less_and_never_more() -> None:
    run = a_run(workflow="refund")
    bare = Call(run=run, action="money.send", writes=True, at_s=1.0)

    assert watched(BASELINE, run).asked(bare) is None


def test_of_a_workflow_that_was_never_learned_only_how_it_goes_on_after_a_write_is_judged() -> None:
    many = learn(
        (
            a_call(f"do.{number}", a_run(f"{number}.{repeat}", f"flow {number}"), x=repeat)
            for number in range(6)
            for repeat in range(10)
        ),
        key=KEY,
    )
    run = a_run(workflow="brand new")
    watch = watched(many, run)

    said = [watch.asked(a_call(f"never.seen.{number}", run)) for number in (1, 1, 2, 2, 3)]

    # A first write is what it is, and so is the same one once more; no healthy run makes a second one.
    assert [rules([each]) for each in said] == [[], [], ["unlike_baseline"], [], ["unlike_baseline+"]]


def test_how_healthy_runs_of_other_workflows_go_on_a_new_workflow_may_go_on_too() -> None:
    learned = learn(
        (
            a_call(action, a_run(f"{number}.{repeat}", f"flow {number}"), x=repeat)
            for number in range(6)
            for repeat in range(10)
            for action in ("pay", "file")
        ),
        key=KEY,
    )
    run = a_run(workflow="brand new")
    usual, odd = watched(learned, run), watched(learned, run)

    assert not rules([usual.asked(a_call("pay", run)), usual.asked(a_call("file", run))])
    assert rules([odd.asked(a_call("file", run)), odd.asked(a_call("pay", run))]) == ["unlike_baseline"]


def test_a_limit_that_refuses_comes_before_what_may_be_in_shadow_and_neither_is_lost() -> None:  # D6
    run = a_run(workflow="refund")
    watch = watched(BASELINE, run, mutations_max=1)
    first, second = a_call("money.send", run, to="payee-1"), a_call("address.set", run)

    watch.asked(first)

    assert rules([watch.asked(second)]) == ["mutations", "unlike_baseline"]


def test_no_more_healthy_runs_are_stopped_than_the_budget_allows() -> None:
    noisy = [
        call
        for number in range(200)
        for call in (
            a_call("orders.read", a_run(f"n{number}", "refund"), writes=False),
            a_call(
                "money.send" if number % 10 else f"odd.{number}", a_run(f"n{number}", "refund"), to=f"p{number % 4}"
            ),
        )
    ]
    detector = BehaviourDetector(BehaviourConfig(false_stops_per_1000=50), learn(noisy[:200], key=KEY))

    stopped = 0
    for read, write in zip(noisy[200::2], noisy[201::2], strict=True):
        watch = detector.watch(read.run)
        stopped += any(watch.asked(call) for call in (read, write))

    assert stopped <= 10  # 5 are expected of 100; one in ten is odd


def test_equal_facts_give_equal_findings() -> None:  # D1
    def findings() -> list[Finding | None]:
        run = a_run(workflow="refund")
        watch = watched(learn(healthy(), key=KEY), run, mutations_max=2)
        calls = [a_call(f"do.{number % 3}", run, to=f"payee-{number}") for number in range(12)]
        return [watch.asked(call) for call in calls]

    assert findings() == findings()


HOSTILE: list[Any] = [
    "x" * 1_000_000,
    "\ud800",
    "\x00\x1b[31m",
    float("nan"),
    float("inf"),
    -0.0,
    10**5_000,
    -(10**400),
    None,
    True,
    {"$ref": [1]},
    {},
    [[[]]] * 1_000,
    [float("nan")] * 1_000,
    list(range(100_000)),
    ["a", None, {"b": 1}],
    b"bytes",
    object(),
    {1, 2},
]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_no_argument_makes_it_fail(value: Any) -> None:
    run = a_run(workflow="refund")
    call = Call(run=run, action="money.send", writes=True, at_s=float("nan"), arguments={"to": value}, repeats="d")

    watched(BASELINE, run).asked(call)
    learned = learn([call], key=KEY)

    assert len(msgspec.json.encode(learned)) < 2_000


def test_hostile_names_are_cut_in_what_people_read() -> None:
    watch = watched(repeats_max=1)
    call = Call(
        run=a_run(), action="x" * 100_000, writes=True, at_s=0.0, repeats="d", target=Target("s", "k", "\ud800")
    )

    watch.asked(call)
    finding = watch.asked(call)

    assert finding is not None
    assert len(finding.detail) < 300
    assert len(msgspec.json.encode(finding)) < 1_000


@pytest.mark.parametrize("baseline", [None, BASELINE])
def test_a_watch_stays_small_whatever_a_run_does(baseline: Baseline | None) -> None:  # D4
    run = a_run(workflow="refund")
    watch = watched(baseline, run)

    for number in range(5_000):
        call = a_call(f"do.{number}", run, to=str(number))
        watch.asked(call)
        watch.ended(End(call=call, at_s=2.0, outcome=FAILED))

    assert _own_bytes(watch) < 16_000


def test_an_idle_watch_is_below_a_kilobyte() -> None:  # D4
    assert _own_bytes(watched(BASELINE, a_run(workflow="refund"))) < 1_000


def _own_bytes(watch: object) -> int:
    """What a watch keeps alive by itself: not what it shares with the others of its detector."""
    shared = {"_counts", "_detector", "_hasher", "_run", "workflow"}
    size = 0
    todo: list[Any] = [watch]
    while todo:
        thing: Any = todo.pop()
        size += sys.getsizeof(thing)
        if type(thing) is dict:
            todo += [*thing.keys(), *thing.values()]
        elif type(thing) in (list, tuple, set):
            todo += [each for each in thing if not isinstance(each, View)]
        slots: tuple[str, ...] = getattr(type(thing), "__slots__", ())
        todo += [getattr(thing, name) for name in slots if name not in shared]
    return size


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 2), st.sampled_from([DONE, FAILED, None])),
        max_size=60,
    )
)
def test_what_a_limit_refuses_is_found_at_every_call_beyond_it(
    calls: list[tuple[str, bool, int, Outcome | None]],
) -> None:
    limits = BehaviourConfig(retries_max=3, repeats_max=4, steps_max=20, mutations_max=8)
    watch = BehaviourDetector(limits).watch(a_run())
    times: dict[str, int] = {}
    failures: dict[str, int] = {}
    writes_made = 0
    for number, (action, writes, argument, outcome) in enumerate(calls, start=1):
        call = a_call(action, writes=writes, x=argument)
        times[call.repeats] = times.get(call.repeats, 0) + 1
        writes_made += writes
        too_much = (
            times[call.repeats] > 4 or failures.get(action, 0) >= 3 or number > 20 or (writes and writes_made > 8)
        )

        assert (watch.asked(call) is not None) == too_much

        if outcome is not None:
            failures[action] = failures.get(action, 0) + 1 if outcome is FAILED else 0
            watch.ended(End(call=call, at_s=2.0, outcome=outcome))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retries_max", 0),
        ("repeats_max", -1),
        ("steps_max", 10**9),
        ("mutations_max", True),
        ("retries_max", 1.5),
        ("false_stops_per_1000", 0),
        ("false_stops_per_1000", 501),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{field} is {value}; it must be a whole number from 1 to"):
        BehaviourConfig(**{field: value})


def test_it_is_a_detector() -> None:
    detector: Detector = BehaviourDetector(BehaviourConfig())

    assert detector.watch(a_run()) is not None
