"""`rescind reconcile`: what became of calls whose process died or whose reply was lost, asked of the target systems."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builders import environment, steps_of
from cli.conftest import Rescind
from rescind.journal.port import Query
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import AnswersRecorded, Probed
from rescind.model.outcome import Completed, Failed

# A bank in a file, which other processes see; what happens to a call says its reference: `before` and `after` kill the
# process on either side of the effect, `lost` loses the reply.
BANK = """
import datetime, json, os, pathlib, signal
import rescind

guard = rescind.Guard.at("store")
book = pathlib.Path("book.json")

def booked():
    return json.loads(book.read_text()) if book.exists() else {}

@guard.write("card.pay", key=lambda order: order, target=lambda order: ("psp", "order", order),
             in_doubt_after=datetime.timedelta(seconds=SECONDS))
def pay(order: str) -> str:
    if order.startswith("before"):
        os.kill(os.getpid(), signal.SIGKILL)
    book.write_text(json.dumps(booked() | {rescind.idempotency_key(): "ch_" + order}))
    if order.startswith("after"):
        os.kill(os.getpid(), signal.SIGKILL)
    if order.startswith("lost"):
        raise TimeoutError("no reply")
    return "ch_" + order

@pay.compensate(idempotent=True)
def _(step):
    book.write_text(json.dumps({key: value for key, value in booked().items() if key != step.arguments["order"]}))

@pay.probe
def _(step):
    if pathlib.Path("bank-is-down").exists():
        raise ConnectionError("\\x1b[2Jthe bank is away")
    charge = booked().get(step.idempotency_key)
    return rescind.Found(charge) if charge else rescind.Probe.NOT_FOUND

@guard.write("letter.send", irreversible="a letter cannot be unsent")
def send(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
"""

AGENT = """
import sys, bank
run_id, *calls = sys.argv[1:]
with bank.guard.run("payer@1", run_id=run_id, tenant="acme"):
    for call in calls:
        try:
            bank.send(call) if call.startswith("letter") else bank.pay(call)
        except TimeoutError:
            pass
"""

RESCIND = (sys.executable, "-c", "import sys; from rescind.cli import main; sys.exit(main())")


@pytest.fixture
def bank(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an application whose agent runs in processes of its own; nothing of a dead call arrives late."""
    monkeypatch.setenv("RESCIND_STORE", str(folder / "store"))
    declared(folder, in_doubt_after_s=0)
    return folder


def declared(folder: Path, *, in_doubt_after_s: int) -> None:
    (folder / "bank.py").write_text(BANK.replace("SECONDS", str(in_doubt_after_s)))


def agent(folder: Path, run_id: str, *calls: str) -> int:
    command = [sys.executable, "-c", AGENT, run_id, *calls]
    return subprocess.run(command, cwd=folder, env=environment(RESCIND_STORE=str(folder / "store"))).returncode


def dies(folder: Path, run_id: str, *calls: str) -> None:
    assert agent(folder, run_id, *calls) == -signal.SIGKILL


def told(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """What a command in a process of its own answers."""
    command = [*RESCIND, *words, "--app", "bank", "--json"]
    env = environment(RESCIND_STORE=str(folder / "store"))
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout)


def outcomes(folder: Path, run_id: str) -> list[object]:
    journal = SqliteJournal(folder / "store" / "journal.db")
    try:
        return [record.outcome for record in steps_of(journal, run_id)]
    finally:
        journal.close()


def test_calls_of_killed_processes_get_the_end_that_the_bank_knows(bank: Path) -> None:
    """RC1, RC2: nothing is recorded before --apply, and then exactly what was shown."""
    dies(bank, "run-1", "a", "after-1")
    dies(bank, "run-2", "before-2")

    status, shown = told(bank, "reconcile", "--agent", "payer")

    assert (status, shown["counts"]) == (0, {"found": 1, "not_found": 1})
    assert [(each["step"]["run_id"], each["answer"]) for each in shown["steps"]] == [
        ("run-1", "found"),
        ("run-2", "not_found"),
    ]
    assert outcomes(bank, "run-1")[1:] == outcomes(bank, "run-2") == [None]
    status, applied = told(bank, "reconcile", "--agent", "payer", "--apply", "--plan", shown["digest"][:16])
    assert (status, applied["recorded"], applied["tasks"]) == (0, ["run-1/2", "run-2/1"], [])
    assert outcomes(bank, "run-1") == [Completed("ch_a"), Completed("ch_after-1")]
    assert outcomes(bank, "run-2") == [Failed("its target system knows nothing of it")]
    assert told(bank, "reconcile", "--agent", "payer", "--apply")[1]["recorded"] == []
    assert json.loads((bank / "book.json").read_text()) == {"a": "ch_a", "after-1": "ch_after-1"}


def test_who_asked_and_what_was_answered_is_on_record(rescind: Rescind, bank: Path) -> None:
    dies(bank, "run-1", "after-1")

    rescind("reconcile", "--run", "run-1", "--app", "bank", "--apply", "--actor", "eve", "--reason", "month end")

    journal = SqliteJournal(bank / "store" / "journal.db")
    events = [entry.event for entry in journal.entries(Query())]
    journal.close()
    (answers,) = [event for event in events if isinstance(event, AnswersRecorded)]
    (probed,) = [event for event in events if isinstance(event, Probed)]
    assert (answers.actor, answers.reason, answers.counts) == ("eve", "month end", {"found": 1})
    assert (probed.answer, probed.result, probed.plan_digest) == ("found", "ch_after-1", answers.digest)
    assert "steps in doubt were asked about by eve: 1 found: month end" in rescind("audit", "log").out
    assert rescind("audit", "verify").status == 0


def test_a_repeated_call_is_answered_with_what_the_bank_had_said(bank: Path) -> None:
    dies(bank, "run-1", "after-1")
    told(bank, "reconcile", "--run", "run-1", "--apply")

    assert agent(bank, "run-2", "after-1") == 0

    assert json.loads((bank / "book.json").read_text()) == {"after-1": "ch_after-1"}


def test_what_nobody_can_tell_becomes_one_review_task_and_is_asked_about_again_after_a_retry(
    rescind: Rescind, bank: Path
) -> None:
    """RC3."""
    assert agent(bank, "run-1", "lost-1", "lost-2") == 0
    (bank / "bank-is-down").touch()

    shown = rescind("reconcile", "--run", "run-1", "--app", "bank")
    applied = rescind("reconcile", "--run", "run-1", "--app", "bank", "--apply")

    assert (shown.status, applied.status) == (0, 0)
    assert "2  nobody can tell: to become a review task" in shown.out
    assert "ConnectionError" in shown.out
    assert "\x1b" not in shown.out
    assert "1 review task opened, about 2 steps" in applied.out
    (task,) = rescind("review", "list", "--json").json["tasks"]
    assert (task["reason"], len(task["steps"])) == ("in_doubt", 2)
    again = rescind("reconcile", "--run", "run-1", "--app", "bank", "--apply")
    assert "2 further steps in review already" in again.out
    assert len(rescind("review", "list", "--json").json["tasks"]) == 1
    (bank / "bank-is-down").unlink()
    rescind("review", "resolve", task["task_id"], "--as", "retry")
    assert rescind("reconcile", "--run", "run-1", "--app", "bank", "--apply", "--json").json["counts"] == {"found": 2}
    assert outcomes(bank, "run-1") == [Completed("ch_lost-1"), Completed("ch_lost-2")]


def test_an_undo_leaves_what_is_in_review_alone_and_undoes_what_was_found(rescind: Rescind, bank: Path) -> None:
    assert agent(bank, "run-1", "lost-1") == 0
    dies(bank, "run-2", "letter-1")
    for run_id in ("run-1", "run-2"):
        rescind("reconcile", "--run", run_id, "--app", "bank", "--apply")

    undone = rescind("undo", "--agent", "payer", "--app", "bank", "--apply", "--json").json

    assert undone["counts"] == {"compensated": 1, "review": 1}
    assert len(rescind("review", "list", "--json").json["tasks"]) == 1
    assert json.loads((bank / "book.json").read_text()) == {}


def test_what_may_still_arrive_is_left_as_it_is(rescind: Rescind, bank: Path) -> None:
    declared(bank, in_doubt_after_s=3_600)
    dies(bank, "run-1", "before-1")

    applied = rescind("reconcile", "--run", "run-1", "--app", "bank", "--apply")

    assert applied.status == 0
    assert "may still arrive until" in applied.out
    assert "there is nothing to record" in applied.out
    assert outcomes(bank, "run-1") == [None]
    assert rescind("review", "list", "--json").json["tasks"] == []


def test_answers_that_changed_since_they_were_shown_are_not_recorded(rescind: Rescind, bank: Path) -> None:
    dies(bank, "run-1", "before-1")
    shown = rescind("reconcile", "--run", "run-1", "--app", "bank", "--json").json
    (bank / "book.json").write_text(json.dumps({"before-1": "ch_late"}))

    refused = rescind("reconcile", "--run", "run-1", "--app", "bank", "--apply")
    unknown = rescind("reconcile", "--run", "run-1", "--app", "bank", "--apply", "--plan", "0123456789abcdef")

    assert (refused.status, unknown.status) == (1, 2)
    assert "the target systems say something else by now" in refused.err
    assert outcomes(bank, "run-1") == [None]
    assert f"shown {shown['digest'][:12]}" in refused.err
    rescind("reconcile", "--run", "run-1", "--app", "bank")
    assert rescind("reconcile", "--run", "run-1", "--app", "bank", "--apply").status == 0
    assert outcomes(bank, "run-1") == [Completed("ch_late")]


def test_a_call_under_way_in_a_living_process_is_left_to_it(rescind: Rescind, bank: Path) -> None:
    (bank / "slow.py").write_text(
        "import sys, bank\n"
        "with bank.guard.run('payer@1', run_id='run-1'):\n"
        "    bank.booked = lambda: (print('in', flush=True), sys.stdin.readline(), {})[-1]\n"
        "    bank.pay('a')\n"
    )
    env = environment(RESCIND_STORE=str(bank / "store"))
    process = subprocess.Popen(
        [sys.executable, "slow.py"], cwd=bank, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "in\n"
        shown = rescind("reconcile", "--run", "run-1", "--app", "bank", "--json").json
        assert [(each["answer"], each["detail"]) for each in shown["steps"]] == [
            ("not_yet", "its process still lives, and may record the end itself")
        ]
    finally:
        process.communicate("go on\n", timeout=60)
    assert outcomes(bank, "run-1") == [Completed("ch_a")]


def test_tools_that_do_not_know_the_action_are_told_and_nothing_is_recorded(rescind: Rescind, bank: Path) -> None:
    dies(bank, "run-1", "after-1")
    (bank / "other.py").write_text("import rescind\nguard = rescind.Guard.at('store')\n")

    answered = rescind("reconcile", "--run", "run-1", "--app", "other", "--apply")

    assert answered.status == 1
    assert "the application declares no action 'card.pay'" in answered.out
    assert outcomes(bank, "run-1") == [None]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to reconcile"),
        (("--run", "run-1"), "--app is missing: 1 step in doubt can be asked about only with the probes"),
        (("--run", "run-1", "--app", "bank", "--yes"), "--yes only mean"),
        (("--run", "run-1", "--app", "bank", "--apply", "--plan", "xyz"), "is no digest"),
        (("--run", "run-9", "--app", "bank"), "run-9"),
    ],
)
def test_bad_words_are_refused_with_the_remedy(rescind: Rescind, bank: Path, words: tuple[str, ...], said: str) -> None:
    dies(bank, "run-1", "after-1")

    answered = rescind("reconcile", *words)

    assert answered.status == 2
    assert said in answered.err
    assert outcomes(bank, "run-1") == [None]


def test_a_long_answer_is_grouped_and_fits_eighty_columns(rescind: Rescind, bank: Path) -> None:
    assert agent(bank, "run-1", *(f"lost-{number}" for number in range(20))) == 0

    grouped, listed = (rescind("reconcile", "--run", "run-1", "--app", "bank", *more) for more in ((), ("--all",)))

    assert "found              20  card.pay" in grouped.out
    assert listed.out.count("card.pay") == 20
    assert max(map(len, grouped.out.splitlines()[:6])) <= 80
