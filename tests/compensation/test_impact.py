"""Who acted on what is undone: laws IM1-IM5 of `impact`, and how a journal is read for it."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compensation.undo_world import Shop, row_of
from rescind.compensation.planning.aftermath import read_impact
from rescind.compensation.planning.impact import NO_END, Affected, Impact, ReadAt, Why, Write, reach_of, trace_impact
from rescind.compensation.planning.selection import read_steps
from rescind.model.action import EffectClass
from rescind.model.entry import Disposition, Read, RunClosed, StepRef
from rescind.model.outcome import Failed, Unknown
from rescind.model.step import Snapshot, Target

# --- against a model that tries everything ---


class World(msgspec.Struct):
    roots: list[Write]
    others: list[Write]
    reads: list[ReadAt]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Some runs over some targets; sequences are distinct, and ends come after intents."""
    count = draw(st.integers(1, 12))
    moments = iter(draw(st.permutations(range(1, 2 * count + 9))))
    targets = [Target("t", "", name) for name in "abc"]
    writes: list[Write] = []
    for number in range(count):
        begun, ended = sorted((next(moments), next(moments)))
        run = draw(st.sampled_from("RST"))
        named = [write.ref for write in writes]
        causes = draw(st.lists(st.sampled_from(named), max_size=2, unique=True)) if named else []
        writes.append(
            Write(
                ref=StepRef(run, str(number)),
                action="put",
                target=draw(st.none() | st.sampled_from(targets)),
                begun=begun,
                ended=draw(st.sampled_from([ended, NO_END])),
                causes=tuple(causes),
            )
        )
    reads = [
        ReadAt(
            run_id=draw(st.sampled_from("RST")),
            action="get",
            target=draw(st.sampled_from(targets)),
            sequence=next(moments),
        )
        for _ in range(draw(st.integers(0, 8)))
    ]
    roots = draw(st.sets(st.sampled_from(range(count)), min_size=1, max_size=3))
    return World(
        [each for number, each in enumerate(writes) if number in roots],
        [each for number, each in enumerate(writes) if number not in roots],
        reads,
    )


def reasons(world: World, write: Write, source: Write) -> set[Why]:
    """Why the write depends on the source, by the laws as they are written."""
    found: set[Why] = set()
    if source.target is not None and source.target == write.target and write.ended > source.begun:
        found.add(Why.OVERWROTE)
    for read in world.reads:
        if (read.run_id, read.target) == (write.ref.run_id, source.target) and source.begun < read.sequence:
            found |= {Why.READ} if write.ended > read.sequence else set()
    for other in world.others:
        if source.ref in other.causes and other.ref.run_id == write.ref.run_id:
            came_of_it = other.ref.run_id != source.ref.run_id and write.ended > other.begun
            found |= {Why.CAUSED} if other is write or came_of_it else set()
    return found


@given(worlds())
@settings(max_examples=150, deadline=None)
def test_what_is_found_is_what_the_laws_say(world: World) -> None:
    expected: dict[StepRef, Write] = {}
    while True:
        sources = [*world.roots, *expected.values()]
        more = {
            write.ref: write
            for write in world.others
            if write.ref not in expected and any(reasons(world, write, source) for source in sources)
        }
        if not more:
            break
        expected |= more

    impact = trace_impact(world.roots, world.others, world.reads)

    assert {each.step for each in impact.affected} == expected.keys()
    known = expected | {root.ref: root for root in world.roots}
    for each in impact.affected:
        assert each.why in reasons(world, known[each.step], known[each.source])


@given(worlds())
@settings(max_examples=30, deadline=None)
def test_every_step_hangs_below_a_root(world: World) -> None:
    """IM5: what is found forms a forest, so that it can be drawn."""
    impact = trace_impact(world.roots, world.others, world.reads)
    source = {each.step: each.source for each in impact.affected}
    roots = {root.ref for root in world.roots}

    for step in source:
        seen: set[StepRef] = set()
        while step not in roots:
            assert step not in seen
            seen.add(step)
            step = source[step]


# --- from a journal ---


def read(shop: Shop, name: str, run: str) -> None:
    shop.put(run, Read(action="row.get", target=row_of(name)))


def impact_of(shop: Shop, *runs: str) -> Impact:
    return read_impact(shop.journal, read_steps(shop.journal, runs or ("run-1",)))


def told(affected: Sequence[Affected]) -> list[str]:
    return [f"{each.step} {each.why} {each.source}" for each in affected]


def test_who_read_what_was_written_and_then_wrote_depends_on_it_and_so_on() -> None:
    shop = Shop()
    shop.set("tea", 1)
    shop.set("jam", 1, run="run-2")  # before it read
    read(shop, "tea", "run-2")
    shop.set("oil", 1, run="run-2")
    shop.mail(run="run-2")
    read(shop, "oil", "run-3")
    shop.charge(run="run-3")
    read(shop, "jam", "run-4")
    shop.charge(run="run-4")
    shop.set("tea", 2, run="run-5")

    impact = impact_of(shop)

    assert told(impact.affected) == [
        "run-2/3 read run-1/1",
        "run-2/4 read run-1/1",
        "run-3/5 read run-2/3",
        "run-5/7 overwrote run-1/1",
    ]
    assert [(each.run_id, str(each.target)) for each in impact.readers] == [
        ("run-2", "shop/row/tea"),
        ("run-3", "shop/row/oil"),
    ]
    assert impact.affected[0].by == "row.get"


def test_how_far_it_reaches() -> None:
    shop = Shop()
    shop.put("run-2", Read(action="row.get", target=row_of("salt")), agent_name="mail-agent", tenant="umbrella")
    shop.set("tea", 1)
    read(shop, "tea", "run-2")
    shop.set("oil", 1, run="run-2")
    shop.set("tea", 2, run="run-3")

    reach = reach_of(impact_of(shop))

    assert reach.targets == ("shop/row/oil", "shop/row/tea")
    assert reach.systems == ("shop",)
    assert reach.runs == ("run-2", "run-3")
    assert reach.agents == ("billing-agent@2.4.0", "mail-agent@2.4.0")
    assert reach.tenants == ("acme", "umbrella")


@pytest.mark.parametrize("outcome", [Failed("refused"), None])
def test_a_step_that_failed_is_nobodys_reason_and_depends_on_nothing(outcome: Any) -> None:
    """IM5."""
    shop = Shop()
    shop.set("tea", 1, outcome=Failed("refused"))
    shop.set("jam", 1)
    read(shop, "tea", "run-2")
    shop.charge(run="run-2")
    shop.set("jam", 2, run="run-3", outcome=outcome or Failed("refused"))

    assert impact_of(shop).affected == ()


def test_a_step_in_doubt_may_have_written_until_now() -> None:
    shop = Shop()
    ref = shop.intend("row.set", EffectClass.REVERSIBLE, "run-2", target=row_of("oil"), before=Snapshot.of(0))
    shop.set("tea", 1)
    read(shop, "tea", "run-2")
    assert impact_of(shop).affected == ()  # it was begun before, and has no end: it died, as far as anybody knows

    shop.end(ref, Unknown("no reply"))

    assert told(impact_of(shop).affected) == ["run-2/1 read run-1/2"]


def test_a_run_that_came_of_a_step_took_it_in() -> None:
    """IM3."""
    shop = Shop()
    shop.set("tea", 1)
    shop.charge(run="run-2", causal_parents=("run-1/1",))
    shop.charge(run="run-2", causal_parents=("2",))
    shop.charge(run="run-3", causal_parents=("9",))

    assert told(impact_of(shop).affected) == ["run-2/2 caused run-1/1", "run-2/3 caused run-1/1"]


def test_what_was_undone_since_is_followed_and_marked() -> None:
    """IM5."""
    shop = Shop()
    shop.set("tea", 1)
    read(shop, "tea", "run-2")
    shop.set("oil", 1, run="run-2")
    read(shop, "oil", "run-3")
    shop.charge(run="run-3")
    shop.apply(shop.plan("run-2"))

    impact = impact_of(shop)

    assert [(str(each.step), each.undone) for each in impact.affected] == [("run-2/2", True), ("run-3/3", False)]
    assert told(impact.standing) == ["run-3/3 read run-2/2"]
    assert shop.ends()[StepRef("run-2", "2")] == [Disposition.RESTORED]


def test_reads_that_are_missing_are_known() -> None:
    """T2 of `guard.reads`."""
    shop = Shop()
    read(shop, "salt", "run-3")
    shop.set("tea", 1)
    for run in ("run-2", "run-3", "run-4"):
        read(shop, "tea", run)
    for run in ("run-2", "run-3"):
        shop.put(run, RunClosed(guard_id="guard-1", how="ended", reads=2))

    impact = impact_of(shop)

    assert impact.reads_missing == ("run-2",)
    assert impact.unclosed == ("run-4",)


def test_nothing_chosen_is_nothing_affected() -> None:
    shop = Shop()
    shop.set("tea", 1, outcome=Failed("refused"))

    assert impact_of(shop) == Impact(roots=(), affected=())
