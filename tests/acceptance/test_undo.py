"""Undoing what real processes did, with `kill -9` at every turn."""

import random
import signal
import subprocess

import pytest

from acceptance.bank import Bank, until, until_more

MORNING = {"customer-0": 100, "customer-1": 101, "customer-2": 102, "customer-3": 103}

UNDO = ("undo", "--run", "run-1", "--app", "bank_tools")


def let_it_pay(bank: Bank, effects: int) -> None:
    """The agent pays until there are so many effects, and is stopped with a receipt."""
    agent = bank.start_agent()
    until_more(bank.effects, effects, "the agent writes")
    bank.answer("stop", "agent:paying-agent", "--wait")
    agent.communicate(timeout=20.0)
    assert bank.accounts() != MORNING


def test_five_minutes_from_a_wrong_agent_to_proof(bank: Bank) -> None:
    bank.start_agent()
    until(lambda: bank.effects() > 100, "the agent writes")

    # Undoing a moving target is refused, with the command that helps.
    refused = bank.rescind(*UNDO, "--apply")
    assert refused.returncode == 1
    assert "rescind stop run:run-1 --level read-only --wait" in refused.stderr

    assert bank.rescind("stop", "agent:paying-agent", "--reason", "wrong customers", "--wait").returncode == 0
    plan = bank.rescind(*UNDO)
    assert "to restore" in plan.stdout
    applied = bank.rescind(*UNDO, "--apply")
    assert applied.returncode == 0, applied

    assert bank.accounts() == MORNING
    assert bank.unpaid() == 0
    tasks = bank.answer("review", "list")["tasks"]
    assert [(task["action"], task["reason"]) for task in tasks] == [("letter.send", "irreversible")]
    assert bank.rescind("review", "resolve", tasks[0]["task_id"], "--as", "done").returncode == 0
    assert bank.rescind("audit", "verify").returncode == 0
    assert bank.rescind("resume", "agent:paying-agent", "--reason", "fixed").returncode == 0


def test_stop_first_holds_the_run_and_then_undoes_it(bank: Bank) -> None:
    bank.start_agent()
    until(lambda: bank.effects() > 50, "the agent writes")

    applied = bank.answer(*UNDO, "--apply", "--stop-first")

    assert [order["level"] for order in applied["held"]] == ["read_only"]
    assert bank.accounts() == MORNING
    assert bank.unpaid() == 0


def test_an_agent_killed_in_the_middle_of_a_write_leaves_a_doubt_and_no_guess(bank: Bank) -> None:
    agent = bank.start("slow_agent.py")
    until((bank.folder / "in-the-middle").exists, "the write has begun")
    agent.kill()
    agent.wait(20.0)

    undo = ("undo", "--run", "run-slow", "--app", "slow_tool")
    plan = bank.answer(*undo)
    assert plan["reviews"] == {"in_doubt": 1}
    applied = bank.answer(*undo, "--apply")

    assert applied["counts"] == {"review": 1}
    assert bank.accounts()["customer-0"] == 1000  # left as it is, for a person
    assert bank.answer("review", "list")["tasks"][0]["reason"] == "in_doubt"


def test_a_change_by_a_person_is_a_conflict_and_is_left_alone(bank: Bank) -> None:
    let_it_pay(bank, 100)
    with bank.books() as books:
        books.execute("UPDATE accounts SET balance = 777 WHERE name = 'customer-2'")

    applied = bank.answer(*UNDO, "--apply")

    assert bank.accounts() == MORNING | {"customer-2": 777}
    assert {step["reason"] for step in applied["steps"]} >= {"", "conflict", "irreversible"}


def test_two_undos_at_once_do_it_once(bank: Bank) -> None:
    let_it_pay(bank, 150)

    both = [bank.start_rescind(*UNDO, "--apply") for _ in range(2)]
    ends = [(process.communicate(timeout=60.0), process.returncode) for process in both]

    assert 0 in [status for _, status in ends]
    assert all(status == 0 or "another undo is being applied" in said for (_, said), status in ends), ends
    assert (bank.accounts(), bank.unpaid()) == (MORNING, 0)


def undo_through_kills(bank: Bank, seed: int, kills_max: int) -> int:
    """Apply, be killed at a random moment, and apply again, until it is done. Returns how often it was killed."""
    chance = random.Random(seed)
    killed = 0
    while killed < kills_max:
        undo = bank.start_rescind(*UNDO, "--apply", "--parallel", str(chance.choice([1, 4])))
        try:
            undo.communicate(timeout=0.15 + chance.random() * 0.6)
        except subprocess.TimeoutExpired:
            undo.send_signal(signal.SIGKILL)
            undo.communicate()
            killed += 1
        else:
            assert undo.returncode == 0
            return killed
    assert bank.rescind(*UNDO, "--apply").returncode == 0
    return killed


@pytest.mark.parametrize(
    ("seed", "effects"), [(1, 400), *(pytest.param(seed, 900, marks=pytest.mark.slow) for seed in range(2, 8))]
)
def test_an_undo_killed_at_any_moment_goes_on_and_does_nothing_twice(bank: Bank, seed: int, effects: int) -> None:
    let_it_pay(bank, effects)
    letters = bank.letters()

    undo_through_kills(bank, seed, kills_max=12)

    assert bank.accounts() == MORNING
    assert bank.unpaid() == 0
    assert bank.letters() == letters
    done = bank.effects()
    again = bank.answer(*UNDO, "--apply")
    assert again["settled_before"] is True
    assert bank.effects() == done
    assert bank.rescind("audit", "verify").returncode == 0


def test_the_rest_of_a_plan_that_was_killed_may_be_applied_by_its_digest(bank: Bank) -> None:
    let_it_pay(bank, 400)
    digest = bank.answer(*UNDO)["digest"][:16]
    first = bank.start_rescind(*UNDO, "--apply", "--plan", digest, "--parallel", "1")
    begun = bank.trail("restore")
    until(lambda: bank.trail("restore") > begun or first.poll() is not None, "the undo has begun")
    first.kill()
    first.communicate()

    assert bank.rescind(*UNDO, "--apply", "--plan", digest).returncode == 0
    assert (bank.accounts(), bank.unpaid()) == (MORNING, 0)
