"""What is learned of healthy runs: a bounded sample of sketches that merge by union and hold no values (BL1 to BL3)."""

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rescind.model.outcome import Completed, Failed
from rescind.model.step import RunInfo, Target
from rescind.triggers import baseline as module
from rescind.triggers.baseline import (
    AGENTS_MAX,
    CALLS_MAX,
    BaselineError,
    Hasher,
    Volume,
    learn,
    load,
    save,
)
from rescind.triggers.facts import Call, End
from rescind.triggers.likeness import WORKFLOW_RUNS_MIN, Counts, Likeness, Trail, Turns, score_of, turns_of

KEY = b"k" * 16


def a_call(run_id: str, action: str = "pay", *, writes: bool = True, at_s: float = 0.0, **more: Any) -> Call:
    run = RunInfo(run_id=run_id, agent_name=more.pop("agent", "clerk"), workflow=more.pop("workflow", ""))
    return Call(run=run, action=action, writes=writes, at_s=at_s, **more)


def facts(*runs: str) -> Iterator[Call]:
    for run in runs:
        yield a_call(run, "look", writes=False, repeats="d")
        yield a_call(run, arguments={"to": run, "amount": 5})


RUN_LISTS = st.lists(st.text("abcdef", min_size=1, max_size=3), max_size=12)


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNS_MAX", 5)


@given(RUN_LISTS, RUN_LISTS, RUN_LISTS)
def test_merging_is_union_in_any_order_and_twice(one: list[str], two: list[str], three: list[str]) -> None:  # BL1
    # Whole runs, each in one list only or the same in both: a run is learned from one record.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RUNS_MAX", 5)
        a, b, c = (learn(facts(*dict.fromkeys(each)), key=KEY) for each in (one, two, three))
        all_at_once = learn(facts(*dict.fromkeys([*one, *two, *three])), key=KEY)

        assert a.merge(b).agents == b.merge(a).agents
        assert a.merge(b).merge(c).agents == a.merge(b.merge(c)).agents == all_at_once.agents
        assert a.merge(a).agents == a.agents


@pytest.mark.usefixtures("small_sample")
def test_the_sample_is_bounded_and_the_same_in_whatever_order_runs_come() -> None:  # BL2
    names = [f"run_{number}" for number in range(100)]

    forward, backward = learn(facts(*names), key=KEY), learn(facts(*reversed(names)), key=KEY)

    assert len(forward.agents["clerk"]) == 5
    assert forward.agents == backward.agents


@pytest.mark.usefixtures("small_sample")
def test_a_run_that_is_not_sampled_does_not_come_back_with_its_next_call() -> None:  # BL2
    names = [f"run_{number}" for number in range(100)]

    learned = learn([call for _ in range(3) for call in facts(*names)], key=KEY)

    assert [len(sketch.calls) for sketch in learned.agents["clerk"]] == [6] * 5


def test_long_runs_many_agents_and_wide_calls_are_cut() -> None:  # BL2
    long = [a_call("r", f"do.{number}") for number in range(1_000)]
    wide = a_call("w", arguments={f"name{number}": list(range(1_000)) for number in range(1_000)})
    crowd = [a_call("r", agent=f"agent {number}") for number in range(2 * AGENTS_MAX)]

    learned = learn([*long, wide, *crowd], key=KEY)

    assert len(learned.agents) == AGENTS_MAX
    assert max(len(sketch.calls) for sketch in learned.agents["clerk"]) == CALLS_MAX
    assert len(msgspec.json.encode(learned)) < 200_000


def test_no_value_and_no_id_of_a_run_is_in_it() -> None:  # BL3
    secret = a_call(
        "run-secret", arguments={"to": "Mallory", "amount": 987_654_321}, target=Target("erp", "i", "inv_8")
    )

    text = msgspec.json.encode(learn([secret], key=KEY)).decode()

    assert not any(word in text for word in ("Mallory", "987654321", "run-secret", "inv_8", "erp"))


def test_a_run_that_calls_nothing_is_a_healthy_run_too() -> None:
    quiet = [RunInfo(run_id=f"q{number}", agent_name="clerk", workflow="w") for number in range(30)]

    likeness = Likeness(learn(quiet, key=KEY).agents["clerk"])

    assert likeness.healthy_runs(likeness.by_workflow) == 30
    assert likeness.bits_allowed(likeness.by_workflow, 40) == 0.0


def test_equal_values_have_equal_hashes_with_one_key_and_others_with_another() -> None:
    hasher = Hasher(KEY)

    assert hasher.of("a") == Hasher(KEY).of("a") != Hasher(b"x" * 16).of("a")
    assert hasher.values(10) == hasher.values(10.0) == hasher.values([10])
    assert hasher.values("x" * 300) != hasher.values("x" * 301)
    assert hasher.values(True) == hasher.values(None) == hasher.values({"a": 1}) == ()


def test_baselines_of_different_keys_do_not_merge() -> None:
    with pytest.raises(BaselineError, match="different keys; learn one of them anew"):
        learn([], key=KEY).merge(learn([], key=b"x" * 16))


def test_rates_and_volumes_are_recorded_per_scope_and_action() -> None:
    def ends() -> Iterator[Call | End]:
        for number in range(20):
            call = a_call(f"r{number}", at_s=float(number * 30))
            yield call
            yield End(call=call, at_s=call.at_s + 1, outcome=Failed("no") if number == 7 else Completed())

    learned = learn(ends(), key=KEY)

    assert (learned.rates["action:pay"].calls, learned.rates["action:pay"].failed) == (20, 1)
    assert learned.volumes["pay"] == Volume(calls=20, windows=2, busiest=10)
    both = learned.merge(learned)  # sums are sums
    assert both.rates["action:pay"].calls == 40
    assert both.volumes["pay"] == Volume(calls=40, windows=4, busiest=10)


def test_what_was_saved_is_loaded_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    learned, path = learn(facts("a", "b"), key=KEY), tmp_path / "baseline.json"

    save(learned, path)

    assert load(path) == learned
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"key": "aGk="}',
        b'{"key": "a2tra2tra2tra2tra2traw==", "format": "rescind-baseline/9"}',
        b'{"key": "a2tra2tra2tra2tra2traw==", "agents": {"a": [[1, "w", [["x", true, 0, {"to": ["v"]}]]]]}}',
        b'{"key": "a2tra2tra2tra2tra2traw==", "volumes": {"a": {"calls": 1, "windows": 5, "busiest": 1}}}',
        b'{"key": "a2tra2tra2tra2tra2traw==", "surprise": 1}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_file_that_is_no_baseline_is_refused_with_its_name_and_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "baseline.json"
    path.write_bytes(content)

    with pytest.raises(BaselineError) as refused:
        load(path)

    assert str(path) in str(refused.value)
    assert "learn it anew" in str(refused.value)


def test_a_place_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    nowhere = tmp_path / "no" / "file.json"

    with pytest.raises(BaselineError, match=r"cannot read .*file.json: No such file"):
        load(nowhere)
    with pytest.raises(BaselineError, match=r"cannot write .*file.json: No such file"):
        save(learn([], key=KEY), nowhere)


# --- what is counted from it ---


CALLS = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 3)).map(
        lambda drawn: {"action": drawn[0], "writes": drawn[1], "value": drawn[2]}
    ),
    max_size=8,
)


@given(st.lists(st.tuples(st.sampled_from(["", "x", "y"]), CALLS), min_size=1, max_size=12))
def test_a_run_that_is_taken_out_and_put_back_leaves_no_trace(runs: list[tuple[str, list[dict[str, Any]]]]) -> None:
    calls = [
        a_call(
            f"r{number}",
            call["action"],
            writes=call["writes"],
            workflow=workflow,
            repeats=f"{call['action']} {call['value']}",
            arguments={"to": call["value"]},
        )
        for number, (workflow, drawn) in enumerate(runs)
        for call in drawn
    ]
    learned = learn(calls, key=KEY).agents.get("clerk", ())
    counts, without_first = Counts(learned), Counts(learned)

    for sketch in learned:
        counts.add(sketch, -1)
        counts.add(sketch, 1)
    for sketch in learned[:1]:
        without_first.add(sketch, -1)

    assert [score_of(counts, each) for each in learned] == [score_of(Counts(learned), each) for each in learned]
    fresh = Counts(learned[1:])
    assert {p: v.runs for p, v in without_first.views.items() if v.runs} == {
        p: v.runs for p, v in fresh.views.items() if v.runs
    }


def test_evidence_is_negative_for_what_healthy_runs_do_and_grows_with_how_many_do_not() -> None:
    def evidence(runs: int) -> tuple[float, float]:
        calls = [a_call(f"r{number}", workflow="w") for number in range(runs)]
        others = [a_call(f"o{number}", "void", workflow="other") for number in range(runs)]
        counts = Counts(learn([*calls, *others], key=KEY).agents["clerk"])
        usual, _ = counts.evidence(Trail(counts, "w"), "pay", {})
        unusual, _ = counts.evidence(Trail(counts, "w"), "void", {})
        return usual, unusual

    few, many = evidence(5), evidence(500)

    assert few[0] < 0 > many[0]
    assert 0 < few[1] < many[1]


def test_evidence_adds_up_and_a_good_beginning_buys_no_credit() -> None:
    trail = Trail(Counts([]), "")

    levels = [trail.wrote("a", number, bits) for number, bits in enumerate([-9.0, 3.0, 2.0, -1.0, -9.0, 1.0], start=1)]

    assert levels == [-9.0, 3.0, 5.0, 4.0, -5.0, 1.0]


def test_a_value_that_only_one_run_had_is_new_once_that_run_is_taken_out() -> None:
    calls = [a_call(f"r{n}", workflow="w", arguments={"to": "solo" if n == 0 else f"p{n % 2}"}) for n in range(20)]
    learned = learn(calls, key=KEY).agents["clerk"]
    counts, solo = Counts(learned), {"to": Hasher(KEY).values("solo")}
    run = next(each for each in learned if each.calls[0].values == solo)

    before, _ = counts.evidence(Trail(counts, "w"), "pay", solo)
    counts.add(run, -1)
    without, argument = counts.evidence(Trail(counts, "w"), "pay", solo)
    counts.add(run, 1)

    assert before < 0 < without
    assert argument == "to"
    assert counts.evidence(Trail(counts, "w"), "pay", solo)[0] == before


def test_an_argument_that_always_changes_says_nothing() -> None:
    calls = [a_call(f"r{n}", workflow="w", arguments={"note": f"n{n}", "to": f"p{n % 2}"}) for n in range(40)]
    counts, hasher = Counts(learn(calls, key=KEY).agents["clerk"]), Hasher(KEY)

    def bits(**arguments: str) -> tuple[float, str]:
        values = {name: hasher.values(value) for name, value in arguments.items()}
        return counts.evidence(Trail(counts, "w"), "pay", values)

    assert bits(note="never seen") == bits()
    assert bits(to="p1")[0] < bits()[0]
    assert bits(to="never seen")[0] > 0
    assert bits(to="never seen")[1] == "to"


def test_a_workflow_is_known_from_its_eighth_run_on() -> None:
    calls = [a_call(f"r{n}", workflow="often") for n in range(WORKFLOW_RUNS_MIN)]
    calls += [a_call(f"s{n}", workflow="seldom") for n in range(WORKFLOW_RUNS_MIN - 1)]

    likeness = Likeness(learn(calls, key=KEY).agents["clerk"])

    assert likeness.workflows == {"often"}
    assert likeness.counts_for("often") is likeness.by_workflow
    assert likeness.counts_for("") is likeness.plain
    assert likeness.counts_for("seldom") is None


def test_turns_are_of_different_writes_told_apart_by_target_or_by_arguments() -> None:
    calls = [
        a_call("r", target=Target("erp", "invoice", "1"), repeats="a"),
        a_call("r", target=Target("erp", "invoice", "1"), repeats="b"),
        a_call("r", target=Target("erp", "invoice", "2"), repeats="c"),
        a_call("r", repeats="d"),
        a_call("r", repeats="d"),
        a_call("r", "look", writes=False, repeats="e"),
    ]

    assert len(turns_of(learn(calls, key=KEY).agents["clerk"][0])) == 2  # of three different writes


def test_a_turn_that_more_healthy_runs_take_is_less_odd_and_a_learned_run_does_not_vouch_for_itself() -> None:
    calls = [a_call(f"r{n}", action, repeats=f"{n}{action}") for n in range(9) for action in ("pay", "file")]
    calls += [a_call("odd", action, repeats=action) for action in ("file", "pay")]
    sketches = learn(calls, key=KEY).agents["clerk"]
    turns = Turns(sketches)

    assert turns.bits("pay", "file", 2) < turns.bits("file", "pay", 2) < turns.bits("file", "mail", 2)
    odd = next(sketch for sketch in sketches if turns_of(sketch) == [("file", "pay")])
    assert turns.score_of(odd) > turns.bits("file", "pay", 2)
