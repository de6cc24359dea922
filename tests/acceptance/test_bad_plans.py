"""Plans, tools, entries and workers that are not what they seem: refused with nothing changed, or a review task.

B1. *Not of here.* A plan that this store never made is applied, redone, paused and approved by nobody.
B2. *Not of now.* Neither is one that was made, if there is another by now.
B3. *Not the same tools.* A step whose action is declared otherwise than when it was made is left to a person.
B4. *Not readable.* What a run did is not guessed past an entry that cannot be read. Other runs go on to be undone.
B5. *Not the same version.* A worker whose tools are declared otherwise than those of the plan is given none of its
    steps, neither before it starts nor when it is looked for later.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.bank import TOOLS, Bank

NOWHERE = "0123456789abcdef"

ONE_RUN = """
import sys
from bank_tools import guard, pay, send_letter, set_balance

run_id = sys.argv[1]
with guard.run(agent="paying-agent@1.0.0", run_id=run_id, tenant="acme"):
    for number in map(int, sys.argv[2:]):
        set_balance(f"customer-{number}", 7)
        pay(f"customer-{number}", number + 1)
"""

UNDO = ("undo", "--run", "run-1", "--app", "bank_tools")
RUN_2 = ("undo", "--run", "run-2", "--app", "bank_tools")


def a_bank(folder: Path, *customers: int) -> Bank:
    """A bank whose run-1 set and paid these customers."""
    bank = Bank(folder)
    (folder / "one_run.py").write_text(ONE_RUN)
    a_run(bank, "run-1", *customers)
    return bank


def a_run(bank: Bank, run_id: str, *customers: int) -> None:
    done = bank.start("one_run.py", run_id, *map(str, customers))
    assert done.wait(30.0) == 0, done.communicate()


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    bank = a_bank(tmp_path / "here", 0, 1)
    yield bank
    bank.end_all()


def entries_of(bank: Bank) -> int:
    with contextlib.closing(sqlite3.connect(bank.folder / "store" / "journal.db")) as journal:
        return int(journal.execute("SELECT count(*) FROM entries").fetchone()[0])


def state_of(bank: Bank) -> tuple[Any, ...]:
    """All that a command could have changed: the books, and the journal."""
    return bank.accounts(), bank.unpaid(), bank.effects(), entries_of(bank)


def refused(bank: Bank, *argv: str, says: str, status: int = 2) -> str:
    """The command is refused in words, to people and to programs, and nothing was changed. What it said to people."""
    before = state_of(bank)
    said = bank.rescind(*argv, "--json")
    assert said.returncode == status, said
    assert says in said.stderr, said.stderr
    assert "Traceback" not in said.stderr
    assert says in json.loads(said.stdout)["error"]["message"]
    assert state_of(bank) == before
    return said.stderr


def spoil(bank: Bank, run_id: str, kind: str, *, body: str = '{"type":"from_the_future"}', last: bool = False) -> int:
    """An entry of this kind in this run is not what this rescind can read. Its sequence."""
    order = "DESC" if last else "ASC"
    with contextlib.closing(sqlite3.connect(bank.folder / "store" / "journal.db", isolation_level=None)) as journal:
        sql = (
            "SELECT e.sequence FROM entries e JOIN runs r ON r.run_key = e.run_key WHERE r.run_id LIKE ? AND "
            f"e.kind = ? ORDER BY e.sequence {order} LIMIT 1"
        )
        (sequence,) = journal.execute(sql, (run_id, kind)).fetchone()
        journal.execute("UPDATE entries SET body = ? WHERE sequence = ?", (body.encode(), sequence))
    return int(sequence)


# --- B1: plans of elsewhere ---


def test_b1_a_plan_of_another_installation_is_neither_applied_nor_redone_nor_paused(tmp_path: Path, bank: Bank) -> None:
    there = a_bank(tmp_path / "there", 2)
    digest = there.answer(*UNDO)["digest"]
    assert there.rescind(*UNDO, "--apply", "--yes").returncode == 0
    there.end_all()

    said = refused(bank, *UNDO, "--apply", "--plan", digest[:16], says=f"no plan {digest[:16]} was shown")
    assert "rescind undo --run run-1" in said, "what to do instead"
    refused(bank, *UNDO, "--apply", "--yes", "--plan", digest, says="is it of another store?")
    refused(bank, "redo", digest[:16], "--app", "bank_tools", says=f"no applied plan {digest[:16]!r}")
    refused(bank, "redo", digest[:16], "--app", "bank_tools", "--apply", says="no applied plan")
    for verb in ("pause", "resume", "cancel"):
        refused(bank, "plan", verb, digest[:16], "--reason", "r", says="none was ever applied in this store")

    assert bank.rescind(*UNDO, "--apply", "--yes").returncode == 0  # and now there is one, which is another
    for verb in ("pause", "resume", "cancel"):
        refused(bank, "plan", verb, digest[:16], "--reason", "r", says=f"no undo 'undo_{digest[:16]}'")
    refused(bank, "redo", digest[:16], "--app", "bank_tools", "--apply", says="no applied plan")


# --- B2: plans of earlier ---


@pytest.mark.slow
def test_b2_a_plan_that_has_changed_since_it_was_shown_is_not_applied(bank: Bank) -> None:
    digest = bank.answer(*UNDO)["digest"]
    with bank.books() as books:
        books.execute("UPDATE accounts SET balance = 99 WHERE name = 'customer-0'")

    refused(bank, *UNDO, "--apply", "--plan", digest[:16], says="the plan has changed since it was shown", status=1)
    refused(bank, *UNDO, "--apply", "--yes", says="the plan has changed since it was shown", status=1)

    now = bank.answer(*UNDO)["digest"]
    assert bank.rescind(*UNDO, "--apply", "--yes", "--plan", now[:16]).returncode == 0
    assert bank.accounts()["customer-0"] == 99
    refused(bank, *UNDO, "--apply", "--plan", "not-hexadecimal", says="--plan")
    a_run(bank, "run-2", 0)
    refused(bank, *RUN_2, "--apply", "--yes", "--plan", now[:16], says="the plan has changed", status=1)


# --- B3: tools that are declared otherwise ---

RENAMED = "def pay(name: str, amount: int)", "def pay(name: str, cents: int, amount: int = 0)"
GUARDED = '@guard.write("payment.send")'
CHANGES = {
    "renamed": (RENAMED,),
    "removed": (("pay(name: str, amount: int)", "pay(amount: int)"), ("(name, amount)", '("", amount)')),
    "irreversible now": (
        (GUARDED, '@guard.write("payment.send", irreversible="no")'),
        ("@pay.compensate(idempotent=True)", "@(lambda undo: undo)"),
    ),
    "another name": ((GUARDED, '@guard.write("payment.send2")'),),
}


def change_tools(bank: Bank, *changes: tuple[str, str]) -> None:
    text = (bank.folder / "bank_tools.py").read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (bank.folder / "bank_tools.py").write_text(text)


@pytest.mark.parametrize("what", ["renamed", *(pytest.param(what, marks=pytest.mark.slow) for what in [*CHANGES][1:])])
def test_b3_a_step_of_an_action_that_is_declared_otherwise_now_is_a_review_task(bank: Bank, what: str) -> None:
    before = bank.answer(*UNDO)
    change_tools(bank, *CHANGES[what])

    refused(bank, *UNDO, "--apply", "--plan", before["digest"][:16], says="the plan has changed", status=1)
    plan = bank.answer(*UNDO)
    assert plan["counts"] == {"restore": 2, "review": 2}
    applied = bank.answer(*UNDO, "--apply", "--yes", status=1)

    assert applied["counts"] == {"restored": 2, "review": 2}
    assert bank.unpaid() == 3, "no payment was taken back"
    (task,) = bank.answer("review", "list")["tasks"]
    assert (task["action"], task["reason"]) == ("payment.send", "not_declared")
    assert len(task["steps"]) == 2
    assert "Traceback" not in bank.rescind("review", "show", task["task_id"]).stdout


def test_b3_a_compensation_begun_before_its_action_lost_its_idempotency_is_not_sent_again(bank: Bank) -> None:
    change_tools(
        bank,
        ('(step.arguments["name"], -step', '(os._exit(9) or step.arguments["name"], -step'),
        ("import sqlite3", "import os, sqlite3"),
    )
    assert bank.rescind(*UNDO, "--apply", "--yes").returncode == 9, "it dies in the middle of a compensation"
    (bank.folder / "bank_tools.py").write_text(TOOLS.replace("idempotent=True", "idempotent=False"))

    applied = bank.answer(*UNDO, "--apply", "--yes")

    (task,) = bank.answer("review", "list")["tasks"]
    assert (task["action"], task["reason"]) == ("payment.send", "in_doubt")
    assert applied["counts"]["review"] == len(task["steps"])
    credits = applied["counts"].get("compensated", 0)
    assert credits + len(task["steps"]) == 2, "the others are compensated"


# --- B4: entries that cannot be read ---


def test_b4_a_run_with_an_entry_that_cannot_be_read_is_refused_and_the_others_are_undone(bank: Bank) -> None:
    a_run(bank, "run-2", 0, 2)
    sequence = spoil(bank, "run-1", "ended")
    names = f"entry {sequence} of the journal cannot be read"

    said = refused(bank, *UNDO, says=names)
    assert "run run-1" in said
    assert "--run" in said
    refused(bank, *UNDO, "--apply", "--yes", says=names)
    refused(bank, "undo", "--agent", "paying-agent", "--app", "bank_tools", "--apply", "--yes", says=names)
    refused(bank, "impact", "--run", "run-1", says=names)

    assert bank.answer(*RUN_2, "--apply", "--yes")["complete"]
    assert bank.accounts()["customer-2"] == 102
    assert bank.answer("review", "list")["tasks"] == []
    verified = bank.rescind("audit", "verify")
    assert verified.returncode == 1
    assert str(sequence) in verified.stdout


@pytest.mark.slow
def test_b4_what_depends_on_a_run_is_said_to_be_more_perhaps_if_a_later_entry_cannot_be_read(bank: Bank) -> None:
    a_run(bank, "run-2", 0)
    spoil(bank, "run-2", "intended")

    assert bank.answer("impact", "--run", "run-1")["reads_missing"] == ["run-2"]
    assert "cannot be read, so more may depend on it" in bank.rescind(*UNDO).stdout
    assert bank.answer(*UNDO, "--apply", "--yes")["counts"]["restored"] >= 1


def test_b4_review_tasks_are_listed_past_an_entry_that_cannot_be_read_and_not_resolved_twice(bank: Bank) -> None:
    change_tools(bank, *CHANGES["irreversible now"])
    assert bank.rescind(*UNDO, "--apply", "--yes").returncode == 1
    (task,) = bank.answer("review", "list")["tasks"]
    assert bank.rescind("review", "comment", task["task_id"], "who paid?").returncode == 0
    sequence = spoil(bank, "undo_%", "review_noted")

    listed = bank.rescind("review", "list")
    assert listed.returncode == 1
    assert f"entry {sequence} of the journal cannot be read" in listed.stderr
    assert task["task_id"] in listed.stdout
    told = bank.answer("review", "list", status=1)
    assert (told["unreadable"], len(told["tasks"])) == ([sequence], 1)
    refused(bank, "review", "resolve", task["task_id"], "--as", "done", says="may be resolved already")

    a_run(bank, "run-2", 2)
    (bank.folder / "bank_tools.py").write_text(TOOLS)
    assert bank.answer(*RUN_2, "--apply", "--yes")["complete"], "another run has nothing to do with that"


@pytest.mark.slow
def test_b4_an_undo_that_cannot_be_read_is_not_redone_and_not_held_and_others_are(bank: Bank) -> None:
    first = bank.answer(*UNDO)["digest"]
    assert bank.rescind(*UNDO, "--apply", "--yes").returncode == 0
    a_run(bank, "run-2", 2)
    second = bank.answer(*RUN_2)["digest"]
    assert bank.rescind(*RUN_2, "--apply", "--yes").returncode == 0
    sequence = spoil(bank, f"undo_{first[:16]}", "plan_finished")
    names = f"entry {sequence} of the journal cannot be read"

    refused(bank, "redo", first[:16], "--app", "bank_tools", "--apply", "--yes", says=names)
    refused(bank, "plan", "pause", first[:16], "--reason", "r", says=names)
    refused(bank, "plan", "show", first[:16], says=names)
    listed = bank.answer("plan", "list", "--all", status=1)
    assert [plan["plan_digest"] for plan in listed["plans"]] == [second]
    assert listed["unreadable"] == [sequence]
    assert bank.answer("redo", second[:16], "--app", "bank_tools", "--apply", "--yes")["counts"]["restored"] == 1
    assert bank.accounts()["customer-2"] == 7
