"""Who applies a plan: laws AL1 to AL4 of `recovery.appliers`, in a folder and in PostgreSQL."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builders import environment
from rescind.database.address import Address
from rescind.recovery.appliers import Appliers, FolderAppliers
from rescind.recovery.places import appliers_of
from servers import Postgres, postgres_server

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

DEADLINE_S = 20.0

ONE, OTHER = "undo_0123456789abcdef", "undo_fedcba9876543210"

HOLDS = """
import sys, time
from rescind.database.address import store_at
from rescind.recovery.places import appliers_of

with appliers_of(store_at(sys.argv[1])).here(sys.argv[2]) as shown:
    print(shown, flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["folder", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> "StoreAt":
    if request.param == "folder":
        return tmp_path
    return Address.parse(request.getfixturevalue("postgres").new_database())


@pytest.fixture
def appliers(store: "StoreAt") -> Appliers:
    return appliers_of(store)


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)


@contextlib.contextmanager
def another(store: "StoreAt", plan_run: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that applies this plan."""
    url = store.url if isinstance(store, Address) else str(store)
    argv = [sys.executable, "-c", HOLDS, url, plan_run]
    process = subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_al1_it_is_seen_for_as_long_as_the_block_lasts(appliers: Appliers) -> None:
    assert appliers.living([ONE, OTHER]) == frozenset()
    with appliers.here(ONE) as shown:
        assert shown
        for _ in range(3):
            assert appliers.living([ONE, OTHER]) == {ONE}
        assert appliers.living([OTHER]) == frozenset()
        assert appliers.living([]) == frozenset()
    assert appliers.living([ONE]) == frozenset()


def test_al4_of_two_that_apply_one_plan_each_is_seen(appliers: Appliers) -> None:
    with appliers.here(ONE):
        with appliers.here(ONE) as shown:
            assert shown
        assert appliers.living([ONE]) == {ONE}
    assert appliers.living([ONE]) == frozenset()


def test_al2_who_is_killed_is_seen_no_more_and_leaves_nothing_behind_for_long(
    appliers: Appliers, store: "StoreAt"
) -> None:
    with another(store, ONE) as process:
        assert appliers.living([ONE]) == {ONE}
        process.kill()
        process.wait(DEADLINE_S)
        until(lambda: appliers.living([ONE]) == frozenset(), "nobody applies it")
    with appliers.here(OTHER):
        assert appliers.living([ONE, OTHER]) == {OTHER}
    if isinstance(appliers, FolderAppliers):
        assert list(appliers.folder.iterdir()) == []


def test_al3_where_nothing_can_be_shown_the_block_runs_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "undos").write_text("in the way")
    with FolderAppliers(tmp_path).here(ONE) as shown:
        assert not shown
    gone = Address.parse("postgresql://nobody@127.0.0.1:1/nothing")
    with appliers_of(gone).here(ONE) as shown:
        assert not shown


@pytest.mark.slow
def test_it_is_shown_again_after_the_server_was_started_anew() -> None:
    with postgres_server() as server:
        appliers = appliers_of(Address.parse(server.new_database()))
        with appliers.here(ONE):
            server.restart()
            until(lambda: appliers.living([ONE]) == {ONE}, "it is shown again")
        assert appliers.living([ONE]) == frozenset()


def test_a_server_is_asked_for_many_at_once(postgres: Postgres) -> None:
    appliers = appliers_of(Address.parse(postgres.new_database()))
    runs = [f"undo_{number:016x}" for number in range(500)]
    with appliers.here(runs[7]), appliers.here(runs[400]):
        assert appliers.living(runs) == {runs[7], runs[400]}
