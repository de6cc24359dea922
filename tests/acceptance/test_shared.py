"""Two machines, which here are two folders, with one store in a PostgreSQL: each stops and undoes the other's work."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.bank import Bank, until, until_more
from acceptance.test_undo import MORNING, UNDO
from servers import Postgres, free_port, postgres_server

Machines = tuple[Bank, Bank]

CONFIG = """
store: {url}
switch: {{lease_ttl_s: 1}}
"""


def machines_of(folder: Path, url: str) -> Machines:
    first = Bank(folder / "one", config=CONFIG.format(url=url))
    return first, Bank(folder / "two", config=CONFIG.format(url=url), branch_of=first)


@pytest.fixture
def machines(postgres: Postgres, tmp_path: Path) -> Iterator[Machines]:
    machines = machines_of(tmp_path, postgres.new_database())
    yield machines
    for bank in machines:
        bank.end_all()


def test_a_stop_on_one_machine_holds_the_agents_of_the_other_with_a_receipt_and_nothing_is_written_after_it(
    machines: Machines,
) -> None:
    here, there = machines
    agents = [here.start_agent("run-1"), there.start_agent("run-2")]
    for run_id in ("run-1", "run-2"):
        until(lambda: here.rescind("audit", "export", "--run", run_id).returncode == 0, "both write")  # noqa: B023

    stopped = there.answer("stop", "agent:paying-agent", "--reason", "a test", "--wait")
    after_receipt = here.effects()

    receipt = stopped["receipt"]
    assert receipt["all_drained"] is True
    assert sorted(guard["pid"] for guard in receipt["guards"]) == sorted(agent.pid for agent in agents)
    assert {guard["state"] for guard in receipt["guards"]} <= {"drained", "gone"}
    for agent in agents:
        _, said = agent.communicate(timeout=20.0)
        assert "RunHalted" in said
        assert "a test" in said
    assert here.effects() == after_receipt
    assert here.answer("status")["orders"][0]["at"] == [stopped["here"]["store"]]


@pytest.mark.slow
def test_a_run_of_a_killed_agent_is_undone_from_the_other_machine_and_by_two_of_which_one_is_killed(
    machines: Machines,
) -> None:
    here, there = machines
    agent = here.start_agent()
    until_more(here.effects, 100, "the agent writes")
    agent.kill()
    agent.wait(20.0)

    # Nobody over there can see that it has died. It may still write, until its lease has run out.
    refused = there.rescind(*UNDO, "--apply", "--yes")
    assert refused.returncode == 1
    assert "may still write: run-1" in refused.stderr
    undo = there.start_rescind(*UNDO, "--apply", "--yes", "--stop-first")
    until(lambda: here.trail("restore") > 3, "the undo is under way")
    undo.send_signal(signal.SIGKILL)
    undo.wait(20.0)
    assert here.accounts() != MORNING

    applied = here.rescind(*UNDO, "--apply", "--yes", "--stop-first")
    assert applied.returncode == 0, applied

    assert here.accounts() == MORNING
    assert here.unpaid() == 0
    assert there.answer(*UNDO)["settled"]
    assert there.answer("review", "list")["tasks"]
    (there.folder / "kept").write_text(there.rescind("audit", "seal").stdout)
    assert there.answer("audit", "verify", "--against", "kept")["intact"] is True


@pytest.mark.slow
def test_one_undo_at_a_time_on_all_machines(machines: Machines) -> None:
    here, there = machines
    here.start_agent()
    until_more(here.effects, 300, "the agent writes")
    here.answer("stop", "agent:paying-agent", "--wait")
    undo = here.start_rescind(*UNDO, "--apply", "--yes", "--parallel", "1")
    until(lambda: here.trail("restore") > 0, "the undo is under way")
    undo.send_signal(signal.SIGSTOP)

    refused = there.rescind(*UNDO, "--apply", "--yes")

    assert refused.returncode == 1
    assert "another undo is being applied in postgresql://" in refused.stderr
    undo.send_signal(signal.SIGCONT)
    undo.communicate(timeout=60.0)
    assert here.accounts() == MORNING


SOME = (("status",), ("stop", "everything"), ("audit", "log"))
MORE = (
    ("resume", "everything", "--reason", "r"),
    ("audit", "export"),
    ("review", "list"),
    ("incidents", "list"),
    ("approvals", "list"),
    ("undo", "--run", "run-1"),
)


@pytest.mark.parametrize("command", [*SOME, *(pytest.param(each, marks=pytest.mark.slow) for each in MORE)])
def test_without_a_server_every_command_says_so_and_shows_no_password(tmp_path: Path, command: tuple[str, ...]) -> None:
    bank = Bank(tmp_path, config=CONFIG.format(url=f"postgresql://test:hunter2@127.0.0.1:{free_port()}/agents"))

    said = bank.rescind(*command)

    assert said.returncode == 1, said
    assert "see that the server runs and can be reached from here" in said.stderr
    assert "postgresql://test@127.0.0.1" in said.stderr
    assert "hunter2" not in said.stdout + said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.slow
def test_what_is_printed_leads_to_the_same_store_and_holds_no_password(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.new_database()
    secret = url.replace("test@", "test:hunter2@")
    bank = Bank(tmp_path, config=CONFIG.format(url=secret))
    bank.start_agent()
    until(lambda: bank.effects() > 10, "the agent writes")
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Bank(tmp_path / "elsewhere")

    stopped = elsewhere.rescind("--store", secret, "stop", "everything", "--wait")
    status = elsewhere.rescind("--store", secret, "status", "--json")

    assert stopped.returncode == 0, stopped
    assert f"--store {url}" in stopped.stdout
    assert json.loads(status.stdout)["store"] == url
    for said in (stopped, status, bank.rescind("status"), bank.rescind("--store", secret, "audit", "log")):
        assert "hunter2" not in said.stdout + said.stderr
    bank.end_all()


@pytest.mark.parametrize("text", ["postgresql+psycopg2://u:hunter2@h/d", "postgresql://u:hun@ter2@h/d"])
def test_a_store_that_is_written_wrongly_is_refused_with_a_remedy(tmp_path: Path, text: str) -> None:
    bank = Bank(tmp_path, config=CONFIG.format(url=json.dumps(text)))

    said = bank.rescind("status")

    assert said.returncode == 2
    assert "rescind.yaml: store" in said.stderr
    assert "PGPASSWORD" in said.stderr
    assert "ter2" not in said.stderr


@pytest.mark.slow
def test_agents_refuse_writes_while_the_database_is_away_and_go_on_when_it_is_back(tmp_path: Path) -> None:
    with postgres_server(fsync="on") as server:
        here, there = machines_of(tmp_path, server.url())
        try:
            agents = [here.start_agent("run-1"), there.start_agent("run-2")]
            for run_id in ("run-1", "run-2"):
                until(lambda: here.rescind("audit", "export", "--run", run_id).returncode == 0, "both write")  # noqa: B023
            for end in (server.stop, server.crash):
                end()
                held_at = [bank.effects() for bank in (here, there)]
                assert here.rescind("stop", "everything").returncode == 1
                # At most what had its intent on disk when the database went.
                assert here.effects() <= held_at[0] + len(agents)
                server.start()
                written = here.effects()
                until(lambda: here.effects() > written + 20, "the agents write again")  # noqa: B023
            assert all(agent.poll() is None for agent in agents)
            receipt = there.answer("stop", "everything", "--wait")["receipt"]
            assert receipt["all_drained"] is True
        finally:
            here.end_all()
            there.end_all()


LOOPS = "import time\nwhile True:\n    open('lives', 'a').close()\n    time.sleep(0.02)\n"


@pytest.mark.slow
def test_a_supervised_program_is_ended_from_the_other_machine_and_when_the_database_is_silent(tmp_path: Path) -> None:
    with postgres_server() as server:
        here, there = machines_of(tmp_path, server.url())
        try:
            (here.folder / "loops.py").write_text(LOOPS)
            supervise = ("supervise", "--agent", "looping-agent@1", "--grace", "1", "--", sys.executable, "loops.py")
            first = here.start_rescind(*supervise)
            until((here.folder / "lives").exists, "the program runs")

            receipt = there.answer("stop", "agent:looping-agent", "--wait")["receipt"]
            assert [guard["state"] for guard in receipt["guards"]] in (["drained"], ["gone"])
            assert "nothing of it is left" in first.communicate(timeout=20.0)[1]

            there.answer("resume", "agent:looping-agent", "--reason", "again")
            (here.folder / "lives").unlink()
            second = here.start_rescind(*supervise)
            until((here.folder / "lives").exists, "the program runs again")
            server.stop()
            said = second.communicate(timeout=20.0)[1]
            assert "could not be read" in said
        finally:
            here.end_all()
            there.end_all()
