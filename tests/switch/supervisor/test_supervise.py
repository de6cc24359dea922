"""`rescind supervise` with real processes, real signals and a real `kill -9`."""

import os
import signal
import sys
from pathlib import Path

import pytest

from builders import a_lift
from rescind.clock import SystemClock
from rescind.model.level import Level
from rescind.switch.presence import living_guards
from rescind.switch.receipt import GuardState, Receipt, await_receipt
from switch.supervisor.supervised import (
    NAMES_ITSELF,
    PATIENCE_S,
    Operator,
    Supervise,
    is_suspended,
    lives,
    script,
    state_of,
    until,
)

OBEYS = NAMES_ITSELF + 'trap "echo cleaned up; exit 5" TERM; while :; do sleep 0.02; done'
IGNORES = NAMES_ITSELF + 'trap "" TERM; while :; do sleep 0.02; done'

FAMILY = """
import os, signal, sys, time

def name(what):
    with open(what + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.replace(what + ".new", what)

def sleep_for_ever():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)

if os.fork() == 0:  # a child in the group
    name("child")
    sleep_for_ever()
if os.fork() == 0:  # a daemon: another session, another group, and its parent ends
    os.setsid()
    if os.fork() == 0:
        name("daemon")
        sleep_for_ever()
    os._exit(0)
os.wait()
name("leader")
sleep_for_ever()
"""
"""A program with a child in its group and a daemon outside it. All of them ignore SIGTERM."""

HUNG = """
import collections, itertools, os, signal

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # never runs: the last line holds the GIL for ever
with open("hung.new", "w") as file:
    file.write(str(os.getpid()))
os.replace("hung.new", "hung")
collections.deque(itertools.repeat(None), maxlen=0)
"""


ACTS = """
import os, signal, time

for number in (signal.SIGTERM, signal.SIGCONT):
    signal.signal(number, lambda *_: open("acted", "w").close())
with open("pid.new", "w") as file:
    file.write(str(os.getpid()))
os.replace("pid.new", "pid")
while True:
    time.sleep(60)
"""


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


# --- what a program is ended by ---


def test_a_program_that_obeys_leaves_by_itself_and_its_status_is_handed_on(tmp_path: Path, operator: Operator) -> None:
    with Supervise(tmp_path, "--json", "--", "sh", "-c", OBEYS, "pid") as supervised:
        pid = supervised.pid_in("pid")
        order = operator.stop("agent:agent").order

        assert supervised.finish() == 5

    assert supervised.out == "cleaned up\n"
    assert supervised.answer["outcome"] == "stopped"
    assert supervised.answer["order_ids"] == [order.order_id]
    assert supervised.answer["ended"][0] == {"pid": pid, "how": "terminated", "status": 5}
    assert "by alice (halted agent:agent): wrong customers" in supervised.err


def test_a_program_that_ignores_sigterm_is_killed_when_the_grace_is_over(tmp_path: Path, operator: Operator) -> None:
    with Supervise(tmp_path, "--json", "--grace", "0.2", "--", "sh", "-c", IGNORES, "pid") as supervised:
        pid = supervised.pid_in("pid")
        operator.stop()

        assert supervised.finish() == 128 + signal.SIGKILL

    assert supervised.answer["ended"][0] == {"pid": pid, "how": "killed", "status": -signal.SIGKILL}
    assert not lives(pid)


def test_a_program_that_hangs_with_the_gil_held_is_killed(tmp_path: Path, operator: Operator) -> None:
    hung = script(tmp_path, "hung.py", HUNG)
    with Supervise(tmp_path, "--grace", "0.2", "--", sys.executable, "-S", hung) as supervised:
        pid = supervised.pid_in("hung")
        operator.stop()

        assert supervised.finish() == 128 + signal.SIGKILL
    assert not lives(pid)


def test_a_suspended_program_is_killed_at_once_and_never_continued(tmp_path: Path, operator: Operator) -> None:
    acts = script(tmp_path, "acts.py", ACTS)
    with Supervise(tmp_path, "--grace", "600", "--", sys.executable, "-S", acts) as supervised:
        pid = supervised.pid_in("pid")
        os.killpg(pid, signal.SIGSTOP)
        until(lambda: is_suspended(pid), "a suspended program")
        operator.stop()

        assert supervised.finish() == 128 + signal.SIGKILL

    assert "suspended" in supervised.err
    assert not (tmp_path / "acted").exists()


def test_children_and_daemons_end_with_it(tmp_path: Path, operator: Operator) -> None:
    family = script(tmp_path, "family.py", FAMILY)
    with Supervise(tmp_path, "--json", "--grace", "0.2", "--", sys.executable, "-S", family) as supervised:
        pids = [supervised.pid_in(name) for name in ("leader", "child", "daemon")]
        assert os.getpgid(pids[2]) != os.getpgid(pids[0])
        operator.stop()

        assert supervised.finish() == 128 + signal.SIGKILL

    assert not any(lives(pid) for pid in pids)
    assert {each["pid"] for each in supervised.answer["ended"]} >= set(pids)


def test_what_a_program_leaves_behind_is_ended_too(tmp_path: Path) -> None:
    leaves = "setsid sh -c 'trap \"\" TERM; echo $$ > left; while :; do sleep 0.02; done' & "
    waits = "while [ ! -s left ]; do sleep 0.01; done; exit 3"
    with Supervise(tmp_path, "--grace", "0.2", "--", "sh", "-c", leaves + waits) as supervised:
        assert supervised.finish() == 3
    assert "left processes behind" in supervised.err
    assert not lives(supervised.pid_in("left"))


# --- when keepers are killed ---


def test_nothing_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    family = script(tmp_path, "family.py", FAMILY)
    with Supervise(tmp_path, "--", sys.executable, "-S", family) as supervised:
        pids = [supervised.pid_in(name) for name in ("leader", "child", "daemon")]
        supervised.signal(signal.SIGKILL)
        until(lambda: not any(lives(pid) for pid in pids), "the end of all of them")


def test_nor_one_that_is_killed_while_its_keeper_is_suspended(tmp_path: Path) -> None:
    family = script(tmp_path, "family.py", FAMILY)
    with Supervise(tmp_path, "--", sys.executable, "-S", family) as supervised:
        pids = [supervised.pid_in(name) for name in ("leader", "child", "daemon")]
        keeper = supervised.keeper()
        supervised.signal(signal.SIGSTOP)  # it would wake the keeper up again
        os.kill(keeper, signal.SIGSTOP)
        until(lambda: is_suspended(keeper), "a suspended keeper")
        supervised.signal(signal.SIGKILL)
        until(lambda: not any(lives(pid) for pid in (*pids, keeper)), "the end of all of them")


def test_a_killed_keeper_takes_the_program_with_it_and_the_supervisor_ends_the_rest(tmp_path: Path) -> None:
    family = script(tmp_path, "family.py", FAMILY)
    with Supervise(tmp_path, "--grace", "0.2", "--", sys.executable, "-S", family) as supervised:
        pids = [supervised.pid_in(name) for name in ("leader", "child", "daemon")]
        os.kill(supervised.keeper(), signal.SIGKILL)

        assert supervised.finish() == 128 + signal.SIGKILL
    assert not any(lives(pid) for pid in pids)


def test_a_suspended_keeper_keeps_nobody_from_being_ended(tmp_path: Path, operator: Operator) -> None:
    with Supervise(tmp_path, "--grace", "0.2", "--", "sh", "-c", IGNORES, "pid") as supervised:
        pid = supervised.pid_in("pid")
        os.kill(supervised.keeper(), signal.SIGSTOP)
        operator.stop()

        assert supervised.finish() == 128 + signal.SIGKILL
    assert not lives(pid)


def test_a_program_and_the_supervisor_killed_together_leave_nothing(tmp_path: Path) -> None:
    with Supervise(tmp_path, "--", "sh", "-c", IGNORES, "pid") as supervised:
        pid = supervised.pid_in("pid")
        os.kill(supervised.keeper(), signal.SIGKILL)
        supervised.signal(signal.SIGKILL)
        until(lambda: not lives(pid), "the end of the program")


# --- starting ---


@pytest.mark.parametrize(
    "scope", ["everything", "tenant:acme+agent:agent", "workflow:refunds", "run:run-7", "tree:run-0"]
)
def test_a_start_is_refused_while_an_order_stands(tmp_path: Path, operator: Operator, scope: str) -> None:
    order = operator.stop(scope).order
    words = ("--tenant", "acme", "--workflow", "refunds", "--run-id", "run-7")
    with Supervise(tmp_path, *words, "--", "touch", "ran", RESCIND_PARENT_RUN="run-0") as supervised:
        assert supervised.finish() == 75

    assert not (tmp_path / "ran").exists()
    assert order.order_id in supervised.err
    assert "wrong customers" in supervised.err
    assert f"rescind resume {order.order_id}" in supervised.err


def test_a_lifted_or_foreign_order_refuses_nobody(tmp_path: Path, operator: Operator) -> None:
    operator.orders.lift(a_lift(operator.stop().order.order_id))
    operator.stop("agent:another")
    with Supervise(tmp_path, "--", "touch", "ran") as supervised:
        assert supervised.finish() == 0
    assert (tmp_path / "ran").exists()


def test_a_program_that_fails_is_started_again_and_refused_once_an_order_stands(
    tmp_path: Path, operator: Operator
) -> None:
    fails = "echo ran >> runs; exit 9"
    with Supervise(tmp_path, "--json", "--restart", "on-failure", "--", "sh", "-c", fails) as supervised:
        until(lambda: (tmp_path / "runs").exists(), "the first run")
        order = operator.stop().order

        assert supervised.finish() == 75

    assert "not started again" in supervised.err
    assert supervised.answer["outcome"] == "refused"
    assert supervised.answer["order_ids"] == [order.order_id]
    assert {each["status"] for each in supervised.answer["ended"]} == {9}


def test_a_program_that_fails_and_then_does_not_is_handed_on(tmp_path: Path) -> None:
    fails_once = "if [ -e once ]; then exit 0; fi; touch once; exit 9"
    with Supervise(tmp_path, "--restart", "on-failure", "--", "sh", "-c", fails_once) as supervised:
        assert supervised.finish() == 0
    assert "starting it again in 1 s" in supervised.err


def test_a_program_that_an_order_ends_is_ended_although_it_is_lifted_and_not_started_again(
    tmp_path: Path, operator: Operator
) -> None:
    counts = "echo ran >> runs; " + IGNORES
    words = ("--restart", "on-failure", "--grace", "0.3", "--", "sh", "-c", counts, "pid")
    with Supervise(tmp_path, *words) as supervised:
        supervised.pid_in("pid")
        placed = operator.stop()
        receipt_of(tmp_path, placed, until_state=GuardState.BOUND)
        operator.orders.lift(a_lift(placed.order.order_id))

        assert supervised.finish() == 128 + signal.SIGKILL
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_a_program_that_cannot_be_executed_is_bad_input(tmp_path: Path) -> None:
    with Supervise(tmp_path, "--", "no-such-program") as supervised:
        assert supervised.finish() == 2
    assert "cannot start 'no-such-program'" in supervised.err


# --- what it cannot obey ---


def test_a_milder_order_is_reported_and_the_program_goes_on(tmp_path: Path, operator: Operator) -> None:
    with Supervise(tmp_path, "--", "sh", "-c", NAMES_ITSELF + "read line; exit 4", "pid") as supervised:
        supervised.pid_in("pid")
        placed = operator.stop(level=Level.READ_ONLY)
        receipt = receipt_of(tmp_path, placed, until_state=GuardState.BOUND)

        assert [guard.state for guard in receipt.guards] == [GuardState.BOUND]
        assert receipt.guards[0].in_flight[0].endswith("/process")
        assert supervised.finish("go on\n") == 4
    assert "cannot obey" in supervised.err


def test_an_owner_may_have_it_ended_at_read_only(tmp_path: Path, operator: Operator) -> None:
    with Supervise(tmp_path, "--act-at", "read-only", "--", "sh", "-c", OBEYS, "pid") as supervised:
        supervised.pid_in("pid")
        operator.stop(level=Level.READ_ONLY)
        assert supervised.finish() == 5


# --- receipts ---


def receipt_of(folder: Path, placed: object, *, until_state: GuardState) -> Receipt:
    receipts: list[Receipt] = []

    def look() -> bool:
        receipts.append(await_receipt(folder / "store", placed, timeout_s=0.0, clock=SystemClock()))  # type: ignore[arg-type]
        return {guard.state for guard in receipts[-1].guards} == {until_state}

    until(look, f"a receipt that says {until_state}")
    return receipts[-1]


def test_the_receipt_says_bound_while_it_lives_and_drained_when_it_is_dead(tmp_path: Path, operator: Operator) -> None:
    seen: list[tuple[GuardState, tuple[str, ...], bool]] = []
    words = ("--grace", "0.3", "--run-id", "run-7", "--", "sh", "-c", IGNORES, "pid")
    with Supervise(tmp_path, *words) as supervised:
        pid = supervised.pid_in("pid")
        placed = operator.stop()
        receipt = await_receipt(
            tmp_path / "store",
            placed,
            timeout_s=PATIENCE_S,
            clock=SystemClock(),
            progress=lambda one: seen.extend((each.state, each.in_flight, lives(pid)) for each in one.guards),
        )
        supervised.finish()

    assert [state for state, _, _ in seen if state is not GuardState.UNKNOWN] == [GuardState.BOUND, GuardState.DRAINED]
    assert (GuardState.BOUND, ("run-7/process",), True) in seen
    assert (GuardState.DRAINED, (), False) in seen
    assert receipt.all_drained
    assert receipt.guards[0].runs_covered == 1


def test_it_stands_in_the_register_with_its_run_and_leaves_it(tmp_path: Path) -> None:
    words = ("--tenant", "acme", "--run-id", "run-7", "--", "sh", "-c", NAMES_ITSELF + "read line", "pid")
    with Supervise(tmp_path, *words, agent="crawler@3") as supervised:
        supervised.pid_in("pid")
        (sighting,) = living_guards(tmp_path / "store")
        assert sighting.report is not None
        (live,) = sighting.report.runs
        assert (live.run.agent, live.run.tenant, live.run.run_id) == ("crawler@3", "acme", "run-7")
        supervised.finish("\n")
    assert living_guards(tmp_path / "store") == []


# --- like no supervisor at all ---


def test_standard_streams_are_the_programs_own(tmp_path: Path) -> None:
    echoes = "cat; echo to-err >&2; exit 0"
    with Supervise(tmp_path, "--", "sh", "-c", echoes) as supervised:
        assert supervised.finish("through and through\n" * 1000) == 0
    assert supervised.out == "through and through\n" * 1000
    assert supervised.err == "to-err\n"


def test_json_leaves_stdout_to_the_program_even_if_the_word_is_the_programs(tmp_path: Path) -> None:
    with Supervise(tmp_path, "--", "sh", "-c", "echo $1", "sh", "--json") as supervised:
        assert supervised.finish() == 0
    assert supervised.out == "--json\n"


@pytest.mark.parametrize(("does", "status"), [("exit 0", 0), ("exit 41", 41), ("kill -SEGV $$", 139)])
def test_the_exit_status_is_handed_on(tmp_path: Path, does: str, status: int) -> None:
    with Supervise(tmp_path, "--", "sh", "-c", does) as supervised:
        assert supervised.finish() == status


def test_the_environment_names_supervisor_and_run(tmp_path: Path) -> None:
    says = 'echo "$RESCIND_SUPERVISOR $RESCIND_PARENT_RUN $OTHER"'
    words = ("--run-id", "run-7", "--", "sh", "-c", says)
    with Supervise(tmp_path, *words, OTHER="kept", RESCIND_PARENT_RUN="run-0") as supervised:
        supervised.finish()
    guard_id, lineage, other = supervised.out.split()
    assert guard_id.startswith("guard_")
    assert (lineage, other) == ("run-7+run-0", "kept")


def test_signals_are_passed_on_and_sigterm_insists(tmp_path: Path) -> None:
    hears = NAMES_ITSELF + 'trap "echo usr1 > heard" USR1; trap "" TERM; while :; do sleep 0.02; done'
    with Supervise(tmp_path, "--grace", "0.2", "--", "sh", "-c", hears, "pid") as supervised:
        supervised.pid_in("pid")
        supervised.signal(signal.SIGUSR1)
        until(lambda: (tmp_path / "heard").exists(), "the signal, passed on")
        supervised.signal(signal.SIGTERM)

        assert supervised.finish() == 128 + signal.SIGKILL
    assert "told to end (SIGTERM)" in supervised.err


def test_an_interrupt_is_passed_on_and_ends_what_it_ends(tmp_path: Path) -> None:
    words = ("--restart", "on-failure", "--", "sh", "-c", NAMES_ITSELF + "sleep 60; exit 0", "pid")
    with Supervise(tmp_path, *words) as supervised:
        supervised.pid_in("pid")
        supervised.signal(signal.SIGINT)
        assert supervised.finish() == 128 + signal.SIGINT


def test_a_reader_who_sleeps_does_not_keep_the_supervisor_from_killing(tmp_path: Path, operator: Operator) -> None:
    # Its stderr is a pipe that nobody reads and that is full.
    floods = NAMES_ITSELF + 'trap "" TERM; while :; do echo flood >&2; done'
    with Supervise(tmp_path, "--grace", "0.2", "--", "sh", "-c", floods, "pid") as supervised:
        pid = supervised.pid_in("pid")
        until(lambda: state_of(pid) == "S", "a full pipe, for it never sleeps otherwise")
        operator.stop()
        until(lambda: not lives(pid), "the end of the program")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--act-at", "normal", "--", "true"), "--act-at normal"),
        (("--act-at", "hated", "--", "true"), "unknown level 'hated'"),
        (("--tenant", "a+b", "--", "true"), "no order could name it"),
        (("--grace", "-1", "--", "true"), "--grace"),
        ((), "CMD"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, words: tuple[str, ...], complaint: str) -> None:
    with Supervise(tmp_path, *words) as supervised:
        assert supervised.finish() == 2
    assert complaint in supervised.err
