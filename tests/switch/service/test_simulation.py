"""The stop contract, in worlds where switches crash, networks split, disks hang, clocks jump and guards are suspended.

What is held: `simulated.World.check_write`, and what `World` says besides about receipts and answers.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from switch.service.simulated import simulate


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What switches log of their bad luck is no news here."""
    with caplog.at_level("CRITICAL", logger="rescind.switch"):
        yield


@pytest.mark.parametrize("seed", range(12))
def test_what_is_said_of_a_guard_is_true_and_silence_ends_what_no_stop_reaches(seed: int, tmp_path: Path) -> None:
    world = simulate(seed, tmp_path, duration_s=40.0)

    assert world.writes, "nobody wrote anything, so nothing was shown"
    assert world.settled, "nothing was ever said of a guard"


def test_a_seed_is_a_story(tmp_path: Path) -> None:
    (tmp_path / "once").mkdir()
    (tmp_path / "again").mkdir()

    once = simulate(7, tmp_path / "once", duration_s=20.0)
    again = simulate(7, tmp_path / "again", duration_s=20.0)

    assert (once.writes, once.settled, once.complete) == (again.writes, again.settled, again.complete)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 312))
def test_and_in_many_more_worlds(seed: int, tmp_path: Path) -> None:
    simulate(seed, tmp_path, duration_s=60.0)
