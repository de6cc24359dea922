"""Approvals on the command line: who asks, what exactly would be done, and one answer to it."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from builders import spoil_file
from cli.conftest import Rescind
from rescind.config import ApprovalConfig
from rescind.errors import ApprovalDenied, ApprovalPending, EntryUnreadable


@pytest.fixture
def asks(shop: ModuleType, rescind: Rescind) -> str:
    """The id of an approval that a supervised agent has asked for: to set the price of a to 7."""
    shop.guard.approval = ApprovalConfig(wait_s=0, expire_s=3_600)
    rescind("stop", "agent:shop-agent", "--level", "supervised", "--reason", "look first", "--actor", "ops")
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2", tenant="acme"), pytest.raises(ApprovalPending) as caught:
        shop.set_price("a", 7)
    return caught.value.approval_id


def test_what_waits_is_listed_with_who_asks_what_and_why(asks: str, rescind: Rescind) -> None:
    listed = rescind("approvals", "list")

    assert re.search(rf"{asks}  price.set on shop/price/a  waiting, expires in (59|60) min", listed.out)
    assert "asks     shop-agent@1.2.0 for acme in run run-2" in listed.out
    assert "because  look first" in listed.out
    assert 'name = "a"' in listed.out
    assert "price = 7" in listed.out
    assert "rescind approvals approve ID" in listed.out
    (entry,) = rescind("approvals", "list", "--json").json["approvals"]
    assert (entry["approval_id"], entry["state"], entry["arguments"]) == (asks, "waiting", {"name": "a", "price": 7})
    assert (entry["run"]["run_id"], entry["target"]) == ("run-2", "shop/price/a")


def test_one_is_approved_by_a_named_person_and_then_the_call_goes_through(
    asks: str, rescind: Rescind, shop: ModuleType
) -> None:
    approved = rescind("approvals", "approve", asks[:14], "--actor", "olga", "--note", "seen")

    assert approved.status == 0
    assert f"{asks} approved by olga: price.set may be done once" in approved.out
    assert "nothing else waits" in approved.out
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2", tenant="acme"):
        shop.set_price("a", 7)
    assert shop.shelf["a"] == 7
    shown = rescind("approvals", "show", asks)
    assert "used by step run-2/" in shown.out
    assert "decided  approved by olga: seen" in shown.out
    log = rescind("audit", "log", "--run", asks).out
    assert "approved by olga: seen" in log
    assert "used by step run-2/" in log


def test_one_is_denied_and_the_agent_is_told_why(asks: str, rescind: Rescind, shop: ModuleType) -> None:
    answer = rescind("approvals", "deny", asks, "--note", "too cheap", "--json").json

    assert (answer["approval"]["state"], answer["approval"]["note"], answer["waiting"]) == ("denied", "too cheap", 0)
    with (
        shop.guard.run("shop-agent@1.2.0", run_id="run-2", tenant="acme"),
        pytest.raises(ApprovalDenied, match="too cheap"),
    ):
        shop.set_price("a", 7)
    assert shop.shelf["a"] == 100


def test_one_that_cannot_be_read_is_told_and_not_decided_and_the_others_are(
    asks: str, rescind: Rescind, shop: ModuleType, folder: Path
) -> None:
    with shop.guard.run("shop-agent@1.2.0", run_id="run-3", tenant="acme"), pytest.raises(ApprovalPending) as caught:
        shop.set_price("b", 8)
    rescind("approvals", "deny", asks, "--actor", "olga")
    sequence = spoil_file(next(folder.rglob("journal.db")), asks, "approval_decided")
    names = f"entry {sequence} of the journal cannot be read"

    listed = rescind("approvals", "list")
    assert names in " ".join(listed.err.split())
    assert asks not in listed.out
    assert caught.value.approval_id in listed.out
    assert [each["approval_id"] for each in rescind("approvals", "list", "--json").json["approvals"]] == [
        caught.value.approval_id
    ]
    refused = rescind("approvals", "approve", asks)
    assert (refused.status, names in refused.err) == (2, True)
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2", tenant="acme"), pytest.raises(EntryUnreadable):
        shop.set_price("a", 7)
    assert shop.shelf["a"] == 100
    assert rescind("approvals", "approve", caught.value.approval_id, "--actor", "olga").status == 0


def test_a_second_decision_is_refused_and_says_who_was_first(asks: str, rescind: Rescind) -> None:
    rescind("approvals", "approve", asks, "--actor", "olga")

    again = rescind("approvals", "deny", asks)

    assert again.status == 2
    assert "was approved by olga already" in again.err


def test_all_shows_what_was_decided_too(asks: str, rescind: Rescind) -> None:
    rescind("approvals", "deny", asks)
    assert "nothing waits" in rescind("approvals", "list").out
    assert asks in rescind("approvals", "list", "--all").out


def test_an_unknown_id_is_met_with_the_nearest(asks: str, rescind: Rescind) -> None:
    answer = rescind("approvals", "approve", asks[:-3] + "xyz")
    assert answer.status == 2
    assert f"did you mean '{asks}'" in answer.err


def test_hostile_arguments_cannot_repaint_the_terminal_or_hide_what_they_are(
    shop: ModuleType, rescind: Rescind
) -> None:
    shop.guard.approval = ApprovalConfig(wait_s=0)
    rescind("stop", "everything", "--level", "supervised", "--reason", "look \x1b[2J first")
    hostile = "a\x1b[1A\x1b[2K\n  because  approved by the board\u202e"
    with shop.guard.run("shop-agent@1.2.0"), pytest.raises(ApprovalPending) as caught:
        shop.set_price(hostile, 7)

    for shown in (rescind("approvals", "list"), rescind("approvals", "show", caught.value.approval_id)):
        assert "\x1b" not in shown.out
        assert "\u202e" not in shown.out
        assert sum(line.startswith("  because") for line in shown.out.splitlines()) == 1


def test_a_redacted_argument_is_said_to_be_unseen(folder: Path, rescind: Rescind) -> None:
    import rescind as package

    guard = package.Guard.at(folder / "store", approval=ApprovalConfig(wait_s=0))
    guard.approval_reason = lambda _: "cards need a look"
    charge = guard.write("card.charge", irreversible="a test", redact=["card"])(_charge)
    with guard.run("till@1"), pytest.raises(ApprovalPending):
        charge("4111-1111-1111-1111", 5)
    guard.close()

    listed = rescind("approvals", "list", "--store", str(folder / "store"))

    assert "unseen   card: kept out of the journal, so not covered" in listed.out
    assert "because  cards need a look" in listed.out
    assert "4111" not in listed.out


def _charge(card: str, cents: int) -> None: ...


def test_a_store_without_a_journal_says_so(folder: Path, rescind: Rescind) -> None:
    answer = rescind("approvals", "list")
    assert answer.status == 2
    assert "no store in it" in answer.err or "does not exist" in answer.err


def test_what_waits_does_not_stand_in_the_way_of_an_undo(asks: str, rescind: Rescind, shop: ModuleType) -> None:
    rescind("stop", "agent:shop-agent", "--reason", "undo it")

    applied = rescind("undo", "--tenant", "acme", "--app", "desk", "--apply")

    assert "may still write" not in applied.err, asks
    assert shop.shelf["a"] == 1
