"""Stop, status, resume and the orders' log against real switches: two processes that form a federation."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import rescind.cli.delivery
from acceptance.bank import until
from builders import environment
from cli.conftest import Answer, Rescind
from switch.client.scripted import answer, nobody, placed, saying, serving

RESCIND = [sys.executable, "-c", "import sys; from rescind.cli import main; sys.exit(main())"]

PEOPLE = {"olga": "operator", "alice": "approver", "bob": "approver", "vera": "viewer"}


def run(*argv: str, cwd: Path) -> str:
    done = subprocess.run([*RESCIND, *argv], cwd=cwd, env=environment(), capture_output=True, text=True, check=True)
    return done.stdout


def a_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Switch:
    """A switch in a process of its own."""

    folder: Path
    port: int
    options: tuple[str, ...] = ()
    process: "subprocess.Popen[str] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = ["switch", "--data", str(self.folder), "--port", str(self.port), "--json", *self.options]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*RESCIND, *words], stdout=subprocess.PIPE, stderr=log, text=True, env=environment()
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "log").read_text()
        assert json.loads(line)["url"] == self.url

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10.0)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@dataclass
class Federation:
    """Two switches, and a token file for each person, good at both."""

    one: Switch
    two: Switch
    folder: Path

    def tokens_of(self, person: str) -> str:
        return str(self.folder / person)


def a_federation(folder: Path, *rule: str) -> Federation:
    one, two = (Switch(folder / name, a_free_port()) for name in ("one", "two"))
    lines: dict[str, list[str]] = {person: [] for person in PEOPLE}
    for switch in (one, two):
        switch.folder.mkdir()
        for person, role in PEOPLE.items():
            token = run("token", "create", "--data", str(switch.folder), "--role", role, "--name", person, cwd=folder)
            lines[person].append(f"{switch.url} {token.strip()}")
    for person, held in lines.items():
        (folder / person).write_text("\n".join(held) + "\n")
    for switch, peer in ((one, two), (two, one)):
        token = run("token", "create", "--data", str(peer.folder), "--role", "peer", "--name", "peer", cwd=folder)
        (switch.folder / "peer.token").write_text(token)
        switch.options = ("--peer", peer.url, "--peer-token-file", str(switch.folder / "peer.token"), *rule)
    return Federation(one, two, folder)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A lift takes two persons and two switches here."""
    found = a_federation(tmp_path_factory.mktemp("federation"), "--lift-persons", "2", "--lift-switches", "2")
    try:
        found.one.start()
        found.two.start()
        yield found
    finally:
        found.one.kill()
        found.two.kill()


@pytest.fixture
def ask(rescind: Rescind, strict: Federation, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Rescind:
    """`rescind` as one person, with both switches: the first word is the person."""
    monkeypatch.setenv("RESCIND_URL", f"{strict.one.url} {strict.two.url}")
    monkeypatch.setattr(rescind_cli_delivery(), "KEEP_TRYING_S", 0.5)

    def as_person(person: str, *argv: str) -> Answer:
        return rescind(*argv, "--token-file", strict.tokens_of(person))

    return as_person


def rescind_cli_delivery() -> ModuleType:
    return rescind.cli.delivery


def test_a_stop_is_on_both_switches_and_takes_two_people_to_lift(ask: Rescind, strict: Federation) -> None:
    stopped = ask("olga", "stop", "agent:x", "--reason", "wrong", "--wait", "10s", "--json").json
    order_id = stopped["order"]["order_id"]
    assert [each["state"] for each in stopped["switches"]] == ["durable", "durable"]
    assert stopped["receipt"]["unheard"] == []

    seen = ask("vera", "status", "--json")
    assert seen.status == 0
    (order,) = seen.json["orders"]
    assert (order["order_id"], order["reason"], order["at"]) == (order_id, "wrong", [strict.one.url, strict.two.url])

    forbidden = ask("olga", "resume", "agent:x", "--reason", "fine")
    assert forbidden.status == 1
    assert "nothing was lifted" in forbidden.err
    assert "approver" in forbidden.err

    begun = ask("alice", "resume", "agent:x", "--reason", "mended", "--json")
    assert begun.status == 1
    assert (begun.json["in_force"], begun.json["lifted"]) == (False, [])
    assert "person" in begun.json["waits_for"]
    lift_id = begun.json["lift_id"]
    again = ask("alice", "resume", "--consent", lift_id)
    assert again.status == 1  # the same person is no second one
    shown = ask("vera", "status")
    assert f"{lift_id} waits for one more person" in shown.out
    assert "reason  mended" in shown.out
    assert f"rescind resume --consent {lift_id}" in shown.out

    done = ask("bob", "resume", "--consent", lift_id, "--json")
    assert done.status == 0
    assert (done.json["in_force"], done.json["order_ids"]) == (True, [order_id])
    until(lambda: ask("vera", "status", "--json").json["orders"] == [], "both switches have lifted it")
    log = ask("vera", "audit", "orders", "--json").json["switches"]
    assert [each["url"] for each in log] == [strict.one.url, strict.two.url]
    placed_by = [(line["subject"], line["person"]) for line in log[0]["lines"] if line["what"] == "order.placed"]
    assert (order_id, "olga") in placed_by
    assert ("lift.placed", lift_id) in {(line["what"], line["subject"]) for line in log[0]["lines"]}


def test_a_lift_names_the_orders_it_lifts_and_spares_the_others(ask: Rescind) -> None:
    kept = ask("olga", "stop", "everything", "--level", "supervised", "--json").json["order"]["order_id"]
    ours = ask("olga", "stop", "agent:y", "--json").json["order"]["order_id"]

    begun = ask("alice", "resume", ours[:-2], "--reason", "mended", "--json").json
    done = ask("bob", "resume", "--consent", begun["lift_id"])

    assert done.status == 0
    left = [order["order_id"] for order in ask("vera", "status", "--json").json["orders"]]
    assert kept in left
    assert ours not in left
    again = ask("alice", "resume", "agent:y", "--reason", "mended")
    assert again.status == 2
    assert "no order stands with exactly the scope 'agent:y'" in again.err


def test_what_stands_here_too_is_given_back_only_with_the_switches(
    ask: Rescind, shop: ModuleType, rescind: Rescind
) -> None:
    stopped = ask("olga", "stop", "agent:shop-agent", "--json").json
    order_id = stopped["order"]["order_id"]
    assert stopped["here"]["durable"]

    begun = ask("alice", "resume", order_id, "--reason", "mended")
    assert begun.status == 1
    assert f"{order_id} stands on this machine too, until the lift is in force" in begun.out
    assert [order["order_id"] for order in ask("vera", "status", "--json").json["orders"]].count(order_id) == 1
    lift_id = ask("vera", "status", "--json").json["waiting"][-1]["lift"]["lift_id"]
    assert ask("bob", "resume", "--consent", lift_id).status == 0

    here = ask("vera", "status", "--json").json["orders"]
    assert [order["at"] for order in here if order["order_id"] == order_id] == [["this machine"]]
    lifted = ask("alice", "resume", order_id, "--reason", "mended", "--json")  # no switch has to be asked for it now
    assert lifted.status == 0
    assert [order["order_id"] for order in lifted.json["lifted"]] == [order_id]


def test_with_a_store_named_only_that_one_is_given_back(ask: Rescind, shop: ModuleType, rescind: Rescind) -> None:
    order_id = ask("olga", "stop", "agent:z", "--json").json["order"]["order_id"]

    lifted = rescind("resume", order_id, "--reason", "here only", "--store", "store", "--json")

    assert lifted.status == 0
    assert [order["order_id"] for order in lifted.json["lifted"]] == [order_id]
    found = {order["order_id"]: order["at"] for order in ask("vera", "status", "--json").json["orders"]}
    assert len(found[order_id]) == 2  # both switches


def test_a_wrong_token_is_one_line_with_its_remedy(rescind: Rescind, folder: Path, strict: Federation) -> None:
    (folder / "wrong").write_text("rsc_wrong")

    answered = rescind("status", "--switch", strict.one.url, "--token-file", "wrong")
    stopped = rescind("stop", "agent:x", "--switch", strict.one.url, "--token-file", "wrong")

    assert (answered.status, stopped.status) == (1, 1)
    assert "takes stops" in answered.out  # its health is nobody's secret
    assert "name a token of this switch with --token-file or RESCIND_TOKEN" in answered.out
    assert "name a token of this switch with --token-file or RESCIND_TOKEN" in stopped.err
    assert "rsc_wrong" not in answered.out + answered.err + stopped.out + stopped.err


def test_one_switch_is_killed_and_the_other_one_stops_and_tells_it_later(ask: Rescind, strict: Federation) -> None:
    strict.two.kill()
    try:
        stopped = ask("olga", "stop", "agent:w", "--wait", "200ms", "--json")
        seen = ask("vera", "status")
    finally:
        strict.two.start()
    order_id = stopped.json["order"]["order_id"]

    assert [each["state"] for each in stopped.json["switches"]] == ["durable", "unreachable"]
    assert seen.status == 1
    assert f"{strict.two.url}: nothing listens there" in seen.out
    until(
        lambda: (
            {order["order_id"]: order["at"] for order in ask("vera", "status", "--json").json["orders"]}.get(order_id)
            == [strict.one.url, strict.two.url]
        ),
        "the switch that was away has heard of the order",
    )


# --- what a switch says, and what is made of it ---


def test_status_says_what_is_wrong_with_a_switch_its_peers_and_its_alerts(rescind: Rescind, folder: Path) -> None:
    health = {
        "switch_id": "sw_1",
        "accepting": False,
        "trouble": "the disk is full",
        "sequence": 3,
        "guards_connected": 1,
        "peers": [{"url": "http://peer:1", "switch_id": "", "reachable": False, "problem": "timed out"}],
        "alerts": [
            {
                "name": "slack",
                "given_up": 2,
                "failing_since": "2026-11-21T12:00:00Z",
                "last_problem": "HTTP 500 \x1b[2J",
                "more": 1,
            }
        ],
    }
    guards = [
        {"guard_id": "g1", "connected": True, "heard_ago_s": 1.0, "report": {"pid": 7, "bound": 3, "host": "web-1"}},
        {"guard_id": "g2", "connected": False, "heard_ago_s": 9.0, "report": {"pid": 8, "bound": 3}},
        {
            "guard_id": "g3",
            "connected": True,
            "heard_ago_s": 1.0,
            "report": {"pid": 9, "bound": 3, "fault": "no journal", "newer": True},
        },
    ]
    says = {
        "/health": answer(503, health),
        "/v1/orders": answer(200, {"switch_id": "sw_1", "sequence": 3, "orders": []}),
        "/v1/guards": answer(200, guards),
        "/v1/approvals": answer(200, []),
    }
    with serving(saying(lambda asked: says[asked[1]])) as switch:
        shown = rescind("status", "--switch", switch.url)
        answered = rescind("status", "--switch", switch.url, "--json")

    assert shown.status == 1
    assert "could take NO stop now, and renews no lease: the disk is full" in shown.out
    assert "does not reach http://peer:1: timed out" in shown.out
    assert "alerts to slack fail for" in shown.out
    assert "2 lost: HTTP 500 \\x1b[2J" in shown.out
    assert "pid 7 on web-1" in shown.out
    assert "hears no switch that answers here; last heard 9 s ago" in shown.out
    assert "holds itself at read_only: no journal" in shown.out
    assert answered.json["switches"][0]["accepting"] is False
    problems = [bool(guard["problem"]) for guard in answered.json["guards_at_switches"]]
    assert problems == [False, True, True]


def test_who_cannot_see_what_stands_gives_nothing_back(
    rescind: Rescind, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescind_cli_delivery(), "KEEP_TRYING_S", 0.2)
    rescind("stop", "agent:x")
    monkeypatch.setenv("RESCIND_URL", nobody())

    answered = rescind("resume", "agent:x", "--reason", "fine")

    assert answered.status == 1
    assert "no switch says what stands, so nothing was lifted" in answered.err
    assert "To lift only what stands on this machine: rescind resume agent:x --store" in answered.err
    monkeypatch.delenv("RESCIND_URL")
    assert len(rescind("status", "--json").json["orders"]) == 1


def test_a_lift_that_one_switch_takes_and_another_refuses_is_in_force(rescind: Rescind, folder: Path) -> None:
    order = {"order_id": "ord_1", "scope": "agent:x", "level": "halted", "placed_at": "2026-11-21T12:00:00Z"}

    def takes(asked: tuple[str, str, dict[str, str], bytes]) -> bytes:
        if asked[0] == "GET":
            return answer(200, {"switch_id": "sw_1", "sequence": 1, "orders": [order]})
        return answer(201, {"switch_id": "sw_1", "lift": json.loads(asked[3]), "in_force": True})

    lacks = answer(200, {"switch_id": "sw_2", "sequence": 0, "orders": []})
    no = answer(404, {"title": "Not Found", "status": 404, "detail": "no order 'ord_1' is known here"})
    with serving(saying(takes)) as one, serving(saying(lambda asked: lacks if asked[0] == "GET" else no)) as two:
        answered = rescind("resume", "agent:x", "--reason", "r", "--switch", one.url, "--switch", two.url)
        shown = rescind("status", "--switch", one.url, "--switch", two.url)

    assert answered.status == 0
    assert "lifted  ord_1  halted agent:x" in answered.out
    assert f"lacks   {two.url}: refused: no order 'ord_1' is known here" in answered.out
    assert f"only at {one.url}" in shown.out


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("resume", "--consent", "lift_1", "--reason", "x"), "--consent takes no scope"),
        (("resume", "--consent", "lift_1", "agent:x"), "--consent takes no scope"),
        (("resume",), "Missing argument"),
        (("resume", "--consent", "lift_1"), "--consent is for lifts at switches"),
        (("audit", "orders"), "no switch is named"),
    ],
)
def test_what_cannot_be_meant_is_refused(rescind: Rescind, shop: ModuleType, argv: tuple[str, ...], says: str) -> None:
    answered = rescind(*argv)

    assert (answered.status, answered.out) == (2, "")
    assert says in answered.err


def test_a_cold_stop_at_a_switch_imports_neither_a_command_line_nor_an_http_library_nor_a_database(
    folder: Path,
) -> None:
    heavy = ("click", "rich", "yaml", "http.client", "httpx", "ssl", "sqlite3", "asyncio", "rescind.guard")
    code = (
        "import sys; from rescind.cli import main; status = main(['stop', 'agent:nobody']); "
        f"print([name for name in {heavy} if name in sys.modules], status, file=sys.stderr)"
    )
    with serving(saying(placed)) as switch:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ) | {"RESCIND_URL": switch.url},
        )

    assert done.stderr.splitlines()[-1] == "[] 0"
