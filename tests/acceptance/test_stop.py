"""Stopping real processes from another one."""

import signal

import pytest

from acceptance.bank import Bank, until


def test_nothing_is_written_after_a_stop_with_its_receipt(bank: Bank) -> None:
    agents = [bank.start_agent(f"run-{number}") for number in range(3)]
    until(lambda: bank.effects() > 60, "the agents write")

    receipt = bank.answer("stop", "agent:paying-agent", "--reason", "a test", "--wait")["receipt"]
    after_receipt = bank.effects()

    assert receipt["all_drained"] is True
    assert sorted(guard["pid"] for guard in receipt["guards"]) == sorted(agent.pid for agent in agents)
    assert {guard["state"] for guard in receipt["guards"]} <= {"drained", "gone"}  # gone: halted, and left at once
    for agent in agents:
        _, said = agent.communicate(timeout=20.0)
        assert "RunHalted" in said
        assert "a test" in said
    assert bank.effects() == after_receipt


def test_a_lower_level_holds_writes_and_a_resume_lets_them_go_on(bank: Bank) -> None:
    agent = bank.start_agent()
    until(lambda: bank.effects() > 10, "the agent writes")

    bank.answer("stop", "tenant:acme", "--level", "read-only", "--wait")
    held_at = bank.effects()
    until(lambda: "refused account.set at level read_only" in bank.rescind("audit", "log").stdout, "a call is refused")
    assert bank.effects() == held_at
    assert agent.poll() is None

    bank.answer("resume", "tenant:acme", "--reason", "looked fine")
    until(lambda: bank.effects() > held_at + 5, "the agent writes again")


def test_a_neighbour_is_not_disturbed(bank: Bank) -> None:
    bank.start_agent("run-1", agent="paying-agent@1.0.0")
    bank.start_agent("run-2", agent="paying-agent@1.1.0")
    for run_id in ("run-1", "run-2"):
        until(lambda: bank.rescind("audit", "export", "--run", run_id).returncode == 0, "both write")  # noqa: B023

    # Not halted: a run that has ended by the time of the receipt counts as none.
    receipt = bank.answer("stop", "agent:paying-agent@1.0.0", "--level", "read-only", "--wait")["receipt"]

    assert sorted(guard["runs_covered"] for guard in receipt["guards"]) == [0, 1]
    written = bank.effects()
    until(lambda: bank.effects() > written + 10, "the neighbour goes on")


def test_a_suspended_process_is_unknown_and_never_called_stopped(bank: Bank) -> None:
    agent = bank.start_agent()
    until(lambda: bank.effects() > 10, "the agent writes")
    agent.send_signal(signal.SIGSTOP)

    stopped = bank.rescind("stop", "everything", "--wait", "0.5")

    assert stopped.returncode == 1
    assert f"UNKNOWN: pid {agent.pid}" in stopped.stdout
    assert "holds everywhere" not in stopped.stdout
    assert bank.rescind("status").returncode == 1

    written = bank.effects()
    agent.send_signal(signal.SIGCONT)
    _, said = agent.communicate(timeout=20.0)
    assert "RunHalted" in said
    assert bank.effects() <= written + 1  # at most the one call that was under way when it was suspended


def test_a_killed_process_is_gone_and_not_unknown(bank: Bank) -> None:
    agent = bank.start_agent()
    until(lambda: bank.effects() > 10, "the agent writes")
    agent.kill()
    agent.wait(20.0)

    stopped = bank.rescind("stop", "everything", "--wait", "5")

    assert stopped.returncode == 0
    assert "UNKNOWN" not in stopped.stdout


@pytest.mark.parametrize(
    "scope", ["run:run-1", "tree:run-1", "action:account.set", "everything", "tenant:acme+agent:paying-agent"]
)
def test_every_kind_of_scope_holds_what_it_covers(bank: Bank, scope: str) -> None:
    bank.start_agent()
    until(lambda: bank.effects() > 10, "the agent writes")

    assert bank.rescind("stop", scope, "--level", "read_only", "--wait").returncode == 0

    until(lambda: "refused account.set" in bank.rescind("audit", "log").stdout, "a call is refused")
