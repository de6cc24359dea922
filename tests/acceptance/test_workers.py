"""Undos left to real workers: spread over two, with `kill -9` of each, of who asked for it, and of the engine's file.

The till's own table says how often each payment was paid back: rescind knows nothing of it.
"""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from acceptance.programs import RESCIND, Programs
from servers import postgres_server

pytest.importorskip("dbos")

DEADLINE_S = 40.0
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"

TOOLS = """
import os, sqlite3, time
import rescind

guard = rescind.Guard.at(os.environ["RESCIND_STORE"])

def till():
    connection = sqlite3.connect("till.db", timeout=20.0, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")  # the till's own durability is not what is tested here
    return connection

@guard.write("payment.send")
def pay(number: int) -> int:
    with till() as connection:
        connection.execute("INSERT INTO payments VALUES (?)", (number,))
    return number

@pay.compensate(idempotent=True, parallel=True)
def _(step):
    time.sleep(0.01)
    with till() as connection:
        connection.execute("INSERT OR IGNORE INTO refunds VALUES (?, ?)", (step.idempotency_key, step.result))
        connection.execute("INSERT INTO calls VALUES (?, ?)", (step.result, step.idempotency_key))
    time.sleep(0.01)

@guard.write("letter.send", irreversible="a letter cannot be unsent")
def send_letter(number: int) -> None:
    pass
"""

AGENT = f"""
from till_tools import guard, pay, send_letter

for run in range(60):
    with guard.run(agent="paying-agent@1.0.0", run_id=f"run-{{run}}", trace_id="{TRACE}", tenant="acme"):
        for number in range(5):
            pay(run * 5 + number)
        if run % 20 == 0:
            send_letter(run)
"""

PAYMENTS = 300
UNDO = ("undo", "--trace", TRACE, "--app", "till_tools", "--apply", "--parallel", "2", "--workers")


class Till:
    """A till in a folder, whose agent has paid, and the workers beside it."""

    files: ClassVar = {"till_tools.py": TOOLS, "agent.py": AGENT}
    schema = (
        "CREATE TABLE payments (number INTEGER); CREATE TABLE refunds (key TEXT UNIQUE, number INTEGER);"
        "CREATE TABLE calls (number INTEGER, key TEXT);"
    )

    def __init__(self, folder: Path, store: str = "") -> None:
        self.folder, self.store = folder, store or str(folder / "store")
        self._programs = Programs()
        for name, text in self.files.items():
            (folder / name).write_text(text)
        with self.till() as till:
            till.executescript(self.schema)
        agent = self._programs.start(folder, sys.executable, "agent.py", RESCIND_STORE=self.store)
        assert agent.wait(DEADLINE_S) == 0, agent.communicate()

    def start_worker(self, module: str = "till_tools") -> subprocess.Popen[str]:
        worker = self.start("worker", module, "--json")
        assert worker.stdout is not None
        line = worker.stdout.readline()
        assert line, worker.communicate()[1]
        vars(worker)["worker_id"] = json.loads(line)["worker"]["worker_id"]
        return worker

    def start(self, *argv: str) -> subprocess.Popen[str]:
        return self._programs.start(self.folder, *RESCIND, *argv, RESCIND_STORE=self.store)

    def rescind(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return self._programs.rescind(self.folder, *argv, RESCIND_STORE=self.store)

    def answer(self, *argv: str, status: int = 0) -> dict[str, Any]:
        done = self.rescind(*argv, "--json")
        assert done.returncode == status, (argv, done.returncode, done.stdout, done.stderr)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    @contextlib.contextmanager
    def till(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.folder / "till.db", timeout=20.0, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    def refunds(self) -> Counter[int]:
        """How often each payment was paid back."""
        with self.till() as till:
            return Counter(number for (number,) in till.execute("SELECT number FROM refunds"))

    def calls(self) -> int:
        with self.till() as till:
            return int(till.execute("SELECT count(*) FROM calls").fetchone()[0])

    def is_paid_back(self) -> bool:
        return self.refunds() == Counter(range(PAYMENTS))

    def end_all(self) -> None:
        self._programs.end_all()


@pytest.fixture
def till(tmp_path: Path) -> Iterator[Till]:
    made = Till(tmp_path)
    yield made
    made.end_all()


def until(condition: Callable[[], Any], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, (out, err)
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_an_undo_on_two_workers_goes_on_when_one_of_them_is_killed(till: Till) -> None:
    refused = till.rescind(*UNDO)
    assert refused.returncode == 2
    assert "no worker lives here" in refused.stderr

    first, second = till.start_worker(), till.start_worker()
    listed = till.answer("worker", "--list")
    assert [each["state"] for each in listed["workers"]] == ["works", "works"]
    undo = till.start(*UNDO, "--json")
    until(lambda: till.calls() > 60, "the undo is under way")
    first.kill()
    killed_s = time.monotonic()
    result = outcome(undo)

    assert till.is_paid_back()
    assert till.calls() <= PAYMENTS + 2, "what was under way in the killed one was sent again, under the same key"
    assert result["counts"] == {"compensated": PAYMENTS, "review": 3}
    assert result["complete"]
    assert sum(result["by_worker"].values()) == PAYMENTS
    assert set(result["by_worker"]) == {vars(first)["worker_id"], vars(second)["worker_id"]}
    shown = till.answer("plan", "show", result["digest"], "--steps")
    assert shown["plan"]["by_worker"] == result["by_worker"]
    assert len(shown["steps"]) == PAYMENTS + 3
    assert [len(task["steps"]) for task in till.answer("review", "list")["tasks"]] == [3]
    assert time.monotonic() - killed_s < 20.0
    assert till.rescind("audit", "verify").returncode == 0
    listed = till.answer("worker", "--list")
    assert [each["worker_id"] for each in listed["workers"]] == [vars(second)["worker_id"]]
    again = till.answer(*UNDO)
    assert again["settled_before"]

    second.terminate()
    assert second.wait(DEADLINE_S) == 0
    assert till.answer("worker", "--list")["workers"] == []


@pytest.mark.slow
def test_both_workers_and_who_asked_are_killed_and_the_engines_file_is_lost(till: Till) -> None:
    first, second = till.start_worker(), till.start_worker()
    undo = till.start(*UNDO)
    until(lambda: till.calls() > 40, "the undo is under way")
    for process in (undo, first, second):
        process.kill()
        process.wait(DEADLINE_S)
    assert not till.is_paid_back()
    for file in (till.folder / "store").glob("workers.db*"):
        file.unlink()
    plan = till.answer("worker", "--list")["plans"][0]
    assert plan["started"]

    till.start_worker()
    ended = till.answer("worker", "--follow", plan["plan_run"])
    assert till.is_paid_back()
    assert ended["counts"] == {"compensated": PAYMENTS, "review": 3}
    assert till.calls() <= PAYMENTS + 4
    assert till.rescind("audit", "verify").returncode == 0


@pytest.mark.slow
def test_a_worker_that_is_ended_brings_its_steps_to_their_end_and_leaves_the_rest(till: Till) -> None:
    first, second = till.start_worker(), till.start_worker()
    undo = till.start(*UNDO, "--json")
    until(lambda: till.calls() > 40, "the undo is under way")
    first.terminate()
    assert first.wait(DEADLINE_S) == 0
    assert outcome(undo)["complete"]
    assert till.is_paid_back()
    assert till.calls() == PAYMENTS, "nothing had to be sent again"
    second.terminate()
    assert second.wait(DEADLINE_S) == 0


@pytest.mark.slow
def test_without_waiting_it_says_how_to_follow(till: Till) -> None:
    till.start_worker()
    submitted = till.answer(*UNDO, "--no-wait")
    assert submitted["submitted"]
    assert submitted["plan_run"] in submitted["follow"]
    busy = till.rescind(*[word for word in UNDO if word != "--workers"])
    assert busy.returncode in (0, 1)  # the workers have it, or have done it
    ended = till.answer("worker", "--follow", submitted["plan_run"])
    assert ended["complete"]
    assert till.is_paid_back()


@pytest.mark.slow
def test_a_worker_with_an_older_version_of_the_tools_is_not_given_their_steps(till: Till) -> None:
    (till.folder / "old_tools.py").write_text(TOOLS.replace("idempotent=True", "idempotent=False"))
    old = till.start_worker("old_tools")
    refused = till.rescind(*UNDO)
    assert refused.returncode == 2
    assert f"payment.send: declared otherwise by {vars(old)['worker_id']} (old_tools)" in refused.stderr
    assert till.calls() == 0

    till.start_worker()
    assert till.answer(*UNDO)["complete"]
    assert till.is_paid_back()


def stop_beside_every_lock(process: subprocess.Popen[str], folder: Path) -> None:
    """Stop it at a moment when it holds no file's write lock: SQLite has nothing that would take it from the living."""
    files = [folder / "till.db", folder / "store" / "journal.db", folder / "store" / "workers.db"]
    while True:
        process.send_signal(signal.SIGSTOP)
        try:
            for file in files:
                with contextlib.closing(sqlite3.connect(file, timeout=0.5, isolation_level=None)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        else:
            return


@pytest.mark.slow
def test_a_stopped_worker_is_taken_for_dead_and_does_nothing_twice_when_it_wakes(till: Till) -> None:
    first, _ = till.start_worker(), till.start_worker()
    undo = till.start(*UNDO, "--json")
    until(lambda: till.calls() > 40, "the undo is under way")
    stop_beside_every_lock(first, till.folder)
    assert outcome(undo)["complete"]
    states = {each["worker_id"]: each["state"] for each in till.answer("worker", "--list")["workers"]}
    assert states[vars(first)["worker_id"]] == "stuck"
    assert till.is_paid_back()
    calls = till.calls()
    first.send_signal(signal.SIGCONT)
    time.sleep(3.0)
    assert till.is_paid_back()
    assert till.calls() - calls <= 2, "only what it had begun before"
    assert till.rescind("audit", "verify").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_workers_are_killed_again_and_again(till: Till, seed: int) -> None:
    workers = [till.start_worker(), till.start_worker()]
    undo = till.start(*UNDO, "--json")
    for turn in range(4):
        enough = 40 * turn + 7 * seed
        while till.calls() <= enough and undo.poll() is None:
            time.sleep(0.02)
        workers.pop(0).kill()
        workers.append(till.start_worker())
    assert outcome(undo)["counts"] == {"compensated": PAYMENTS, "review": 3}
    assert till.is_paid_back()


@pytest.mark.slow
def test_two_workers_share_a_database_that_is_started_anew_and_each_of_them_is_killed(
    tmp_path: Path,
) -> None:
    with postgres_server() as server:
        till = Till(tmp_path, server.new_database())
        try:
            first, second = till.start_worker(), till.start_worker()
            assert [each["state"] for each in till.answer("worker", "--list")["workers"]] == ["works", "works"]
            undo = till.start(*UNDO, "--json", "--no-wait")
            plan_run = outcome(undo)["plan_run"]
            until(lambda: till.calls() > 40, "the undo is under way")
            server.restart()
            first.kill()
            at = till.calls()
            until(lambda: till.calls() > at + 40, "the other one goes on, in the database that is back")
            second.kill()
            second.wait(DEADLINE_S)
            assert not till.is_paid_back()
            last = till.start_worker()
            until(till.is_paid_back, "all is paid back")
            ended = till.answer("worker", "--follow", plan_run)
            assert ended["counts"] == {"compensated": PAYMENTS, "review": 3}
            assert till.calls() <= PAYMENTS + 6, "what was under way was sent again, under the same key"
            assert till.is_paid_back()
            assert till.rescind("audit", "verify").returncode == 0
            last.terminate()
            assert last.wait(DEADLINE_S) == 0
            assert till.answer("worker", "--list")["workers"] == []
        finally:
            till.end_all()


def test_who_has_no_application_has_the_workers_plan_and_applies_what_they_showed(till: Till) -> None:
    words = ("undo", "--trace", TRACE)
    without = till.rescind(*words)
    assert (without.returncode, "--workers" in without.stderr) == (2, True)
    alone = till.rescind(*words, "--workers")
    assert (alone.returncode, "no worker lives here" in alone.stderr) == (2, True)

    till.start_worker()
    shown = till.answer(*words, "--workers")
    assert shown["digest"] == till.answer(*words, "--app", "till_tools")["digest"]
    assert shown["counts"] == {"compensate": PAYMENTS, "review": 3}
    assert shown["apply"].endswith(f"--workers --store {till.store} --apply --plan {shown['digest'][:16]}") or (
        shown["apply"].endswith(f"--workers --apply --plan {shown['digest'][:16]}")
    )
    assert till.calls() == 0
    other = till.rescind(*words, "--workers", "--apply", "--plan", "0123456789abcdef")
    assert (other.returncode, "Nothing was done" in other.stderr) == (2, True)

    result = till.answer(*words, "--workers", "--apply", "--plan", shown["digest"][:16])
    assert (result["digest"], result["complete"]) == (shown["digest"], True)
    assert result["counts"] == {"compensated": PAYMENTS, "review": 3}
    assert till.is_paid_back()
    again = till.answer(*words, "--workers", "--apply")
    assert again["settled_before"]
    nothing = till.answer("undo", "--run", "run-1", "--action", "letter.send", "--workers", status=2)
    assert nothing["error"]["kind"]


@pytest.mark.slow
def test_a_plan_by_workers_that_has_changed_is_refused_and_what_may_still_write_is_not_undone(till: Till) -> None:
    till.start_worker()
    words = ("undo", "--run", "run-1", "--run", "run-2", "--workers")
    shown = till.answer(*words)
    assert till.rescind("undo", "--run", "run-1", "--app", "till_tools", "--apply", "--here").returncode == 0
    refused = till.rescind(*words, "--apply", "--plan", shown["digest"])
    assert (refused.returncode, "has changed since it was shown" in refused.stderr) == (1, True)
    assert "nothing was done" in refused.stderr
    tree = till.rescind(*words, "--tree")
    assert (tree.returncode, "--app" in tree.stderr) == (2, True)
