"""A bank in a folder: its books, the tools of its agent, the agent as a process, and the command line beside it.

What the books should hold is computed here from the bank's own `trail` table, which the tools write in the same
transaction as their effect and which rescind knows nothing of.
"""

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from acceptance.programs import RESCIND, Programs

DEADLINE_S = 20.0

TOOLS = """
import sqlite3
import rescind

guard = rescind.Guard.at("store")

def books():
    connection = sqlite3.connect("bank.db", timeout=20.0, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")  # the bank's own durability is not what is tested here
    return connection

def _balance(name):
    with books() as connection:
        row = connection.execute("SELECT balance FROM accounts WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]

@guard.write("account.set", target=lambda name: ("bank", "account", name))
def set_balance(name: str, balance: int) -> None:
    with books() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (name, balance))
        connection.execute("INSERT INTO trail VALUES ('set', ?, ?)", (name, balance))
        connection.execute("COMMIT")

@set_balance.snapshot
def _(name):
    return _balance(name)

@set_balance.restore
def _(step):
    with books() as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO trail VALUES ('restore', ?, ?)", (step.arguments["name"], step.before))
        if step.before is None:
            connection.execute("DELETE FROM accounts WHERE name = ?", (step.arguments["name"],))
        else:
            connection.execute(
                "INSERT OR REPLACE INTO accounts VALUES (?, ?)", (step.arguments["name"], step.before)
            )
        connection.execute("COMMIT")

@guard.write("payment.send")
def pay(name: str, amount: int) -> int:
    with books() as connection:
        connection.execute("INSERT INTO payments (name, amount) VALUES (?, ?)", (name, amount))
        return connection.execute("SELECT last_insert_rowid()").fetchone()[0]

@pay.compensate(idempotent=True)
def _(step):
    with books() as connection:
        connection.execute(
            "INSERT OR IGNORE INTO payments (name, amount, credit_key) VALUES (?, ?, ?)",
            (step.arguments["name"], -step.arguments["amount"], step.idempotency_key),
        )

@guard.write("letter.send", irreversible="a letter cannot be unsent")
def send_letter(name: str) -> None:
    with books() as connection:
        connection.execute("INSERT INTO letters VALUES (?)", (name,))
"""

AGENT = """
import sys, time
import rescind
from rescind.errors import JournalUnavailable
from bank_tools import guard, pay, send_letter, set_balance

agent, run_id, pause_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
number = 0
with guard.run(agent=agent, run_id=run_id, tenant="acme") as run:
    while True:
        number += 1
        name = f"customer-{number % 7}"
        try:
            set_balance(name, number)
            pay(name, number)
            if number % 5 == 0:
                send_letter(name)
        except (rescind.CallDenied, JournalUnavailable):
            pass
        time.sleep(pause_s)
"""

SLOW_TOOL = """
import pathlib, sqlite3, time
import bank_tools
from bank_tools import guard, books

@guard.write("account.slow", target=lambda name: ("bank", "account", name))
def slow(name: str) -> None:
    with books() as connection:
        connection.execute("INSERT OR REPLACE INTO accounts VALUES (?, 1000)", (name,))
    pathlib.Path("in-the-middle").touch()
    time.sleep(60.0)

@slow.snapshot
def _(name):
    return bank_tools._balance(name)

@slow.restore
def _(step):
    raise AssertionError("a step in doubt is never restored by itself")
"""

SLOW_AGENT = """
from slow_tool import guard, slow

with guard.run(agent="slow-agent@1", run_id="run-slow"):
    slow("customer-0")
"""

FILES = {
    "bank_tools.py": TOOLS,
    "agent.py": AGENT,
    "slow_tool.py": SLOW_TOOL,
    "slow_agent.py": SLOW_AGENT,
}

SCHEMA = """
CREATE TABLE accounts (name TEXT PRIMARY KEY, balance INTEGER NOT NULL);
CREATE TABLE payments (id INTEGER PRIMARY KEY, name TEXT NOT NULL, amount INTEGER NOT NULL, credit_key TEXT UNIQUE);
CREATE TABLE letters (name TEXT NOT NULL);
CREATE TABLE trail (what TEXT NOT NULL, name TEXT NOT NULL, balance INTEGER);
INSERT INTO accounts VALUES ('customer-0', 100), ('customer-1', 101), ('customer-2', 102), ('customer-3', 103);
"""


class Bank:
    """The bank in one folder. Every process it starts is ended with it."""

    def __init__(self, folder: Path, *, config: str = "", branch_of: "Bank | None" = None) -> None:
        """A bank with its books; or a branch of another one, with the books of that.

        Args:
            folder: Where. It stands for the machine.
            config: What `rescind.yaml` says; without it, the store is in the folder.
            branch_of: The bank that keeps the books.
        """
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self._programs = Programs()
        self._variables = {} if config else {"RESCIND_STORE": str(folder / "store")}
        for name, text in FILES.items():
            (folder / name).write_text(text.replace('Guard.at("store")', "Guard.from_config()") if config else text)
        if config:
            (folder / "rescind.yaml").write_text(config)
        if branch_of is not None:
            (folder / "bank.db").symlink_to(branch_of.folder / "bank.db")
            return
        with self.books() as books:
            books.executescript(SCHEMA)

    # --- processes ---

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """A Python process in the bank's folder."""
        return self._programs.start(self.folder, sys.executable, *argv, **self._variables)

    def start_agent(
        self, run_id: str = "run-1", *, agent: str = "paying-agent@1.0.0", pause_s: float = 0.002
    ) -> subprocess.Popen[str]:
        """An agent that pays until it is stopped."""
        return self.start("agent.py", agent, run_id, str(pause_s))

    def rescind(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """One command, to its end."""
        return self._programs.rescind(self.folder, *argv, **self._variables)

    def start_rescind(self, *argv: str) -> subprocess.Popen[str]:
        """One command, not waited for."""
        return self._programs.start(self.folder, *RESCIND, *argv, **self._variables)

    def answer(self, *argv: str, status: int = 0) -> dict[str, Any]:
        """The JSON object that a command answers with."""
        done = self.rescind(*argv, "--json")
        assert done.returncode == status, (argv, done.returncode, done.stdout, done.stderr)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def end_all(self) -> None:
        """Kill what is left."""
        self._programs.end_all()

    # --- the books ---

    @contextlib.contextmanager
    def books(self) -> Iterator[sqlite3.Connection]:
        """A connection to the books."""
        connection = sqlite3.connect(self.folder / "bank.db", timeout=20.0, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()

    def accounts(self) -> dict[str, int]:
        """Balances by name."""
        return self._pairs("SELECT name, balance FROM accounts")

    def effects(self) -> int:
        """How many effects there have been, of all tools."""
        return sum(self._count(f"SELECT count(*) FROM {table}") for table in TABLES)

    def unpaid(self) -> int:
        """What payments and credits add up to; 0 when every payment was taken back exactly once."""
        return self._count("SELECT coalesce(sum(amount), 0) FROM payments")

    def letters(self) -> int:
        """How many letters were sent."""
        return self._count("SELECT count(*) FROM letters")

    def trail(self, what: str) -> int:
        """How often a balance was set (`set`) or restored (`restore`)."""
        return self._count("SELECT count(*) FROM trail WHERE what = ?", what)

    def _count(self, sql: str, *values: str) -> int:
        with self.books() as books:
            return int(books.execute(sql, values).fetchone()[0])

    def _pairs(self, sql: str) -> dict[str, int]:
        with self.books() as books:
            return dict(books.execute(sql).fetchall())


TABLES = ("trail", "payments", "letters")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until it holds. Raises: AssertionError, which says what did not come true, after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.005)


def until_more(count: Callable[[], int], than: int, what: str) -> None:
    """Wait until there are more than so many. Raises: AssertionError, if nothing was added before a deadline.

    How long many of them take says how busy the machine is; that one more comes says that it goes on.
    """
    while (now := count()) <= than:
        until(lambda: count() > now, f"{what} (more than {now})")  # it is over before the next round
