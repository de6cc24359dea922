"""Agents that go wrong and are contained by themselves, in somebody's hands: real processes, policies and a switch."""

import contextlib
import json
import socket
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from acceptance.bank import until
from acceptance.programs import RESCIND, Programs

if TYPE_CHECKING:
    import subprocess

DESK = """
import os, pathlib, sqlite3, sys, time
import rescind

guard = rescind.Guard.from_config()
agent, run_id = sys.argv[1:]

def books():
    connection = sqlite3.connect("bank.db", timeout=20.0, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")  # the bank's own durability is not what is tested here
    return connection

def told(word):
    return pathlib.Path(f"{run_id} {word}").exists()

@guard.write("account.set", target=lambda name: ("bank", "account", name), irreversible="a simulation")
def set_balance(name: str, number: int) -> None:
    if told("fails"):
        raise OSError("the bank does not answer")
    with books() as connection:
        connection.execute("INSERT INTO trail VALUES (?, ?)", (run_id, name))

@guard.write("payment.send", irreversible="a simulation")
def pay(name: str, amount: int) -> None:
    with books() as connection:
        connection.execute("INSERT INTO payments VALUES (?, ?)", (run_id, name))

number = 0
with guard.run(agent=agent, run_id=run_id, tenant="acme"):
    while not told("ends"):
        number += 1
        name = f"{run_id}-{number if told('spreads') else number % 5}"
        try:
            if told("pays"):
                pay("ada", 5)
                pathlib.Path(f"{run_id} pays").unlink()
            else:
                set_balance(name, number)
        except rescind.CallDenied as refused:
            with books() as connection:
                connection.execute("INSERT INTO refusals VALUES (?, ?)", (run_id, str(refused)))
            time.sleep(0.02)
        except OSError:
            pass
        time.sleep(0.005)
"""

SCHEMA = """
CREATE TABLE trail (run TEXT, name TEXT);
CREATE TABLE payments (run TEXT, name TEXT);
CREATE TABLE refusals (run TEXT, why TEXT);
"""


class Company:
    """A folder with a bank and a configuration, agents as processes, and the command line beside them."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self._programs = Programs()
        (folder / "desk.py").write_text(DESK)
        (folder / "rescind.yaml").write_text(config)
        with self._books() as books:
            books.executescript(SCHEMA)

    def start(self, *argv: str, store: str = "store") -> "subprocess.Popen[str]":
        """A process in the company's folder, with a store of this name: another one is another machine."""
        return self._programs.start(self.folder, *argv, RESCIND_STORE=str(self.folder / store))

    def start_agent(self, agent: str, run_id: str, *, store: str = "store") -> "subprocess.Popen[str]":
        """An agent that sets balances of five customers until it is told otherwise."""
        return self.start(sys.executable, "desk.py", agent, run_id, store=store)

    def tell(self, run_id: str, word: str) -> None:
        """From now on it `spreads`, `fails`, `pays` once, or `ends`."""
        (self.folder / f"{run_id} {word}").touch()

    def stop_telling(self, run_id: str, word: str) -> None:
        """It does no more what it was told."""
        (self.folder / f"{run_id} {word}").unlink()

    def rescind(self, *argv: str, store: str = "store") -> "subprocess.CompletedProcess[str]":
        """One command, to its end."""
        return self._programs.rescind(self.folder, *argv, RESCIND_STORE=str(self.folder / store))

    def answer(self, *argv: str, store: str = "store") -> dict[str, Any]:
        """The JSON object that a command answers with."""
        done = self.rescind(*argv, "--json", store=store)
        assert done.returncode == 0, (argv, done.returncode, done.stdout, done.stderr)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    # --- what happened ---

    def written(self, run_id: str) -> int:
        """How many writes of this run took place."""
        return int(self._one("SELECT count(*) FROM trail WHERE run = ?", run_id))

    def customers(self, run_id: str) -> int:
        """How many different customers this run has touched."""
        return int(self._one("SELECT count(DISTINCT name) FROM trail WHERE run = ?", run_id))

    def payments(self) -> int:
        """How many payments were made."""
        return int(self._one("SELECT count(*) FROM payments"))

    def refused(self, run_id: str) -> str:
        """What this run was told last when it was refused; empty if it never was."""
        last = "SELECT why FROM refusals WHERE run = ? ORDER BY rowid DESC LIMIT 1"
        return str(self._one(f"SELECT coalesce(({last}), '')", run_id))

    def goes_on(self, run_id: str) -> None:
        """Wait until this run has written some more."""
        before = self.written(run_id)
        until(lambda: self.written(run_id) > before + 5, f"{run_id} writes: {self.refused(run_id)}")

    def _one(self, sql: str, *values: str) -> Any:
        with self._books() as books:
            return books.execute(sql, values).fetchone()[0]

    @contextlib.contextmanager
    def _books(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.folder / "bank.db", timeout=20.0, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    def end_all(self) -> None:
        """Kill what is left."""
        self._programs.end_all()


@pytest.fixture
def companies(tmp_path: Path) -> Iterator[list[Company]]:
    """Those that the test founds are closed with it."""
    founded: list[Company] = []
    yield founded
    for company in founded:
        company.end_all()


# --- one machine ---

SPREADING = """
policy:
  detect:
    blast_radius: {records_per_run: 25, records_per_minute: 10000}
    behaviour: off
    rates: {volume_spike_factor: null}
  respond:
    - {name: too many customers, signal: blast_radius, then: [deny, read_only on run, incident]}
"""


def test_an_agent_that_spreads_is_contained_by_itself_and_the_other_one_loses_no_write(
    tmp_path: Path, companies: list[Company]
) -> None:
    company = Company(tmp_path, SPREADING)
    companies.append(company)
    company.start_agent("billing-agent@2.4.0", "run-bad")
    company.start_agent("billing-agent@2.4.0", "run-good")
    company.goes_on("run-bad")
    company.goes_on("run-good")

    company.tell("run-bad", "spreads")
    until(lambda: company.refused("run-bad"), "the agent that spreads is refused")

    assert company.customers("run-bad") == 25
    (order,) = company.answer("status")["orders"]
    assert (order["scope"], order["level"], order["actor"]) == ("run:run-bad", "read_only", "policy")
    assert order["trigger"] == "too many customers"
    (incident,) = company.answer("incidents", "list")["incidents"]
    assert incident["cause"] == "blast_radius.records_per_run agent:billing-agent@2.4.0"
    shown = company.answer("incidents", "show", incident["incident_id"])
    assert [held["order_id"] for held in shown["held"]] == [order["order_id"]]
    assert order["cause"] in [noted["ref"] for noted in shown["incident"]["timeline"] if noted["what"] == "signal"]
    assert [each["run_id"] for each in shown["snapshots"]] == ["run-bad"]
    (refusal,) = company.answer("policy", "explain", "run-bad")["refusals"]
    assert (refusal["rule"], refusal["origin"].rpartition("/")[2]) == ("too many customers", "rescind.yaml, line 8")
    assert refusal["signals"][0]["facts"] == {"limit": 25, "asked": 26}
    assert company.refused("run-good") == ""
    company.goes_on("run-good")

    company.stop_telling("run-bad", "spreads")
    resumed = company.rescind("resume", order["order_id"], "--reason", "it had the wrong list")
    assert resumed.returncode == 0, resumed.stderr
    company.goes_on("run-bad")
    assert company.customers("run-bad") <= 25
    assert company.answer("status")["orders"] == []


# --- a person's approval ---

APPROVING = """
approval: {wait_s: 60}
policy:
  require_approval: ["payment.*"]
  detect: {behaviour: off}
"""


def test_an_action_that_the_policy_names_waits_for_a_person_and_goes_through_once(
    tmp_path: Path, companies: list[Company]
) -> None:
    company = Company(tmp_path, APPROVING)
    companies.append(company)
    company.start_agent("billing-agent@2.4.0", "run-1")
    company.goes_on("run-1")

    company.tell("run-1", "pays")
    until(lambda: company.answer("approvals", "list")["approvals"], "the payment waits")
    (waiting,) = company.answer("approvals", "list")["approvals"]
    assert company.payments() == 0
    assert (waiting["action"], waiting["arguments"]) == ("payment.send", {"name": "ada", "amount": 5})
    assert waiting["because"] == "the policy requires it (require_approval: payment.*)"

    approved = company.rescind("approvals", "approve", waiting["approval_id"], "--note", "ada is known")
    assert approved.returncode == 0, approved.stderr
    until(lambda: company.payments(), "the payment is made")
    company.goes_on("run-1")  # with what needs nobody's approval
    assert company.payments() == 1

    company.tell("run-1", "pays")
    until(lambda: company.answer("approvals", "list")["approvals"], "the next payment waits as the first one did")
    (again,) = company.answer("approvals", "list")["approvals"]
    assert again["approval_id"] != waiting["approval_id"]
    assert company.payments() == 1


# --- three machines and a switch ---

FLEET = """
switch:
  urls: [URL]
  token_file: agent.token
policy:
  detect:
    rates: {rule: window, minimum_calls: 10, anomaly_rate_pct: null, volume_spike_factor: null}
    behaviour: off
    tool_uncertainty: off
  respond:
    - {name: an agent that fails, signal: error_rate, then: paused on agent}
  fleet: {evidence_guards: 2, stop_share_pct: 100}
"""


def a_switch(company: Company, port: int) -> None:
    """A switch in a process of its own, and the tokens of those who speak with it."""
    identity = ("--identity", "agent:billing-agent")
    for role, name, *more in (("agent", "agent", *identity), ("verifier", "checks"), ("approver", "ann")):
        made = company.rescind("token", "create", "--data", "switch", "--role", role, "--name", name, *more)
        assert made.returncode == 0, made.stderr
        (company.folder / f"{name}.token").write_text(made.stdout)
    words = ["switch", "--data", "switch", "--port", str(port), "--policy", "rescind.yaml", "--json"]
    process = company.start(*RESCIND, *words)
    assert process.stdout is not None
    assert process.stdout.readline(), process.communicate()


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_one_bad_guard_stops_no_fleet_two_do_and_a_verifier_s_verdict_holds_a_run(
    tmp_path: Path, companies: list[Company]
) -> None:
    port = a_free_port()
    company = Company(tmp_path, FLEET.replace("URL", f"http://127.0.0.1:{port}"))
    companies.append(company)
    a_switch(company, port)
    runs = {"run-1": "one", "run-2": "two", "run-3": "three"}
    for run_id, machine in runs.items():
        company.start_agent("billing-agent@2.4.0", run_id, store=machine)
    for run_id in runs:
        company.goes_on(run_id)

    def at_switch() -> list[dict[str, Any]]:
        status = company.answer("status", "--token-file", "ann.token", store="nowhere")
        return [order for order in status["orders"] if "this machine" not in order["at"]]

    company.tell("run-1", "fails")
    until(lambda: company.refused("run-1"), "the machine of the first one holds it")
    company.goes_on("run-2")
    company.goes_on("run-3")
    assert at_switch() == []

    company.tell("run-2", "fails")
    until(lambda: company.refused("run-3"), "the third one is held on the evidence of two")
    (order,) = at_switch()
    assert (order["scope"], order["level"], order["trigger"]) == (
        "agent:billing-agent",
        "paused",
        "an agent that fails",
    )
    assert "2 guards" in order["reason"]

    lifted = company.rescind(
        "resume", order["order_id"], "--reason", "the bank is back", "--token-file", "ann.token", store="three"
    )
    assert lifted.returncode == 0, (lifted.stdout, lifted.stderr)
    company.goes_on("run-3")
    assert company.refused("run-1")

    judged = company.rescind(
        *("verdict", "run-3", "--bad", "--severity", "critical", "--reason", "its balances are those of yesterday"),
        *("--token-file", "checks.token"),
        store="nowhere",
    )
    assert judged.returncode == 0, (judged.stdout, judged.stderr)
    until(lambda: at_switch(), "the verdict holds the run")
    (held,) = at_switch()
    assert (held["scope"], held["trigger"]) == ("run:run-3", "verdict.bad")
    until(lambda: "yesterday" in company.refused("run-3"), "the run is told")
