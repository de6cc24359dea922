"""The register of guards: who lives is a fact, and no file in it can make a reader stumble."""

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from rescind.errors import OrdersUnavailable, UsageError
from rescind.switch.port import GuardReport
from rescind.switch.presence import GUARDS_NAME, Presence, living_guards, sight_guards
from switch.agents import Agent


def a_report(guard_id: str = "guard-1", **fields: object) -> GuardReport:
    defaults: dict[str, object] = {
        "pid": os.getpid(),
        "program": "agent.py",
        "started_at_us": 0,
        "bound_stamp": 2,
        "bound_at_s": 0.0,
        "drained_at_s": 0.0,
        "in_flight": (),
        "runs": (),
    }
    return GuardReport(guard_id=guard_id, **(defaults | fields))  # type: ignore[arg-type]  # builders take anything


def registered(directory: Path, guard_id: str = "guard-1") -> Presence:
    presence = Presence(directory, guard_id)
    presence.register()
    return presence


def test_a_guard_is_seen_from_its_registration_to_its_close(tmp_path: Path) -> None:
    assert living_guards(tmp_path) == []
    presence = registered(tmp_path)

    (sighting,) = living_guards(tmp_path)
    assert (sighting.guard_id, sighting.living, sighting.report) == ("guard-1", True, None)
    assert "not reported yet" in sighting.problem

    presence.publish(a_report())
    (sighting,) = living_guards(tmp_path)
    assert sighting.report == a_report()

    presence.close()
    assert sight_guards(tmp_path) == []
    assert list((tmp_path / GUARDS_NAME).iterdir()) == []
    presence.close()


def test_a_killed_guard_is_known_to_be_dead_and_is_cleaned_up_once_somebody_asks_who_lives(tmp_path: Path) -> None:
    with Agent("guard", tmp_path, "guard-1") as agent:
        assert agent.says() == "ready"
        assert [sighting.living for sighting in sight_guards(tmp_path)] == [True]
        assert agent.kill() == -signal.SIGKILL

    (dead,) = sight_guards(tmp_path)
    assert not dead.living
    assert dead.report is not None
    assert living_guards(tmp_path) == []
    assert list((tmp_path / GUARDS_NAME).iterdir()) == []


def test_a_suspended_guard_lives(tmp_path: Path) -> None:
    with Agent("guard", tmp_path, "guard-1") as agent:
        assert agent.says() == "ready"
        agent.signal(signal.SIGSTOP)
        assert [sighting.guard_id for sighting in living_guards(tmp_path)] == ["guard-1"]
        agent.signal(signal.SIGCONT)
        assert agent.ask("close") == "done"
        assert living_guards(tmp_path) == []


def test_a_forked_child_does_not_keep_its_dead_parent_alive(tmp_path: Path) -> None:
    with Agent("guard", tmp_path, "guard-1") as agent:
        assert agent.says() == "ready"
        child = int(agent.ask("fork"))
        try:
            agent.kill()
            os.kill(child, 0)  # the child lives on
            assert living_guards(tmp_path) == []
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads; no harm here
def test_a_forked_child_cannot_report_or_close_under_its_parents_id(tmp_path: Path) -> None:
    presence = registered(tmp_path)
    presence.publish(a_report())

    child = os.fork()
    if child == 0:
        status = 1
        try:
            registered_here = presence.is_registered()
            try:
                presence.publish(a_report(bound_stamp=1_000))
            except ProcessLookupError:
                status = 2 if registered_here else 0
            presence.close()
        finally:
            os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert presence.is_registered()
    assert [sighting.report for sighting in living_guards(tmp_path)] == [a_report()]
    presence.close()


def test_deleted_files_are_noticed_and_registering_again_mends_them(tmp_path: Path) -> None:
    presence = registered(tmp_path)
    assert presence.is_registered()
    for path in (tmp_path / GUARDS_NAME).iterdir():
        path.unlink()
    (tmp_path / GUARDS_NAME).rmdir()
    assert not presence.is_registered()

    presence.register()
    assert presence.is_registered()
    assert len(living_guards(tmp_path)) == 1
    presence.close()


def test_two_who_look_at_the_same_time_do_not_see_each_other(tmp_path: Path) -> None:
    registered(tmp_path).close()
    (tmp_path / GUARDS_NAME / "guard-1.lock").write_text("")
    with (tmp_path / GUARDS_NAME / "guard-1.lock").open() as other_reader:
        fcntl.flock(other_reader, fcntl.LOCK_SH)
        assert [sighting.living for sighting in sight_guards(tmp_path)] == [False]


def nested(path: Path) -> None:
    path.write_bytes(b'{"guard_id":"guard-1","in_flight":' + b"[" * 100_000)


def a_fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/passwd")


def a_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 34)  # a hole: it takes no space


def somebody_elses(path: Path) -> None:
    path.write_bytes(msgspec.json.encode(a_report("guard-2")))


GARBAGE: list[Callable[[Path], object]] = [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\xff\xfe"),
    lambda path: path.write_bytes(b"null"),
    lambda path: path.write_bytes(b'{"guard_id":"guard-1","pid":"\\ud800"}'),
    lambda path: path.write_bytes(b'{"guard_id":"guard-1","pid":1e999}'),
    lambda path: path.write_bytes(msgspec.json.encode(a_report()).replace(b'"bound_stamp":2', b'"bound_stamp":"2"')),
    nested,
    a_fifo,
    a_link,
    a_folder,
    huge,
    somebody_elses,
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_report_that_cannot_be_read_makes_a_guard_unknown_and_not_absent(
    tmp_path: Path, garbage: Callable[[Path], object]
) -> None:
    presence = registered(tmp_path)
    garbage(tmp_path / GUARDS_NAME / "guard-1.json")

    (sighting,) = living_guards(tmp_path)
    assert sighting.living
    assert sighting.report is None
    assert 0 < len(sighting.problem) < 400
    presence.close()


def test_strange_lock_files_neither_hang_nor_stop_a_reader(tmp_path: Path) -> None:
    folder = tmp_path / GUARDS_NAME
    folder.mkdir()
    a_fifo(folder / "fifo.lock")
    a_link(folder / "link.lock")
    a_folder(folder / "folder.lock")
    for name in ("\x1b[31mred.lock", "a b.lock", ".lock", "notes.txt", "x" * 200 + ".lock"):
        (folder / name).write_text("")
    presence = registered(tmp_path)

    sightings = {sighting.guard_id: sighting for sighting in living_guards(tmp_path)}
    assert sightings["guard-1"].living
    assert sightings["link"].report is None  # what cannot be examined is not called dead
    assert not any(character in "".join(sightings) for character in "\x1b x.")
    presence.close()


def test_a_guard_that_cannot_register_must_not_act(tmp_path: Path) -> None:
    (tmp_path / GUARDS_NAME).write_text("a file where the folder should be")
    with pytest.raises(OrdersUnavailable, match="no stop would know of it"):
        registered(tmp_path)
    with pytest.raises(OrdersUnavailable):
        sight_guards(tmp_path)


@pytest.mark.parametrize("guard_id", ["", "../guard", "a/b", "a b", "ü", "x" * 129])
def test_a_guard_id_must_be_fit_for_a_file_name(tmp_path: Path, guard_id: str) -> None:
    with pytest.raises(UsageError, match="guard id"):
        Presence(tmp_path, guard_id)
