"""The laws of `Effect`, E1 to E8, over every ready-made effect.

What an effect cannot do by its nature its world declares, and the suite checks that the effect says so.
"""

import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy.engine import Engine

from effects.harness import (
    World,
    a_past_step,
    lines_of,
    merged,
    opened,
    perform,
    recorded,
    the_way_back,
    version_now,
)
from effects.worlds import WORLDS
from rescind.errors import Conflict, Transient
from rescind.guard.effect import PastStep, Probe
from rescind.model.action import EffectClass
from rescind.model.probe import Found

# More of the same effect, for the longer run: each effect passes each law in every run.
SLOW = {"s3, an object created, without versions", "s3, an object deleted, with versions", "http, deleted, weak ETags"}
assert WORLDS.keys() > SLOW


@pytest.fixture(
    params=[pytest.param(build, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, build in WORLDS.items()]
)
def world(request: pytest.FixtureRequest, tmp_path: Path, engine: Engine) -> Iterator[World]:
    needed = [request.getfixturevalue(name) for name in getattr(request.param, "needs", ())]
    built = request.param((tmp_path, engine), *needed)
    assert isinstance(built, World)
    yield built
    built.close()


def test_it_is_reversible(world: World) -> None:
    assert world.effect.effect_class is EffectClass.REVERSIBLE


def test_e1_opening_changes_nothing(world: World) -> None:
    content = world.content()
    touch = opened(world.effect, **world.arguments)
    assert touch.abandon() is world.abandons
    assert world.content() == content


def test_e2_the_effect_stands_once_it_is_settled(world: World) -> None:
    content = world.content()
    perform(world.effect, world.tool, **world.arguments)
    assert world.content() != content


def test_e3_a_tool_that_changed_nothing_is_vouched_for(world: World) -> None:
    touch = opened(world.effect, **world.arguments)
    assert touch.abandon() is world.abandons


def test_e3_a_tool_that_changed_something_is_taken_back_or_not_vouched_for(world: World) -> None:
    content = world.content()
    touch = opened(world.effect, **world.arguments)
    world.tool(**world.arguments)
    assert touch.abandon() is world.rolls_back
    assert (world.content() == content) is world.rolls_back


def test_e4_somebody_elses_change_is_a_conflict_and_stays(world: World) -> None:
    step = perform(world.effect, world.tool, **world.arguments)
    world.meddle()
    content = world.content()
    with pytest.raises(Conflict, match="not as the step left it"):
        world.effect.restore(step)
    assert world.content() == content


def test_e5_a_restore_brings_everything_back(world: World) -> None:
    content = world.content()
    step = perform(world.effect, world.tool, **world.arguments)
    assert step.before_snapshot
    assert step.after_snapshot
    assert step.before_snapshot.version != step.after_snapshot.version
    assert version_now(world.effect, step) == step.after_snapshot.version
    world.effect.restore(step)
    assert world.content() == content
    assert version_now(world.effect, step) == step.before_snapshot.version


def test_e5_twice_is_once(world: World) -> None:
    step = perform(world.effect, world.tool, **world.arguments)
    world.effect.restore(step)
    content = world.content()
    world.effect.restore(step)
    assert world.content() == content


def test_without_a_recorded_end_nothing_is_touched_unless_nothing_happened(world: World) -> None:
    touch = opened(world.effect, **world.arguments)
    before = recorded(touch.before)
    touch.abandon()
    step = a_past_step(before, None, world.arguments)
    world.effect.restore(step)
    assert version_now(world.effect, step) == before.version
    step = in_doubt(world)
    content = world.content()
    assert step.before_snapshot
    assert version_now(world.effect, step) != step.before_snapshot.version
    if world.knows_its_calls:
        world.effect.restore(step)
        assert version_now(world.effect, step) == step.before_snapshot.version
        return
    with pytest.raises(Conflict, match="not recorded"):
        world.effect.restore(step)
    assert world.content() == content


def test_without_anything_recorded_it_is_a_conflict(world: World) -> None:
    with pytest.raises(Conflict, match="nothing to put back"):
        world.effect.restore(a_past_step(None, None, world.arguments))


def test_e4_who_changed_it_and_changed_it_back_is_seen_or_has_changed_nothing(world: World) -> None:
    before = world.content()
    step = perform(world.effect, world.tool, **world.arguments)
    after = world.content()
    world.meddle()
    assert world.content() != after
    world.mend()
    assert world.content() == after
    assert bool(getattr(world.effect, "sees_aba", False)) is world.sees_aba
    if world.sees_aba:
        with pytest.raises(Conflict, match="not as the step left it"):
            world.effect.restore(step)
        assert world.content() == after
    else:
        world.effect.restore(step)
        assert world.content() == before


def test_e1_e6_looking_and_probing_change_nothing(world: World) -> None:
    step = perform(world.effect, world.tool, **world.arguments)
    content = world.content()
    for _ in range(2):
        version_now(world.effect, step)
        probe(world, step)
    assert world.content() == content
    world.effect.restore(step)


def test_e5_a_restore_that_died_is_finished_by_the_next(world: World) -> None:
    die_and_finish(world, points=3)


@pytest.mark.slow  # with servers, each point costs a tenth of a second
def test_e5_a_restore_that_died_anywhere_is_finished_by_the_next(world: World) -> None:
    die_and_finish(world, points=20)


def die_and_finish(world: World, *, points: int) -> None:
    """Restores that die at lines spread over all of them, and at the last."""
    content = world.content()
    step = perform(world.effect, world.tool, **world.arguments)
    lines = lines_of(functools.partial(world.effect.restore, step))
    assert world.content() == content
    for point in sorted({1 + number * lines // points for number in range(points)} | {lines}):
        step = perform(world.effect, world.tool, **world.arguments)
        assert lines_of(functools.partial(world.effect.restore, step), die_at=point) == point
        world.effect.restore(step)
        assert world.content() == content, f"died at line {point} of {lines}"


def test_e5_restorers_at_once_are_one(world: World) -> None:
    race(world)


@pytest.mark.slow  # once more, for another interleaving
def test_e5_restorers_at_once_are_one_each_time(world: World) -> None:
    for _ in range(5):
        race(world)


def race(world: World) -> None:
    content = world.content()
    step = perform(world.effect, world.tool, **world.arguments)
    raised = at_once(*[functools.partial(world.effect.restore, step)] * 3)
    assert all(error is None or isinstance(error, Conflict | Transient) for error in raised), raised
    if None not in raised:  # each was in the others' way, and nothing happened
        world.effect.restore(step)
    assert world.content() == content


def at_once(*works: Any) -> list[BaseException | None]:
    """Do them in threads that start together. Returns: what each raised."""
    together = threading.Barrier(len(works))
    raised: list[BaseException | None] = []

    def run(work: Any) -> None:
        together.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # it is looked at below
            raised.append(error)
        else:
            raised.append(None)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def in_doubt(world: World) -> PastStep:
    """A step that took effect, and whose end nobody recorded."""
    step = perform(world.effect, world.tool, **world.arguments)
    return a_past_step(step.before_snapshot, None, world.arguments)


def probe(world: World, step: PastStep) -> Probe:
    answer = cast("Any", world.effect).probe(step)
    return Probe.FOUND if isinstance(answer, Found) else Probe(answer)


def test_e6_a_probe_finds_what_is_there_and_nothing_else(world: World) -> None:
    step = perform(world.effect, world.tool, **world.arguments)
    assert probe(world, step) is Probe.FOUND
    world.effect.restore(step)
    assert probe(world, step) is Probe.NOT_FOUND


def test_e6_a_probe_of_a_step_in_doubt_does_not_guess(world: World) -> None:
    touch = opened(world.effect, **world.arguments)
    touch.abandon()
    step = a_past_step(recorded(touch.before), None, world.arguments)
    assert probe(world, step) is Probe.NOT_FOUND
    found = probe(world, in_doubt(world))
    assert found is Probe.FOUND if world.knows_its_calls else found is not Probe.NOT_FOUND


def test_e6_a_probe_that_nothing_was_recorded_for_cannot_tell(world: World) -> None:
    assert probe(world, a_past_step(None, None, world.arguments)) is Probe.CANNOT_TELL


def test_e6_a_target_that_cannot_be_reached_gives_no_answer(world: World) -> None:
    step = perform(world.effect, world.tool, **world.arguments)
    if world.cut_off is None:
        pytest.skip("it is in our own memory")
    world.cut_off()
    try:
        answer = probe(world, step)
    except Exception:  # noqa: BLE001  # whatever the target raises is no answer
        return
    assert answer is Probe.CANNOT_TELL


def test_e7_the_undo_can_be_undone_or_says_that_it_cannot(world: World) -> None:
    before = world.content()
    step = perform(world.effect, world.tool, **world.arguments)
    after = world.content()
    world.effect.restore(step)
    if not world.undo_can_be_undone:
        with pytest.raises(Conflict):
            world.effect.restore(the_way_back(step))
        assert world.content() == before
        return
    world.effect.restore(the_way_back(step))
    assert world.content() == after
    world.effect.restore(the_way_back(step))
    assert world.content() == after
    world.effect.restore(step)
    assert world.content() == before


def over_a_later_change(world: World) -> PastStep:
    """What an undo that forces hands out: somebody has changed what the step left."""
    step = perform(world.effect, world.tool, **world.arguments)
    world.meddle()
    seen = recorded(world.effect.observe(step))
    assert step.after_snapshot
    assert seen.version != step.after_snapshot.version
    return msgspec.structs.replace(step, after_snapshot=seen)


def refuses(world: World, step: PastStep) -> None:
    content = world.content()
    with pytest.raises(Conflict):
        world.effect.restore(step)
    assert world.content() == content


def test_e8_forced_over_a_later_change_it_is_as_before_or_says_that_it_cannot(world: World) -> None:
    before = world.content()
    step = over_a_later_change(world)
    theirs = world.content()
    if not world.goes_over:
        refuses(world, step)
        return
    for _ in range(2):  # twice is once
        world.effect.restore(step)
        assert world.content() == before
    assert step.before_snapshot
    assert version_now(world.effect, step) == step.before_snapshot.version
    world.effect.restore(the_way_back(step))
    assert world.content() == theirs


def test_e8_what_nobody_was_shown_is_not_forced(world: World) -> None:
    step = over_a_later_change(world)
    world.mend()  # it is no longer what was seen
    refuses(world, step)


def test_e8_a_merge_puts_there_what_was_made_of_what_was_seen_and_nothing_later(world: World) -> None:
    step = perform(world.effect, world.tool, **world.arguments)
    wanted = world.content()
    made = merged(world.effect, step, step.after)  # what the step left is to stand after all
    world.meddle()
    theirs = world.content()
    seen = recorded(world.effect.observe(step))
    over = msgspec.structs.replace(step, before_snapshot=made, after_snapshot=seen)
    if not world.goes_over:
        refuses(world, over)
        return
    for _ in range(2):
        world.effect.restore(over)
        assert world.content() == wanted
    assert version_now(world.effect, over) == made.version
    world.effect.restore(the_way_back(over))
    assert world.content() == theirs
    world.effect.restore(the_way_back(over))
    assert version_now(world.effect, over) == seen.version


@pytest.mark.slow
def test_e8_a_forced_restore_that_died_anywhere_is_finished_by_the_next(world: World) -> None:
    if not world.goes_over:
        pytest.skip("it says that it cannot")
    before = world.content()
    step = over_a_later_change(world)
    assert lines_of(functools.partial(world.effect.restore, step), die_at=10) == 10
    world.effect.restore(step)
    assert world.content() == before
    world.effect.restore(the_way_back(step))
    lines = lines_of(functools.partial(world.effect.restore, step))
    for point in sorted({1 + number * lines // 10 for number in range(10)} | {lines}):
        world.effect.restore(the_way_back(step))
        assert lines_of(functools.partial(world.effect.restore, step), die_at=point) == point
        world.effect.restore(step)
        assert world.content() == before, f"died at line {point} of {lines}"
