"""`rescind undo --force`: what it takes, whom it asks, and what it overwrites."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cli.conftest import Rescind
from rescind.journal.port import Query
from rescind.model.entry import CompensationIntended, Overwrites
from switch.client.scripted import Asked, answer, saying, serving

UNDO = ("undo", "--run", "run-1", "--app", "desk")
FORCED = (*UNDO, "--force", "--reason", "the list is ours")


@pytest.fixture
def desk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An agent has set a price, and a colleague another one."""
    monkeypatch.setenv("NO_COLOR", "1")
    (folder / "desk.py").write_text(
        """
import rescind

guard = rescind.Guard.at("store")
shelf = {"tea": 1}

@guard.write("price.set", target=lambda name: ("shop", "price", name), on_conflict="force")
def set_price(name: str, price: int) -> None:
    shelf[name] = price

@set_price.snapshot
def _(name):
    return shelf.get(name)

@set_price.restore
def _(step):
    shelf[step.arguments["name"]] = step.before
"""
    )
    monkeypatch.syspath_prepend(str(folder))
    module = importlib.import_module("desk")
    with module.guard.run("clerk@1", run_id="run-1"):
        module.set_price("tea", 5)
    module.shelf["tea"] = 9
    return module


def overwritten(desk: ModuleType) -> list[Overwrites]:
    events = [entry.event for entry in desk.guard.journal.entries(Query(run_id="run-1"), limit=100)]
    found = [event.overwrites for event in events if isinstance(event, CompensationIntended)]
    return [each for each in found if isinstance(each, Overwrites)]


def test_without_force_the_plan_says_how_it_could_be_done(rescind: Rescind, desk: ModuleType) -> None:
    shown = rescind(*UNDO)
    assert "1 for a person" in shown.out
    assert "--force" in shown.out


def test_force_takes_a_reason(rescind: Rescind, desk: ModuleType) -> None:
    refused = rescind(*UNDO, "--force", "--apply")
    assert refused.status == 2
    assert "takes a reason; add --reason" in refused.err


def test_force_is_left_to_workers_only_if_some_live(rescind: Rescind, desk: ModuleType) -> None:
    refused = rescind(*FORCED, "--apply", "--workers")
    assert (refused.status, "no worker lives here" in refused.err) == (2, True)
    assert desk.shelf == {"tea": 9}


def test_a_forced_plan_shows_what_it_overwrites_and_the_command_that_does_it(
    rescind: Rescind, desk: ModuleType
) -> None:
    shown = rescind(*FORCED)
    assert "overwrites a later change" in shown.out
    assert "--force --reason 'the list is ours' --app desk --store " in shown.out
    assert desk.shelf == {"tea": 9}

    applied = rescind(*FORCED, "--apply", "--actor", "ann", "--json")
    assert applied.json["counts"] == {"restored": 1}
    assert desk.shelf == {"tea": 1}
    (only,) = overwritten(desk)
    assert (only.policy, only.actor, only.reason) == ("force", "ann", "the list is ours")
    assert "forced over a later change by ann: the list is ours" in rescind("audit", "log", "--store", "store").out


def taking_it_for(name: str, role: str, *, may_lift: bool) -> Any:
    def say(asked: Asked) -> bytes:
        assert asked[:2] == ("GET", "/v1/caller")
        return answer(200, {"name": name, "role": role, "may_lift": may_lift})

    return saying(say)


@pytest.mark.parametrize(("role", "may_lift"), [("operator", False), ("", False), ("agent", False)])
def test_where_a_switch_is_configured_the_token_must_be_an_approvers(
    rescind: Rescind, desk: ModuleType, monkeypatch: pytest.MonkeyPatch, role: str, *, may_lift: bool
) -> None:
    with serving(taking_it_for("bob", role, may_lift=may_lift)) as switch:
        monkeypatch.setenv("RESCIND_URL", switch.url)
        refused = rescind(*FORCED, "--apply")
    assert (refused.status, desk.shelf) == (2, {"tea": 9})
    assert "--force takes an approver's token" in refused.err
    assert not overwritten(desk)


def test_an_approver_is_named_by_the_switch_and_not_by_the_command_line(
    rescind: Rescind, desk: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(taking_it_for("alice", "approver", may_lift=True)) as switch:
        monkeypatch.setenv("RESCIND_URL", switch.url)
        applied = rescind(*FORCED, "--apply", "--actor", "somebody")
    assert (applied.status, desk.shelf) == (0, {"tea": 1})
    assert [each.actor for each in overwritten(desk)] == ["alice"]


def test_a_switch_that_does_not_answer_lets_nothing_be_forced(
    rescind: Rescind, desk: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESCIND_URL", "http://127.0.0.1:9")
    refused = rescind(*FORCED, "--apply")
    assert (refused.status, desk.shelf) == (1, {"tea": 9})
    assert "no switch says whose token this is" in refused.err
