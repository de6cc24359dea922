"""A later change overwritten over HTTP: for an approver alone, as it was shown, and nothing else (laws CF2 and PA3)."""

import sys
from typing import Any

import pytest

from plane.served import DEADLINE_S, Served, until
from rescind.journal.pages import every_entry
from rescind.journal.port import Query
from rescind.model.entry import CompensationIntended, Overwrites, PlanSubmitted

TOOLS = """
import os, pathlib, time
import rescind

guard = rescind.Guard.at(os.environ["RESCIND_STORE"])
shelf = pathlib.Path("shelf")
closed = pathlib.Path("closed")  # as long as it is there, no price goes back

@guard.write("price.set", target=lambda name: ("shop", "price", name), on_conflict="force")
def set_price(name: str, price: str) -> None:
    (shelf / name).write_text(price)

@set_price.snapshot
def _(name):
    return (shelf / name).read_text()

@set_price.restore(parallel=True)
def _(step):
    pathlib.Path("asked").touch()
    while closed.exists():
        time.sleep(0.01)
    (shelf / step.arguments["name"]).write_text(step.before)
"""

AGENT = """
from shelf_tools import guard, set_price

with guard.run(agent="pricing-agent@1.0.0", run_id="prices", tenant="acme"):
    set_price("tea", "5")
    set_price("coffee", "7")
"""

FORCED: dict[str, Any] = {"run_ids": ["prices"], "force": True, "reason": "the list is ours", "parallel": 1}


@pytest.fixture
def shop(served: Served) -> Served:
    """An agent has set two prices; then a colleague has set one of them."""
    (served.folder / "shelf").mkdir()
    (served.folder / "shelf_tools.py").write_text(TOOLS)
    (served.folder / "pricing.py").write_text(AGENT)
    set_price(served, "tea", "1")
    set_price(served, "coffee", "1")
    agent = served._programs.start(served.folder, sys.executable, "pricing.py", RESCIND_STORE=served.store)
    out, err = agent.communicate(timeout=DEADLINE_S)
    assert agent.returncode == 0, (out, err)
    set_price(served, "tea", "9")
    served.start_worker("shelf_tools")
    return served


def set_price(served: Served, name: str, price: str) -> None:
    (served.folder / "shelf" / name).write_text(price)


def price(served: Served, name: str) -> str:
    return (served.folder / "shelf" / name).read_text()


def ask(served: Served) -> Any:
    return served.post("/v1/undos?wait_s=40", FORCED, role="approver")


def ended(served: Served, digest: str) -> Any:
    found = until(lambda: (found := served.get(f"/v1/undos/{digest}"))["ended"] and found, "it has ended")
    return found["undo"]


def events(served: Served, run_id: str, kind: type[Any]) -> list[Any]:
    with served.journal() as journal:
        entries = list(every_entry(journal, Query(run_id=run_id)))
    return [entry.event for entry in entries if isinstance(entry.event, kind)]


def overwritten(served: Served) -> list[Overwrites]:
    found = [event.overwrites for event in events(served, "prices", CompensationIntended)]
    return [each for each in found if isinstance(each, Overwrites)]


@pytest.mark.slow
def test_an_approver_has_a_later_change_overwritten_exactly_as_it_was_shown(shop: Served) -> None:
    plain = shop.post("/v1/undos?wait_s=40", FORCED | {"force": False})
    assert (plain["facts"]["forces"], plain["facts"]["counts"]) == (0, {"restore": 1, "review": 1})

    shown = ask(shop)
    assert (shown["state"], shown["facts"]["forces"], shown["asked_by"]) == ("shown", 1, "approver-name")
    assert shown["facts"]["counts"] == {"restore": 2}
    forced = [item["decision"] for item in shown["items"] if item["decision"].get("policy") == "force"]
    assert [item["target"]["id"] for item in shown["items"] if item["decision"] in forced] == ["tea"]

    apply = f"/v1/undos/{shown['digest']}/apply?wait_s=40"
    refused = shop.post(apply, {"reason": "go"}, status=403)
    assert "it takes approver" in refused["detail"]
    shop.post(apply, {"reason": " "}, role="approver", status=400)
    assert not events(shop, f"undo_{shown['digest'][:16]}", PlanSubmitted)

    set_price(shop, "tea", "10")  # once more, after it was shown
    changed = shop.post(apply, {"reason": "go"}, role="approver", status=409)
    assert "outdated: the plan has changed since it was shown" in changed["detail"]
    assert (price(shop, "tea"), price(shop, "coffee")) == ("10", "7")

    again = ask(shop)
    assert again["digest"] != shown["digest"]
    applied = shop.post(f"/v1/undos/{again['digest']}/apply?wait_s=40", {"reason": "ours"}, role="approver")
    assert applied["state"] == "submitted"
    undo = ended(shop, again["digest"])
    assert (undo["state"], undo["by_disposition"]) == ("finished", {"restored": 2})
    assert (undo["actor"], undo["reason"]) == ("approver-name", "ours")
    assert (price(shop, "tea"), price(shop, "coffee")) == ("1", "1")
    (over,) = overwritten(shop)
    (as_shown,) = [item["decision"] for item in again["items"] if item["decision"].get("policy") == "force"]
    assert over.version == as_shown["expects"]
    assert (over.actor, over.reason) == ("approver-name", "ours")


@pytest.mark.slow
def test_what_was_changed_once_more_while_it_was_applied_is_left_to_a_person(shop: Served) -> None:
    shown = ask(shop)
    (shop.folder / "closed").touch()
    applied = shop.post(f"/v1/undos/{shown['digest']}/apply?wait_s=40", {"reason": "ours"}, role="approver")
    assert applied["state"] == "submitted"
    until((shop.folder / "asked").exists, "the price that was set last is being put back")
    set_price(shop, "tea", "11")
    (shop.folder / "closed").unlink()

    undo = ended(shop, shown["digest"])
    assert undo["by_disposition"] == {"restored": 1, "review": 1}
    assert (price(shop, "tea"), price(shop, "coffee")) == ("11", "1")
    assert overwritten(shop) == []
    (task,) = shop.get("/v1/reviews")["tasks"]
    assert task["task"]["reason"] == "conflict"
