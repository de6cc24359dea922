"""The register of workers, in a folder and in PostgreSQL: who lives, who is stuck, and who hears a ring."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psycopg
import pytest

from builders import environment
from rescind.clock import SystemClock
from rescind.database.address import Address
from rescind.recovery.places import locks_of, register_of
from rescind.recovery.postgres.register import opened
from rescind.recovery.toolset import ToolInfo
from rescind.recovery.workers import DEAD_AFTER_S, Seen, WorkerInfo, Workers, WorkersFolder, working
from servers import Postgres

if TYPE_CHECKING:
    from rescind.database.address import StoreAt

DEADLINE_S = 15.0

INFO = WorkerInfo(
    worker_id="worker_1",
    host="here",
    pid=os.getpid(),
    module="shop.tools",
    since_us=0,
    tools=(ToolInfo(action="invoice.void", signature="abc", parallel=True),),
)


@pytest.fixture(params=["folder", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> "StoreAt":
    if request.param == "folder":
        return tmp_path
    return Address.parse(request.getfixturevalue("postgres").new_database())


@pytest.fixture
def register(store: "StoreAt") -> Iterator[Workers]:
    with contextlib.closing(register_of(store)) as opened:
        yield opened


def look(register: Workers) -> dict[str, Seen]:
    return {each.worker_id: each for each in register.look(now_us=SystemClock().now_us())}


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.01)


def test_a_worker_is_seen_with_what_it_can_do_until_it_goes(register: Workers) -> None:
    assert look(register) == {}
    entry = register.enter(INFO, lambda: None)
    seen = look(register)["worker_1"]
    assert seen.works
    assert seen.info == INFO
    entry.say(msgspec.structs.replace(INFO, leaving=True))
    assert working(register.look(now_us=SystemClock().now_us())) == []
    entry.close()
    assert look(register) == {}


def test_a_worker_that_goes_is_not_taken_for_dead_because_the_server_is_slow_to_end_its_session(
    postgres: Postgres,
) -> None:
    """Its lock outlived its socket, and who looked whether it lives left the entry of one that had gone."""
    address = Address.parse(postgres.new_database())
    with contextlib.closing(register_of(address)) as register:
        entry = register.enter(INFO, lambda: None)
        with opened(address, name="test") as session:
            (backend,) = session.execute(
                "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND database ="
                " (SELECT oid FROM pg_database WHERE datname = current_database())"
            ).fetchone() or (0,)
        os.kill(backend, signal.SIGSTOP)
        try:
            leaving = threading.Thread(target=entry.close)
            leaving.start()
            leaving.join(2.0)  # who does not wait for the server is gone by then
        finally:
            os.kill(backend, signal.SIGCONT)
        leaving.join(DEADLINE_S)
        assert look(register) == {}


def test_a_lock_that_could_not_be_made_again_at_once_is_made_at_a_later_beat(tmp_path: Path) -> None:
    register = WorkersFolder(tmp_path)
    entry = register.enter(INFO, lambda: None)
    lock = register.folder / "worker_1.lock"
    in_the_way = register.folder / "worker_1.lock.new"
    lock.unlink()
    in_the_way.mkdir()
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="Is a directory"):
            entry.beat(now_us=SystemClock().now_us())
    assert set(os.listdir("/proc/self/fd")) == before, "none of others is closed, and none is left behind"

    in_the_way.rmdir()
    entry.beat(now_us=SystemClock().now_us())
    assert look(register)["worker_1"].living
    entry.close()


def test_a_ring_is_heard_by_everybody(register: Workers, store: "StoreAt") -> None:
    heard: list[str] = []
    entries = [
        register.enter(msgspec.structs.replace(INFO, worker_id=name), lambda name=name: heard.append(name))  # type: ignore[misc]
        for name in ("worker_1", "worker_2")
    ]
    with contextlib.closing(register_of(store)) as other:
        other.ring()
    until(lambda: {"worker_1", "worker_2"} <= set(heard), "both hear it")
    for entry in entries:
        entry.close()


OTHER = """
import sys, time
from pathlib import Path
import msgspec
from rescind.database.address import store_at
from rescind.recovery.places import register_of
from rescind.recovery.workers import WorkerInfo

info = WorkerInfo(worker_id="worker_other", host="here", pid=1, module="shop.tools", since_us=0)
entry = register_of(store_at(sys.argv[1])).enter(info, lambda: None)
print("lives", flush=True)
time.sleep(60)
"""


def test_a_killed_worker_is_dead_at_once_and_a_stopped_one_lives_and_is_silent(
    register: Workers, store: "StoreAt"
) -> None:
    where = store.url if isinstance(store, Address) else str(store)
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, where], stdout=subprocess.PIPE, text=True, env=environment()
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "lives\n"
        other.send_signal(signal.SIGSTOP)
        assert look(register)["worker_other"].living
        assert look(register)["worker_other"].silent_s < DEAD_AFTER_S
        register.remove("worker_other")
        assert look(register)["worker_other"].living, "nobody forgets the living"
        other.kill()
        killed_s = time.monotonic()
        until(lambda: not look(register)["worker_other"].living, "its lock is free")
        assert time.monotonic() - killed_s < 1.0
    register.remove("worker_other")
    assert look(register) == {}


def test_locks_are_shared_by_shares_and_exclusive_for_handlers_that_are_not_parallel(store: "StoreAt") -> None:
    first, second = locks_of(store, SystemClock()), locks_of(store, SystemClock())

    def leaving_soon() -> Callable[[], bool]:
        until_s = time.monotonic() + 0.3
        return lambda: time.monotonic() > until_s

    never = lambda: False  # noqa: E731
    with first.held(alone=True, is_leaving=never) as one:
        assert one
        with second.held(alone=False, is_leaving=never) as other:
            assert other
        with second.held(alone=True, is_leaving=leaving_soon()) as other:
            assert not other
    with second.held(alone=True, is_leaving=never) as other:
        assert other


def test_a_lock_is_kept_for_as_long_as_its_holder_works_where_idle_sessions_are_ended(postgres: Postgres) -> None:
    url = postgres.new_database()
    address = Address.parse(url)
    with psycopg.connect(url, autocommit=True) as owner:
        database = url.rpartition("/")[2]
        owner.execute(f'ALTER DATABASE "{database}" SET idle_session_timeout = 300'.encode())  # ms
        locks = locks_of(address, SystemClock())
        with locks.held(alone=True, is_leaving=lambda: False) as held, psycopg.connect(url, autocommit=True) as idle:
            assert held
            alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
            until(lambda: owner.execute(alive, (idle.info.backend_pid,)).fetchone() == (0,), "the idle one is ended")
            looks = itertools.count()
            with locks.held(alone=True, is_leaving=lambda: next(looks) > 1) as taken:
                assert not taken


def test_hostile_files_are_not_taken_for_workers(tmp_path: Path) -> None:
    folder = tmp_path / "workers"
    folder.mkdir()
    (folder / "worker_2.lock").touch()
    (folder / "worker_2.json").write_text("[" * 10_000)
    (folder / "..lock").touch()
    os.symlink("/etc/passwd", folder / "worker_3.json")
    (folder / "worker_3.lock").touch()
    os.mkfifo(folder / "worker_4.json")
    (folder / "worker_4.lock").touch()
    register = WorkersFolder(tmp_path)
    seen = look(register)
    assert set(seen) == {"worker_2", "worker_3", "worker_4"}
    assert not any(each.works or each.info for each in seen.values())
    os.symlink("/dev/zero", folder / "worker_5.bell")
    register.ring()


def test_a_worker_whose_server_was_started_anew_is_there_again(request: pytest.FixtureRequest) -> None:
    from servers import postgres_server

    with postgres_server() as server:
        store = Address.parse(server.new_database())
        register, rung = register_of(store), []
        entry = register.enter(INFO, lambda: rung.append(1))
        server.restart()
        with contextlib.suppress(Exception):
            register.look(now_us=0)
        until(lambda: rung, "it listens again, and looks for what it has not heard")
        until(lambda: look(register)["worker_1"].works, "it lives")
        rung.clear()
        register.ring()
        until(lambda: rung, "it hears")
        entry.close()
        register.close()
