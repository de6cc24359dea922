"""A supervised program and switches: orders that come over the network, receipts, and silence."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builders import an_order
from rescind.model.level import Level
from switch.client.told_switch import ToldSwitch
from switch.supervisor.supervised import MAIN, NAMES_ITSELF, PATIENCE_S, Supervise, lives, script, state_of, until

IGNORES = NAMES_ITSELF + 'trap "" TERM; while :; do sleep 0.02; done'
SLEEPS = NAMES_ITSELF + "exec sleep 600"


@pytest.fixture
def switch() -> Iterator[ToldSwitch]:
    with ToldSwitch() as switch:
        yield switch


def configure(folder: Path, **switch: object) -> None:
    """A `rescind.yaml` with these lines under `switch`."""
    lines = "".join(f"  {name}: {json.dumps(value)}\n" for name, value in switch.items())
    (folder / "rescind.yaml").write_text(f"switch:\n{lines}")


def test_an_order_of_a_switch_is_bound_then_drained_and_the_end_is_reported(tmp_path: Path, switch: ToldSwitch) -> None:
    configure(tmp_path, urls=[switch.url])
    words = ("--grace", "0.3", "--run-id", "run-7", "--", "sh", "-c", IGNORES, "pid")
    with Supervise(tmp_path, *words) as supervised:
        pid = supervised.pid_in("pid")
        sequence = switch.place(an_order(scope="agent:agent"))
        bound = switch.report_of(lambda report: report.bound >= sequence)
        assert supervised.finish() == 128 + signal.SIGKILL

    assert (bound.kind, bound.agent, bound.drained, bound.in_flight) == (
        "supervisor",
        "agent@1",
        False,
        ("run-7/process",),
    )
    last = switch.report_of(lambda report: report.leaving)
    assert (last.bound, last.drained) == (sequence, True)
    assert (last.ended[0].pid, last.ended[0].how, last.ended[0].status) == (pid, "killed", -signal.SIGKILL)


def test_a_milder_order_of_a_switch_is_bound_and_said_to_be_disobeyed(tmp_path: Path, switch: ToldSwitch) -> None:
    configure(tmp_path, urls=[switch.url])
    with Supervise(tmp_path, "--", "sh", "-c", NAMES_ITSELF + "read line", "pid") as supervised:
        supervised.pid_in("pid")
        sequence = switch.place(an_order("ord-mild", level=Level.PAUSED))
        report = switch.report_of(lambda report: report.bound >= sequence)
        assert not report.drained
        assert "cannot obey ord-mild (paused)" in report.fault
        assert report.runs[0].level == "normal"
        assert supervised.finish("\n") == 0


def test_a_start_is_refused_by_an_order_that_only_a_switch_has(tmp_path: Path, switch: ToldSwitch) -> None:
    configure(tmp_path, urls=[switch.url])
    switch.place(an_order("ord-far"))
    with Supervise(tmp_path, "--", "touch", "ran") as supervised:
        assert supervised.finish() == 75
    assert "ord-far" in supervised.err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("on_silence", "words"), [("halted", ()), ("read_only", ("--act-at", "read-only")), ("read_only", ())]
)
def test_a_program_is_ended_when_no_switch_is_heard(
    tmp_path: Path, switch: ToldSwitch, on_silence: str, words: tuple[str, ...]
) -> None:
    configure(tmp_path, urls=[switch.url], lease_ttl_s=0.5, on_silence=on_silence)
    with Supervise(tmp_path, "--json", "--grace", "1", *words, "--", "sh", "-c", SLEEPS, "pid") as supervised:
        pid = supervised.pid_in("pid")
        report = switch.hellos[-1][1]
        switch.silent = True
        assert supervised.finish() == 128 + signal.SIGTERM
    assert not lives(pid)
    assert "no switch has been heard for 0.5 s" in supervised.answer["silence"]
    # What a receipt may reckon with: the lease, and the grace in which the program may still act.
    assert (report.lease_ttl_s, report.on_silence) == (1.5, "halted")


@pytest.mark.parametrize("words", [("--on-silence", "as-configured"), ("--on-silence", "keep")])
def test_a_program_that_goes_on_in_silence_says_so_to_its_owner_and_to_the_switches(
    tmp_path: Path, switch: ToldSwitch, words: tuple[str, ...]
) -> None:
    configure(tmp_path, urls=[switch.url], lease_ttl_s=0.5, on_silence="read_only")
    speaks = NAMES_ITSELF + "read line"
    with Supervise(tmp_path, *words, "--", "sh", "-c", speaks, "pid") as supervised:
        pid = supervised.pid_in("pid")
        assert switch.hellos[-1][1].on_silence == "normal"
        switch.silent = True
        assert supervised.process.stderr is not None
        assert "goes on, as configured" in supervised.process.stderr.readline()
        assert lives(pid)
        assert supervised.finish("\n") == 0


def test_nothing_is_started_while_no_switch_can_be_heard(tmp_path: Path) -> None:
    configure(tmp_path, urls=["http://127.0.0.1:1"], start_within_s=0.2)
    with Supervise(tmp_path, "--", "touch", "ran") as supervised:
        assert supervised.finish() == 75
    assert "no switch has been heard" in supervised.err
    assert not (tmp_path / "ran").exists()


def test_unless_its_owner_says_so(tmp_path: Path) -> None:
    configure(tmp_path, urls=["http://127.0.0.1:1"], start_within_s=0.2)
    with Supervise(tmp_path, "--on-silence", "keep", "--", "touch", "ran") as supervised:
        assert supervised.finish() == 0
    assert (tmp_path / "ran").exists()


def test_a_lease_and_a_grace_that_are_too_long_together_are_refused(tmp_path: Path, switch: ToldSwitch) -> None:
    configure(tmp_path, urls=[switch.url], lease_ttl_s=600)
    with Supervise(tmp_path, "--", "true") as supervised:
        assert supervised.finish() == 2
    assert "shorten one of them" in supervised.err


# --- the real switch ---

GUARDED = """
import collections, itertools, os, sys
import rescind

guard = rescind.Guard.from_config("rescind.yaml")
with guard.run("inner@1", run_id="run-inner"):
    with open("pid.new", "w") as file:
        file.write(str(os.getpid()))
    os.replace("pid.new", "pid")
    sys.stdin.readline()
    collections.deque(itertools.repeat(None), maxlen=0)  # holds the GIL for ever: its guard answers nobody
"""


@pytest.fixture
def real_switch(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("litestar")
    options = ["--data", str(tmp_path / "switch"), "--port", "0", "--beat", "0.1", "--json"]
    process = subprocess.Popen([sys.executable, "-c", MAIN, "switch", *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        process.stdout.close()


def asked(url: str, document: dict[str, Any] | None = None) -> Any:
    body = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


def test_a_guard_that_hangs_is_killed_in_the_receipt_of_a_real_switch(tmp_path: Path, real_switch: str) -> None:
    configure(tmp_path, urls=[real_switch], lease_ttl_s=60)
    program = script(tmp_path, "guarded.py", GUARDED)
    words = ("--grace", "0.3", "--run-id", "run-7", "--", "sh", "-c", f"{sys.executable} {program}; exit 0")
    with Supervise(tmp_path, *words) as supervised:
        supervised.pid_in("pid")
        assert supervised.process.stdin is not None
        supervised.process.stdin.write("hang\n")
        supervised.process.stdin.flush()
        hung = supervised.pid_in("pid")
        until(lambda: state_of(hung) == "R", "a hung guard")
        order = asked(f"{real_switch}/v1/orders", {"scope": "tree:run-7", "level": "halted", "reason": "a test"})
        receipt = asked(f"{real_switch}/v1/orders/{order['order']['order_id']}/receipt?wait_s=15")
        supervised.finish()
        final = asked(f"{real_switch}/v1/orders/{order['order']['order_id']}/receipt?wait_s=10")

    states = {each["program"].rsplit("/", 1)[-1]: each["state"] for each in final["guards"]}
    assert states["guarded.py"] == "killed"
    assert set(states.values()) <= {"killed", "drained"}
    assert final["all_drained"]
    assert receipt["all_bound"]
    assert not lives(hung)
