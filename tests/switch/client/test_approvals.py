"""A guard that follows switches has its writes approved there: real switches, real sockets, the real command line."""

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.bank import until
from builders import events_of
from rescind.clock import SystemClock
from rescind.config import ApprovalConfig, SwitchConfig
from rescind.errors import ApprovalDenied, ApprovalPending
from rescind.guard.guard import Guard
from rescind.model.entry import ApprovalDecided
from rescind.recovery.approvals import decide
from switch.http.service import PATIENCE_S, RESCIND, RunningSwitch, running

ROLES = ("agent", "viewer", "approver")


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSwitch]:
    with running(tmp_path_factory.mktemp("approvals"), roles=ROLES) as switch:
        yield switch


class Desk:
    """A guard whose payments need an approval, and one payment on its way in a thread."""

    def __init__(
        self, folder: Path, switch: RunningSwitch, *further: str, wait_s: float = PATIENCE_S, token: str = ""
    ) -> None:
        urls = (switch.url, *further)
        config = SwitchConfig(urls=urls, further=further, lease_ttl_s=5, start_within_s=5)
        approval = ApprovalConfig(wait_s=wait_s)
        self.guard = Guard.at(folder / "store", switch=config, token=token or switch.tokens["agent"], approval=approval)
        self.guard.approval_reason = lambda _: "payments need a look"
        self.paid: list[int] = []
        self.end: Any = None
        self.pay = self.guard.write("pay", irreversible="a test")(self._pay)

    def _pay(self, cents: int) -> str:
        self.paid.append(cents)
        return "paid"

    def begin(self, run_id: str, cents: int) -> threading.Thread:
        def call() -> None:
            try:
                with self.guard.run("billing-agent@2.4.0", run_id=run_id):
                    self.end = self.pay(cents)
            except Exception as error:  # noqa: BLE001  # the test looks at it
                self.end = error

        thread = threading.Thread(target=call)
        thread.start()
        return thread


@pytest.fixture
def desk(tmp_path: Path, switch: RunningSwitch) -> Iterator[Desk]:
    desk = Desk(tmp_path, switch)
    yield desk
    desk.guard.close()


def waiting(switch: RunningSwitch, run_id: str) -> list[dict[str, Any]]:
    found = switch.look("/v1/approvals")
    return [each for each in found if each["asked"]["run"]["run_id"] == run_id and each["state"] == "waiting"]


def approvals(switch: RunningSwitch, *words: str, folder: Path, token: str = "approver") -> Any:
    return rescind(switch, "approvals", *words, folder=folder, token=token)


def status(switch: RunningSwitch, *, folder: Path) -> Any:
    return rescind(switch, "status", folder=folder, token="approver")


def rescind(switch: RunningSwitch, *words: str, folder: Path, token: str) -> Any:
    (folder / "token").write_text(switch.tokens[token])
    command = [RESCIND, *words, "--switch", switch.url, "--token-file", str(folder / "token"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, cwd=folder)
    return json.loads(done.stdout) | {"status": done.returncode}


def test_a_waiting_write_is_listed_at_the_switch_and_goes_on_when_an_approver_says_so(
    desk: Desk, switch: RunningSwitch, tmp_path: Path
) -> None:
    thread = desk.begin("run-yes", 5)
    until(lambda: len(waiting(switch, "run-yes")) == 1, "it waits at the switch")
    listed = approvals(switch, "list", folder=tmp_path)["approvals"]
    (mine,) = [each for each in listed if each["run"]["run_id"] == "run-yes"]
    assert (mine["action"], mine["arguments"], mine["because"]) == ("pay", {"cents": 5}, "payments need a look")
    assert desk.paid == []
    unfinished = status(switch, folder=tmp_path)["unfinished"]
    assert mine["approval_id"] in [each["approval_id"] for each in unfinished["approvals"]]
    assert unfinished["undos"] is None, "what only a journal knows is not said to be none"

    refused = approvals(switch, "approve", mine["approval_id"], folder=tmp_path, token="viewer")
    assert refused["status"] == 1
    assert desk.paid == []
    approved = approvals(switch, "approve", mine["approval_id"][:20], "--actor", "olga", folder=tmp_path)
    assert (approved["status"], approved["approval"]["decided_by"]) == (0, "olga (approver-name)")
    thread.join(PATIENCE_S)

    assert (desk.end, desk.paid) == ("paid", [5])
    decided = [each for each in events_of(desk.guard.journal) if isinstance(each, ApprovalDecided)]
    assert [(each.decision, each.actor) for each in decided] == [("approved", "olga (approver-name)")]
    again = approvals(switch, "deny", mine["approval_id"], folder=tmp_path)
    assert again["status"] == 2
    assert "was approved by olga" in again["error"]["message"]


def test_a_denial_at_the_switch_is_told_to_the_agent(desk: Desk, switch: RunningSwitch, tmp_path: Path) -> None:
    thread = desk.begin("run-no", 6)
    until(lambda: len(waiting(switch, "run-no")) == 1, "it waits at the switch")
    (mine,) = waiting(switch, "run-no")
    assert approvals(switch, "deny", mine["asked"]["approval_id"], "--note", "not now", folder=tmp_path)["status"] == 0
    thread.join(PATIENCE_S)
    assert isinstance(desk.end, ApprovalDenied)
    assert "not now" in str(desk.end)
    assert desk.paid == []


def test_whoever_has_the_agents_files_or_its_token_cannot_approve(tmp_path: Path, switch: RunningSwitch) -> None:
    desk = Desk(tmp_path, switch, wait_s=3)
    thread = desk.begin("run-self", 7)
    until(lambda: len(waiting(switch, "run-self")) == 1, "it waits at the switch")
    (mine,) = waiting(switch, "run-self")
    approval_id = mine["asked"]["approval_id"]

    decide(desk.guard.journal, approval_id, "approved", actor="the agent", clock=SystemClock())
    for token in ("agent", "viewer"):
        path = f"/v1/approvals/{approval_id}/decision"
        assert switch.ask("POST", path, {"decision": "approved"}, token=token).status == 403
    thread.join(PATIENCE_S)

    assert isinstance(desk.end, ApprovalPending)
    assert desk.paid == []
    desk.guard.close()


def test_a_switch_that_the_agents_environment_has_added_approves_nothing(tmp_path: Path, switch: RunningSwitch) -> None:
    with running(tmp_path, roles=ROLES) as own:
        tokens = f"{switch.url} {switch.tokens['agent']}\n{own.url} {own.tokens['agent']}"
        desk = Desk(tmp_path, switch, own.url, wait_s=3, token=tokens)
        thread = desk.begin("run-own", 8)
        until(lambda: len(waiting(switch, "run-own")) == 1, "it waits at the switch")
        (mine,) = waiting(switch, "run-own")
        asked = {"asked": mine["asked"], "asked_at": mine["asked_at"]}
        assert own.ask("POST", "/v1/approvals", asked, token="agent").status == 201
        path = f"/v1/approvals/{mine['asked']['approval_id']}/decision"
        assert own.ask("POST", path, {"decision": "approved"}, token="approver").status == 200
        thread.join(PATIENCE_S)
        assert isinstance(desk.end, ApprovalPending)
        assert desk.paid == []
        desk.guard.close()


def test_an_approval_that_comes_after_the_call_gave_up_is_found_by_the_next_one(
    tmp_path: Path, switch: RunningSwitch
) -> None:
    desk = Desk(tmp_path, switch, wait_s=0)
    with desk.guard.run("billing-agent@2.4.0", run_id="run-late"):
        with pytest.raises(ApprovalPending) as caught:
            desk.pay(9)
        until(lambda: len(waiting(switch, "run-late")) == 1, "it is asked at the switch, although nobody waits")
        assert approvals(switch, "approve", caught.value.approval_id, folder=tmp_path)["status"] == 0

        def goes_through() -> bool:
            try:
                return desk.pay(9) == "paid"
            except ApprovalPending:
                return False

        until(goes_through, "the approval is heard of")
    assert desk.paid == [9]
    desk.guard.close()
