"""A control plane in a process of its own, over a store that a real agent has written, and the tokens of each role."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from acceptance.programs import RESCIND, Programs
from rescind.clock import SystemClock, SystemIds
from rescind.containment.incident import open_or_join
from rescind.journal.pages import every_entry
from rescind.journal.port import Journal, Query
from rescind.journal.postgres.journal import PostgresJournal
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import CompensationEnded, CompensationIntended
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.switch.service.ledger import Ledger, Note, restrict
from rescind.web.tokens import Role, new_token

if TYPE_CHECKING:
    import subprocess

DEADLINE_S = 40.0

HOSTILE = "\x1b[2J<script>alert(1)</script>\u202e"

TOOLS = f"""
import os, pathlib, sqlite3, time
import rescind

guard = rescind.Guard.at(os.environ["RESCIND_STORE"])
allowed = pathlib.Path("allowed")  # how many payments may be paid back by now, and how long each takes: as a test wants

def till():
    return sqlite3.connect("till.db", timeout=20.0, isolation_level=None)

@guard.write("payment.send", target=lambda number: ("bank", "payment", str(number)))
def pay(number: int) -> int:
    return number

@pay.compensate(idempotent=True, parallel=True)
def _(step):
    while int(allowed.read_text().split()[0]) <= till().execute("SELECT count(*) FROM refunds").fetchone()[0]:
        time.sleep(0.01)
    time.sleep(float(allowed.read_text().split()[1]))
    till().execute("INSERT OR IGNORE INTO refunds VALUES (?)", (step.result,))

@guard.write("letter.send", irreversible={HOSTILE!r})
def send_letter(number: int) -> None:
    pass
"""

AGENT = """
from till_tools import guard, pay, send_letter

for run in ("run-1", "run-2"):
    with guard.run(agent="paying-agent@1.0.0", run_id=run, trace_id="trace-" + run, tenant="acme"):
        for number in range(PAYMENTS):
            pay(number if run == "run-1" else 100 + number)
        send_letter(1)
"""

PAYMENTS = 40

SLOWLY_S = 0.1
"""How long one takes where an order has to be obeyed before the last one: forty of them are several times a second."""


def until(condition: Callable[[], Any], what: str) -> Any:
    """What the condition returns, once that is true."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.02)
    return found


def make_tokens(folder: Path) -> dict[str, str]:
    """A token of each role, as `rescind token create` makes it."""
    restrict(folder)
    ledger = Ledger(folder, clock=SystemClock())
    tokens: dict[str, str] = {}
    with contextlib.closing(ledger):
        for role in Role:
            identity = "agent:paying-agent" if role is Role.AGENT else ""
            tokens[role.value], kept = new_token(role, f"{role}-name", identity, clock=SystemClock(), ids=SystemIds())
            ledger.add_token(kept, Note(what="token.created", subject=kept.name))
    return tokens


class Served:
    """A folder with a till, its agent's store, and what serves it."""

    def __init__(self, folder: Path, store: str = "") -> None:
        self.folder, self.store = folder, store or str(folder / "store")
        self._programs = Programs()
        self._clients: dict[tuple[str, str], httpx.Client] = {}
        (folder / "till_tools.py").write_text(TOOLS)
        (folder / "agent.py").write_text(AGENT.replace("PAYMENTS", str(PAYMENTS)))
        self.allow(0)
        with contextlib.closing(self._till()) as till:
            till.execute("CREATE TABLE refunds (number INTEGER UNIQUE)")
        agent = self._programs.start(folder, sys.executable, "agent.py", RESCIND_STORE=self.store)
        out, err = agent.communicate(timeout=DEADLINE_S)
        assert agent.returncode == 0, (out, err)
        self.tokens = make_tokens(folder / "tokens")
        self.plane = self.start_plane()

    # --- processes ---

    def start_plane(self, *options: str) -> "subprocess.Popen[str]":
        """The server; `url` says where it is."""
        plane = self.start("serve", "--data", "tokens", "--port", "0", "--json", *options)
        assert plane.stdout is not None
        line = plane.stdout.readline()
        assert line, plane.communicate()[1]
        self.url = str(json.loads(line)["url"])
        return plane

    def start_worker(self, module: str = "till_tools") -> "subprocess.Popen[str]":
        worker = self.start("worker", module, "--json")
        assert worker.stdout is not None
        line = worker.stdout.readline()
        assert line, worker.communicate()[1]
        vars(worker)["worker_id"] = json.loads(line)["worker"]["worker_id"]
        return worker

    def start(self, *argv: str) -> "subprocess.Popen[str]":
        return self._programs.start(self.folder, *RESCIND, *argv, RESCIND_STORE=self.store)

    def rescind(self, *argv: str) -> Any:
        """The answer of a command that succeeds."""
        done = self._programs.rescind(self.folder, *argv, "--json", RESCIND_STORE=self.store)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def end_all(self) -> None:
        for client in self._clients.values():
            client.close()
        self._programs.end_all()

    # --- requests ---

    def client(self, role: str, *, timeout_s: float = DEADLINE_S) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.tokens[role]}"} if role else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s)

    def ask(self, method: str, path: str, body: Any = None, *, role: str = "operator") -> httpx.Response:
        """One request."""
        client = self._clients.get((self.url, role))
        if client is None:
            client = self._clients[self.url, role] = self.client(role)  # kept: making one takes longer than asking
        return client.request(method, path, json=body) if body is not None else client.request(method, path)

    def get(self, path: str, *, role: str = "viewer") -> Any:
        answer = self.ask("GET", path, role=role)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any, *, role: str = "operator", status: int = 200) -> Any:
        answer = self.ask("POST", path, body, role=role)
        assert answer.status_code == status, answer.text
        return answer.json()

    # --- the world ---

    def allow(self, count: int, *, each_s: float = 0.0) -> None:
        """Let so many payments be paid back, each in so long."""
        waiting = self.folder / "allowed.new"
        waiting.write_text(f"{count} {each_s}")
        waiting.replace(self.folder / "allowed")

    def refunds(self) -> int:
        with contextlib.closing(self._till()) as till:
            return int(till.execute("SELECT count(*) FROM refunds").fetchone()[0])

    def _till(self) -> Any:
        import sqlite3

        return sqlite3.connect(self.folder / "till.db", timeout=20.0, isolation_level=None)

    def is_still(self, run: str = "run-1") -> bool:
        """Whether no payment of the run is being paid back: the next one is begun together with the end of one."""
        with self.journal() as journal:
            events = [entry.event for entry in every_entry(journal, Query(run_id=run))]
        begun = {event.step_id for event in events if isinstance(event, CompensationIntended)}
        return begun <= {event.step_id for event in events if isinstance(event, CompensationEnded)}

    def begin_undo(self, run: str = "run-1") -> str:
        """Leave the undo of a run to the workers. Returns the digest of its plan."""
        words = ("undo", "--run", run, "--app", "till_tools", "--apply", "--yes", "--parallel", "1")
        return str(self.rescind(*words, "--workers", "--no-wait")["digest"])

    @contextlib.contextmanager
    def journal(self) -> Iterator[Journal]:
        is_database = self.store.startswith("postgresql:")
        opened: Journal = PostgresJournal(self.store) if is_database else SqliteJournal(Path(self.store) / "journal.db")
        with contextlib.closing(opened) as journal:
            yield journal

    def notice(self, run: str = "run-1") -> str:
        """Open an incident about a run. Returns its id."""
        signal = Signal(
            signal_id=f"sig-{run}",
            kind=SignalKind.BLAST_RADIUS,
            rule="records_per_run",
            severity=Severity.CRITICAL,
            scope=Scope.parse(f"run:{run}"),
            detail=HOSTILE,
            noticed_at=datetime.now(UTC),
            run_id=run,
            source="guard-1",
        )
        with self.journal() as journal:
            return open_or_join(journal, signal, clock=SystemClock(), guard_id="guard-1").incident_id


def events_of(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    """Each event of a stream: its name, its id, its data."""
    fields: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in fields:
                yield fields["event"], fields["id"], json.loads(fields["data"])
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value
