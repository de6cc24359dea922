"""And when the world fails around it? The laws of the whole, over many seeds."""

import pytest

from rescind.journal.port import Query
from rescind.model.entry import Disposition
from rescind.model.outcome import Failed
from rescind.testing import SimulatedWorld

_EVERYTHING = Query()
QUICK, SLOW = range(60), range(60, 1000)


def check(seed: int) -> None:
    world = SimulatedWorld(seed, crash_ratio=0.02, lost_reply_ratio=0.05).run(calls=80, halt_at=65)

    assert set(world.effects) <= world.intended(), "an effect without an intent"
    assert len(world.effects) == len(set(world.effects)), "one step had two effects"
    assert not world.effects_after_halt, "an effect after an acknowledged halt"

    touched_before = dict(world.rows)
    world.undo()

    assert max(world.compensations.values(), default=0) <= 1, "something was compensated twice"
    for record in world.steps():
        assert isinstance(record.outcome, Failed) or record.disposition is not None, f"{record.ref} is unaccounted for"
    happened = set(world.effects)
    for record in world.steps():
        step = str(record.ref)
        if record.disposition is Disposition.COMPENSATED:
            assert step in happened
            assert world.balance[step] == 0
        if record.disposition is Disposition.NEVER_TOOK_EFFECT and record.step.action != "row.set":
            assert step not in happened
    for row, value in world.rows.items():
        left_to_a_person = any(
            record.disposition is Disposition.REVIEW and record.step.requested.get("row") == row
            for record in world.steps()
        )
        assert value == 0 or left_to_a_person, f"{row} is neither restored nor anybody's to decide"
        assert left_to_a_person or value == 0 or value == touched_before[row]

    entries = len(world.disk.entries(_EVERYTHING, limit=100_000))
    compensations = dict(world.compensations)
    world.undo(death_ratio=0)
    assert (len(world.disk.entries(_EVERYTHING, limit=100_000)), dict(world.compensations)) == (entries, compensations)


@pytest.mark.parametrize("seed", QUICK)
def test_the_laws_of_the_whole_hold_in_a_world_that_breaks(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_the_laws_of_the_whole_hold_over_many_more_seeds(seed: int) -> None:
    check(seed)


def test_the_simulation_does_break_things() -> None:
    worlds = [SimulatedWorld(seed).run(calls=80, halt_at=65) for seed in range(10)]
    assert sum(world.crashes for world in worlds) > 20
    assert sum(len(world.intended()) - len(set(world.effects)) for world in worlds) > 10  # intended, and never happened
    assert all(world.effects for world in worlds)
