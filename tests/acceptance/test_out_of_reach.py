"""What a switch has ordered is out of an agent's reach: its token, files, variables and restarts loosen nothing.

The agent of this story is hostile as far as its surroundings go: it runs our guard, and tries everything else.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.bank import until
from acceptance.programs import RESCIND, Programs
from builders import a_lift
from rescind.clock import SystemClock
from rescind.switch.store import SqliteOrders
from switch.client.told_switch import ToldSwitch

pytest.importorskip("litestar")

STOPPED, NEIGHBOUR = "agent:billing-agent", "agent:neighbour"

# Appends a line for each write. `steady` writes until it is killed; `once` tries every way to begin a write, for a
# while that is longer than its lease, and says how many writes there were.
AGENT = """
import asyncio, os, pathlib, sys, threading, time
import rescind

name, mode = sys.argv[1:]
guard, effects = rescind.Guard.from_config(), pathlib.Path(sys.argv[1] + ".effects")

def write_line():
    with effects.open("a") as file:
        file.write("x\\n")

write = guard.write("note.add", irreversible="a test")(write_line)
keyed = guard.write("note.keyed", key=lambda key: key, irreversible="a test")(lambda key: write_line())

async def write_async_line():
    write_line()

async_write = guard.write("note.async", irreversible="a test")(write_async_line)
refusals = (rescind.CallDenied, rescind.RunHalted)

def attempt(function, *values):
    try:
        function(*values)
    except refusals:
        pass

def in_a_run(**options):
    with guard.run(f"{name}@1", **options) as run:
        attempt(write)
        attempt(keyed, f"{name}-first")
        attempt(keyed, str(time.monotonic_ns()))
        with run.spawn() as child:
            attempt(write)

async def in_a_task():
    async with guard.run(f"{name}@1"):
        try:
            await async_write()
        except refusals:
            pass

def forked():
    pid = os.fork()
    if pid == 0:
        attempt(in_a_run)
        os._exit(0)
    os.waitpid(pid, 0)

def once():
    attempt(in_a_run)
    attempt(lambda: in_a_run(run_id="continued"))
    attempt(lambda: in_a_run(parent="run-of-nobody", allow=["note.add", "note.keyed"]))
    attempt(lambda: asyncio.run(in_a_task()))
    thread = threading.Thread(target=attempt, args=(in_a_run,))
    thread.start()
    thread.join()
    forked()

if mode == "steady":
    with guard.run(f"{name}@1"):
        while True:
            attempt(write)
            time.sleep(0.002)
else:
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        once()
    guard.close()
    once()
    guard.close()
"""


class Town:
    """A switch, two agents with tokens of their own in one folder each, and somebody who may stop."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._programs = folder, Programs()
        data = str(folder / "switch")
        self.tokens = {
            name: self._cli(folder, "token", "create", "--data", data, "--role", role, "--name", name, *identity)
            for name, role, *identity in (
                ("olga", "operator"),
                ("billing-agent", "agent", "--identity", STOPPED),
                ("neighbour", "agent", "--identity", NEIGHBOUR),
            )
        }
        switch = self._programs.start(
            folder, *RESCIND, "switch", "--data", data, "--port", "0", "--beat", "0.1", "--json"
        )
        assert switch.stdout is not None
        self.url = json.loads(switch.stdout.readline())["url"]
        for name in ("billing-agent", "neighbour"):
            home = folder / name
            home.mkdir()
            (home / "agent.py").write_text(AGENT)
            (home / "agent.token").write_text(self.tokens[name])
            (home / "rescind.yaml").write_text(
                f"switch: {{urls: [{self.url}], token_file: agent.token, lease_ttl_s: 1, start_within_s: 1}}\n"
            )

    # --- what people do ---

    def stop(self, scope: str) -> dict[str, Any]:
        said = self._cli(
            self.folder, "stop", scope, "--reason", "a test", "--wait", "15s", "--json",
            RESCIND_URL=self.url, RESCIND_TOKEN=self.tokens["olga"],
        )  # fmt: skip
        found: dict[str, Any] = json.loads(said)
        return found

    def ask(self, who: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and document of a request with somebody's token, once the switch has time for it."""
        while (answer := self._ask(who, method, path, body))[0] == 429:
            time.sleep(0.05)
        return answer

    def _ask(self, who: str, method: str, path: str, body: Any) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        if who in self.tokens:
            headers["Authorization"] = f"Bearer {self.tokens[who]}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10.0) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.loads(refusal.read() or b"null")

    def standing(self) -> set[tuple[str, str]]:
        _, found = self.ask("olga", "GET", "/v1/orders")
        return {(order["order_id"], order["level"]) for order in found["orders"]}

    def guard_of(self, agent: subprocess.Popen[str]) -> str:
        """The id of its guard, once the switch has heard of it."""
        found: dict[int, str] = {}

        def has_come() -> bool:
            found.update({each["report"]["pid"]: each["guard_id"] for each in self.ask("olga", "GET", "/v1/guards")[1]})
            return agent.pid in found

        until(has_come, "the switch has heard of the agent")
        return found[agent.pid]

    # --- what agents do ---

    def effects(self, name: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name / f"{name}.effects").read_text().count("\n")
        return 0

    def start_agent(self, name: str, mode: str, **variables: str) -> subprocess.Popen[str]:
        return self._programs.start(self.folder / name, sys.executable, "agent.py", name, mode, **variables)

    def cli_of(self, name: str, *argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._programs.rescind(self.folder / name, *argv, **variables)

    # --- processes ---

    def _cli(self, folder: Path, *argv: str, **variables: str) -> str:
        done = self._programs.rescind(folder, *argv, **variables)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout.strip()

    def end_all(self) -> None:
        self._programs.end_all()


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path)
    try:
        yield town
    finally:
        town.end_all()


@pytest.mark.slow
def test_nothing_within_an_agents_reach_loosens_what_a_switch_has_ordered(town: Town) -> None:
    guards = [town.guard_of(town.start_agent(name, "steady")) for name in ("neighbour", "billing-agent")]
    until(lambda: town.effects("billing-agent") and town.effects("neighbour"), "both write")

    stopped = town.stop(STOPPED)
    order_id = stopped["order"]["order_id"]
    assert {guard["state"] for guard in stopped["receipt"]["guards"]} == {"drained"}
    held = town.effects("billing-agent")

    ask_for_everything(town, order_id, guards[0])
    speak_for_another(town, guards[0])
    assert town.cli_of("billing-agent", "resume", STOPPED, "--reason", "I am fine").returncode != 0
    tamper_with_the_store(town, order_id)
    with ToldSwitch(switch_id="the-agents-own") as own:
        own.lifted.append(order_id)
        restart_with_other_variables(town, own, guards[0])
        assert own.hellos, "the agent has followed its own switch"

    assert town.effects("billing-agent") == held
    assert (order_id, "halted") in town.standing()
    before = town.effects("neighbour")
    until(lambda: town.effects("neighbour") > before, "the neighbour still works")
    assert town.stop(NEIGHBOUR)["receipt"]["all_drained"]


ITS_OWN: dict[tuple[str, str, str], tuple[int, object]] = {
    ("billing-agent", "get", "/v1/approvals"): (200, []),
    ("billing-agent", "get", "/v1/caller"): (200, {"name": "billing-agent", "role": "agent", "may_lift": False}),
}
"""What an agent may look at, since it is about itself; here it has asked for nothing."""


def ask_for_everything(town: Town, order_id: str, neighbour: str) -> None:
    """Every request of the description, by the agent's token and by none."""
    _, description = town.ask("nobody", "GET", "/openapi.json")
    bodies = {
        "/v1/orders": {"scope": "everything", "level": "halted"},
        "/v1/lifts": {"order_ids": [order_id], "reason": "I am fine"},
        "/v1/guards/{guard_id}": {"bound": 1},
        "/v1/guards/{guard_id}/stream": {"bound": 1},
        "/v1/approvals/{approval_id}/decision": {"decision": "approved"},
        "/v1/verdicts": {"scope": STOPPED, "holds": True, "reason": "I am fine"},
        "/v1/signals": {
            "signal_id": "sig-1",
            "kind": "behaviour",
            "rule": "steps",
            "severity": "critical",
            "scope": NEIGHBOUR,
            "detail": "it is him",
            "noticed_at": "2026-11-26T12:00:00Z",
        },
    }
    asked = 0
    for path, operations in description["paths"].items():
        place = path.replace("{order_id}", order_id).replace("{lift_id}", "lift-1")
        place = place.replace("{guard_id}", neighbour).replace("{approval_id}", "approval_1")
        place = place.replace("{run_id}", "run-of-a-neighbour")
        for method in operations:
            if path in ("/health", "/openapi.json"):
                continue
            body = bodies.get(path, {}) if method in ("post", "put") else None
            for who in ("billing-agent", "nobody"):
                status, answer = town.ask(who, method.upper(), place, body)
                if (who, method, path) in ITS_OWN:
                    assert (status, answer) == ITS_OWN[who, method, path], (who, method, path)
                    continue
                assert 400 <= status < 500, (who, method, path, status)
                asked += 1
    assert asked >= 20
    milder = {"scope": f"{STOPPED}+run:nothing", "level": "supervised", "order_id": order_id}
    assert town.ask("billing-agent", "POST", "/v1/orders", milder)[0] == 409
    assert town.ask("billing-agent", "POST", "/v1/orders", {"scope": NEIGHBOUR, "level": "halted"})[0] == 403
    record = {"kind": "lift", "subject": "lift-1", "body": json.dumps({"order_ids": [order_id], "reason": "x"})}
    assert town.ask("billing-agent", "POST", "/v1/peer/records", {"records": [record]})[0] in (400, 403)


def speak_for_another(town: Town, guard_id: str) -> None:
    for report in ({"leaving": True}, {"bound": 1, "drained": True}, {"on_silence": "normal"}):
        assert town.ask("billing-agent", "PUT", f"/v1/guards/{guard_id}", report)[0] == 403
        assert town.ask("billing-agent", "POST", f"/v1/guards/{guard_id}/stream", report)[0] == 403


def tamper_with_the_store(town: Town, order_id: str) -> None:
    """All that the agent's user may do in the folder of the agent: it lifts what this machine had ordered, at most."""
    store = town.folder / "billing-agent" / ".rescind"
    with contextlib.closing(SqliteOrders(store, clock=SystemClock())) as orders, contextlib.suppress(Exception):
        orders.lift(a_lift(order_id))
    for report in (store / "guards").iterdir():
        report.unlink()


def restart_with_other_variables(town: Town, own: ToldSwitch, neighbour: str) -> None:
    elsewhere = str(town.folder / "elsewhere")
    proxy: dict[str, str] = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"), own.url)
    variants: list[dict[str, str]] = [
        {},
        {"RESCIND_URL": ""},
        {"RESCIND_URL": own.url, "RESCIND_STORE": elsewhere + "-1"},
        {"RESCIND_STORE": elsewhere},
        {"RESCIND_TOKEN": "wrong"},
        {"RESCIND_TOKEN": town.tokens["neighbour"]},
        {"RESCIND_PARENT_RUN": "+".join(f"run-{number}" for number in range(64))},
        {"RESCIND_SUPERVISOR": neighbour},
        proxy,
    ]
    for number in range(0, len(variants), 3):
        agents = [town.start_agent("billing-agent", "once", **each) for each in variants[number : number + 3]]
        for agent in agents:
            _, err = agent.communicate(timeout=60.0)
            assert agent.returncode == 0, err
    shutil.rmtree(elsewhere)
