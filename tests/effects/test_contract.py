"""The laws of `Effect`, E1 to E5, over every ready-made effect."""

from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from effects.harness import World, a_past_step, opened, perform, recorded, version_now
from effects.worlds import WORLDS
from rescind.errors import Conflict
from rescind.model.action import EffectClass


@pytest.fixture(params=list(WORLDS.values()), ids=list(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path: Path, engine: Engine) -> World:
    built = request.param((tmp_path, engine))
    assert isinstance(built, World)
    return built


def test_it_is_reversible(world: World) -> None:
    assert world.effect.effect_class is EffectClass.REVERSIBLE


def test_e1_opening_changes_nothing(world: World) -> None:
    content = world.content()
    touch = opened(world.effect, **world.arguments)
    assert touch.abandon()
    assert world.content() == content


def test_e2_the_effect_stands_once_it_is_settled(world: World) -> None:
    content = world.content()
    perform(world.effect, world.tool, **world.arguments)
    assert world.content() != content


def test_e3_a_tool_that_changed_nothing_is_vouched_for(world: World) -> None:
    touch = opened(world.effect, **world.arguments)
    assert touch.abandon() is True


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
    perform(world.effect, world.tool, **world.arguments)
    content = world.content()
    assert version_now(world.effect, step) != before.version
    with pytest.raises(Conflict, match="not recorded"):
        world.effect.restore(step)
    assert world.content() == content


def test_without_anything_recorded_it_is_a_conflict(world: World) -> None:
    with pytest.raises(Conflict, match="nothing to put back"):
        world.effect.restore(a_past_step(None, None, world.arguments))
