"""What a system may be asked to do at once, by all workers together: permits, in a folder and in PostgreSQL."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builders import environment
from rescind.clock import SystemClock
from rescind.database.address import Address
from rescind.recovery.locks import Permits, take_permits
from rescind.recovery.places import locks_of
from rescind.testing import ManualClock

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

HOLDER = """
import sys
from pathlib import Path
from rescind.clock import SystemClock
from rescind.database.address import Address
from rescind.recovery.places import locks_of

store = Path(sys.argv[1]) if sys.argv[1].startswith("/") else Address.parse(sys.argv[1])
with locks_of(store, SystemClock()).permits({"stripe": 2}, sharers=1, is_leaving=lambda: False) as permits:
    print(permits.held["stripe"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["folder", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path)
    return str(request.getfixturevalue("postgres").new_database())


@pytest.fixture
def store(place: str) -> "StoreAt":
    return Path(place) if place.startswith("/") else Address.parse(place)


def take(stack: ExitStack, store: "StoreAt", limits: dict[str, int], *, sharers: int) -> Permits | None:
    """What somebody gets who does not wait."""
    locks = locks_of(store, SystemClock())
    return stack.enter_context(locks.permits(limits, sharers=sharers, is_leaving=lambda: True))


@pytest.mark.parametrize(("limit", "sharers", "expected"), [(1, 3, 1), (2, 3, 1), (5, 2, 2), (3, 1, 3)])
def test_however_many_want_some_there_are_never_more_than_the_limit(
    store: "StoreAt", limit: int, sharers: int, expected: int
) -> None:
    with ExitStack() as stack:
        held = [take(stack, store, {"stripe": limit}, sharers=sharers) for _ in range(limit + 2)]
        counts = [each.held["stripe"] for each in held if each is not None]

    assert counts[0] == expected
    assert sum(counts) == limit
    assert None in held


def test_what_is_given_back_is_there_for_others_and_systems_are_apart(store: "StoreAt") -> None:
    with ExitStack() as stack:
        with ExitStack() as first:
            assert take(first, store, {"stripe": 2}, sharers=1) == Permits({"stripe": 2})
            assert take(stack, store, {"stripe": 2}, sharers=1) is None
            assert take(stack, store, {"../mail": 1}, sharers=1) == Permits({"../mail": 1})
        assert take(stack, store, {"stripe": 2}, sharers=1) == Permits({"stripe": 2})
        assert take(stack, store, {}, sharers=1) == Permits({})


def test_the_slots_of_a_killed_process_are_free_again(store: "StoreAt", place: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, place],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "2\n"
        with ExitStack() as stack:
            assert take(stack, store, {"stripe": 2}, sharers=1) is None
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()

    locks = locks_of(store, SystemClock())
    # A database hears of it a moment later than the kernel does.
    with locks.permits({"stripe": 2}, sharers=2, is_leaving=lambda: False) as permits:
        assert permits is not None


def test_who_wants_slots_of_several_systems_takes_them_in_one_order_for_all() -> None:
    asked: list[str] = []

    def is_taken(name: str) -> bool:
        asked.append(name)
        return True

    for limits in ({"stripe": 1, "mail": 1}, {"mail": 1, "stripe": 1}):
        take_permits(limits, is_taken, sharers=1, clock=ManualClock(), is_leaving=lambda: False)

    assert asked[:2] == asked[2:]
    assert len(set(asked)) == 2


def test_two_that_want_the_same_of_two_systems_do_not_wait_for_each_other(tmp_path: Path) -> None:
    done: list[int] = []

    def go_round(limits: dict[str, int]) -> None:
        locks = locks_of(tmp_path, ManualClock())
        for number in range(50):
            with locks.permits(limits, sharers=2, is_leaving=lambda: False) as permits:
                assert permits is not None
                done.append(number)

    orders: tuple[dict[str, int], ...] = ({"stripe": 1, "mail": 1}, {"mail": 1, "stripe": 1})
    threads = [threading.Thread(target=go_round, args=(limits,), daemon=True) for limits in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 100
