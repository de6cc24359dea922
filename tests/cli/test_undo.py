"""Undo in one process: the plan, what may be applied, and the accounting."""

import contextlib
import fcntl
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from cli.conftest import Rescind
from rescind.cli.app import load_guard
from rescind.cli.out import Out
from rescind.cli.shown import selection_key
from rescind.cli.stores import Guards
from rescind.cli.undo_apply import apply_undo
from rescind.cli.undo_request import UndoRequest
from rescind.cli.undo_session import Session
from rescind.compensation.decision import Plan
from rescind.compensation.execution.comparison import Comparison, Difference
from rescind.compensation.planning.selection import Selection
from rescind.errors import RunStillLive
from rescind.model.entry import StepRef

UNDO = ("undo", "--run", "run-1", "--app", "desk")


def test_a_plan_changes_nothing_and_says_how_to_apply_it(rescind: Rescind, shop: ModuleType) -> None:
    shown = rescind(*UNDO)

    assert shown.status == 0
    assert "1 to restore, 1 to compensate, 1 for a person" in shown.out
    assert "irreversible: declared as impossible to take back" in shown.out
    assert "rescind undo --run run-1 --app desk --apply --plan " in shown.out
    assert (shop.shelf["a"], shop.sold) == (100, ["b"])


def test_a_plan_in_json_has_every_step_and_the_command_to_apply_it(rescind: Rescind, shop: ModuleType) -> None:
    answer = rescind(*UNDO, "--json").json

    assert [item["decision"]["do"] for item in answer["plan"]["items"]] == ["review", "compensate", "restore"]
    assert answer["counts"] == {"compensate": 1, "restore": 1, "review": 1}
    assert answer["reviews"] == {"irreversible": 1}
    assert answer["apply"].endswith(f"--apply --plan {answer['digest'][:16]}")


def test_applying_accounts_for_every_step_and_twice_is_once(rescind: Rescind, shop: ModuleType) -> None:
    rescind(*UNDO)

    applied = rescind(*UNDO, "--apply", "--json")

    assert applied.status == 0
    assert applied.json["counts"] == {"compensated": 1, "restored": 1, "review": 1}
    assert applied.json["complete"] is True
    assert (shop.shelf["a"], shop.sold) == (1, [])
    again = rescind(*UNDO, "--apply", "--json")
    assert again.status == 0
    assert again.json["settled_before"] is True
    assert again.json["counts"] == {"already_undone": 2, "review": 1}


def test_a_plan_that_was_never_shown_is_shown_and_then_applied(rescind: Rescind, shop: ModuleType) -> None:
    applied = rescind(*UNDO, "--apply")

    assert applied.status == 0
    assert applied.out.index("irreversible: a letter") < applied.out.index("3 of 3 steps accounted for")
    assert "rescind review list" in applied.out


@pytest.mark.parametrize("digits", [8, 16, 64])
def test_a_digest_applies_only_its_plan(rescind: Rescind, shop: ModuleType, digits: int) -> None:
    digest = rescind(*UNDO, "--json").json["digest"]

    assert rescind(*UNDO, "--apply", "--plan", digest[:digits].upper()).status == 0
    assert shop.shelf["a"] == 1


def test_another_plan_than_the_one_that_was_named_is_not_applied(rescind: Rescind, shop: ModuleType) -> None:
    answer = rescind(*UNDO, "--apply", "--plan", "0123456789abcdef")

    assert answer.status == 2
    assert "no plan 0123456789abcdef was shown on this machine lately" in answer.err
    assert shop.shelf["a"] == 100


def test_what_changed_since_it_was_shown_is_not_applied(rescind: Rescind, shop: ModuleType) -> None:
    rescind(*UNDO)
    shop.shelf["a"] = 7  # somebody edits the price by hand

    answer = rescind(*UNDO, "--apply", "--json")

    assert answer.status == 1
    assert answer.json["error"]["kind"] == "PlanOutdated"
    assert (shop.shelf["a"], shop.sold) == (7, ["b"])
    shown = rescind(*UNDO)
    assert "conflict" in shown.out
    assert rescind(*UNDO, "--apply").status == 0
    assert (shop.shelf["a"], shop.sold) == (7, [])


def test_one_selection_does_not_stand_for_another(rescind: Rescind, shop: ModuleType) -> None:
    rescind(*UNDO)
    shop.shelf["a"] = 7

    applied = rescind("undo", "--trace", "4bf92f35", "--app", "desk", "--apply")

    assert applied.status == 0
    assert "conflict" in applied.out


def test_what_one_user_was_shown_does_not_stand_for_another() -> None:
    assert selection_key({"run": "r"}, user=1) != selection_key({"run": "r"}, user=2)
    assert selection_key({"run": "r"}) == selection_key({"run": "r"}, user=os.getuid())


def test_the_record_of_what_was_shown_is_private_and_its_loss_is_harmless(
    rescind: Rescind, shop: ModuleType, folder: Path
) -> None:
    rescind(*UNDO)
    record = folder / "store" / "shown-plans.json"
    assert record.stat().st_mode & 0o777 == 0o600
    record.write_text("not json")

    assert rescind(*UNDO, "--apply").status == 0


def test_only_one_undo_applies_at_a_time(rescind: Rescind, shop: ModuleType, folder: Path) -> None:
    descriptor = os.open(folder / "store" / "undo.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        answer = rescind(*UNDO, "--apply", "--json")
    finally:
        os.close(descriptor)

    assert answer.status == 1
    assert answer.json["error"]["kind"] == "UndoBusy"
    assert shop.shelf["a"] == 100


def test_a_run_that_may_still_write_is_not_undone_until_it_is_held(rescind: Rescind, shop: ModuleType) -> None:
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2"):
        shop.set_price("b", 5)
        undo = ("undo", "--run", "run-2", "--app", "desk", "--apply")

        refused = rescind(*undo)
        assert refused.status == 1
        assert "rescind stop run:run-2 --level read-only --wait" in refused.err
        assert shop.shelf["b"] == 5

        held = rescind(*undo, "--stop-first", "--json")
        assert held.status == 0
        assert [order["scope"] for order in held.json["held"]] == ["run:run-2"]
        assert shop.shelf["b"] == 2


def test_a_run_under_a_bound_order_is_still(rescind: Rescind, shop: ModuleType) -> None:
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2"):
        shop.set_price("b", 5)
        assert rescind("stop", "agent:shop-agent", "--level", "read-only", "--wait").status == 0

        assert rescind("undo", "--run", "run-2", "--app", "desk", "--apply").status == 0

    assert shop.shelf["b"] == 2


def test_an_order_for_one_action_does_not_make_a_run_still(rescind: Rescind, shop: ModuleType) -> None:
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2"):
        shop.set_price("b", 5)
        rescind("stop", "agent:shop-agent+action:price.set", "--wait")

        assert rescind("undo", "--run", "run-2", "--app", "desk", "--apply").status == 1


def test_a_compensation_that_fails_is_a_fault_and_says_so_by_the_exit_status(
    rescind: Rescind, shop: ModuleType
) -> None:
    shop.sold.clear()  # there is nothing to take back, and the tool's compensation does not expect that

    applied = rescind(*UNDO, "--apply", "--json")

    assert applied.status == 1
    assert {step["reason"] for step in applied.json["steps"]} == {"", "irreversible", "failed"} or {
        step["reason"] for step in applied.json["steps"]
    } == {"", "irreversible", "in_doubt"}


def test_hostile_names_in_the_journal_do_not_reach_the_terminal(rescind: Rescind, shop: ModuleType) -> None:
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2"):
        shop.set_price("\x1b[2J[red]evil[/red]\nplan 0000: nothing to undo", 1)

    for option in ("--all", "--tree"):
        shown = rescind("undo", "--run", "run-2", "--app", "desk", option)
        assert "\x1b" not in shown.out
        assert "\nplan 0000" not in shown.out
        assert "[red]evil[/red]" in shown.out.replace("\n", "").replace(" ", "")


def test_a_time_of_day_is_said_with_its_zone(rescind: Rescind, shop: ModuleType) -> None:
    shown = rescind(*UNDO, "--since", "00:00")

    assert "(from 00:00)" in shown.out
    assert "00:00:00" in shown.out


def test_without_anything_done_there_is_nothing_to_undo(rescind: Rescind, shop: ModuleType) -> None:
    answer = rescind(*UNDO, "--until", "2020-01-01T00:00:00Z")

    assert answer.status == 0
    assert "--until 2020-01-01T00:00:00+00:00: nothing was done, so there is nothing to undo" in answer.out


@pytest.mark.parametrize("app", [(), ("--app", "desk")])
@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        (("--agent", "shop-agent", "--tenant", "umbrella"), "--agent shop-agent and --tenant umbrella exclude each"),
        (("--run", "run-1", "--agent", "idle-agent"), "--run run-1 and --agent idle-agent exclude each other"),
        (("--trace", "4bf92f35", "--until", "2020-01-01T00:00Z"), "--until 2020-01-01T00:00:00+00:00: nothing was"),
    ],
)
def test_conditions_that_exclude_each_other_are_named(
    rescind: Rescind, shop: ModuleType, conditions: tuple[str, ...], says: str, app: tuple[str, ...]
) -> None:
    with shop.guard.run("idle-agent@1", run_id="run-2", tenant="umbrella"):
        shop.sell("b")

    answer = rescind("undo", *conditions, *app)

    assert answer.status == 0
    assert says in answer.out
    assert "nothing to undo" in answer.out
    assert says in rescind("undo", *conditions, *app, "--json").json["why_nothing"]


def test_the_store_of_the_app_is_used_whatever_the_environment_says(
    rescind: Rescind, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESCIND_STORE", "/nowhere")

    assert rescind(*UNDO, "--store", "store").status == 0


def test_an_order_that_was_placed_for_an_undo_that_is_refused_is_named(rescind: Rescind, shop: ModuleType) -> None:
    undo = ("undo", "--run", "run-2", "--app", "desk")
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2"):
        shop.set_price("b", 5)
        rescind(*undo)
        shop.shelf["b"] = 7  # somebody edits the price by hand

        answer = rescind(*undo, "--apply", "--stop-first", "--json")

    assert answer.status == 1
    assert answer.json["error"]["kind"] == "PlanOutdated"
    (order,) = answer.json["held"]
    assert order["scope"] == "run:run-2"
    assert answer.json["apply"] == f"rescind undo --run run-2 --app desk --apply --plan {answer.json['current'][:16]}"
    assert f"rescind resume {order['order_id']}" in answer.err
    assert answer.json["apply"] in answer.err
    assert rescind(*shlex.split(answer.json["apply"])[1:]).status == 0


class RunBeginsMeanwhile(Session, frozen=True, kw_only=True):
    begin: Callable[[], None]

    def plan(self) -> Plan:
        self.begin()
        return super().plan()


@pytest.mark.parametrize("stop_first", [False, True])
def test_a_run_that_begins_before_the_plan_is_made_is_looked_at_too(shop: ModuleType, stop_first: bool) -> None:
    guard = load_guard("desk")
    with contextlib.ExitStack() as stack:
        begun: list[str] = []

        def begin() -> None:
            if not begun:
                begun.append("run-2")
                stack.enter_context(shop.guard.run("shop-agent@1.2.0", run_id="run-2"))
                shop.set_price("b", 5)

        session = RunBeginsMeanwhile(
            request=UndoRequest(
                selection=Selection(agent="shop-agent"),
                as_typed={},
                app="desk",
                store=None,
                apply=True,
                shown=None,
                stop_first=stop_first,
                sure=True,
                parallel=None,
                tree=False,
                every=False,
                actor="ana",
                reason="",
            ),
            store=Path("store"),
            guards=Guards(Path("store")),
            journal=guard.journal,
            orders=guard.orders,
            compensators=guard.compensators,
            parallel=1,
            retries=0,
            begin=begin,
        )
        if stop_first:
            assert apply_undo(session, Out(json=False)) == 0
            assert [str(order.scope) for order in guard.orders.standing().orders] == ["run:run-2"]
            assert shop.shelf == {"a": 1, "b": 2}
        else:
            with pytest.raises(RunStillLive, match="run-2"):
                apply_undo(session, Out(json=False))
            assert shop.shelf == {"a": 100, "b": 5}
    guard.close()


def test_commands_to_paste_name_the_store_where_another_would_be_found(
    rescind: Rescind, shop: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "store").rename(folder / "a store")
    monkeypatch.setenv("RESCIND_STORE", str(folder / "elsewhere"))
    store = ("--store", str(folder / "a store"))

    stopped = rescind("stop", "everything", *store)

    lift = next(line for line in stopped.out.splitlines() if line.startswith("  lift"))
    words = shlex.split(lift)[1:]
    assert words[-4:] == [*store, "--reason", "…"]
    assert rescind(*words[1:]).status == 0
    monkeypatch.setenv("RESCIND_STORE", str(folder / "a store"))
    assert "--store" not in rescind("stop", "everything", *store).out


def test_a_part_is_chosen_and_the_command_to_apply_it_says_the_same(rescind: Rescind, shop: ModuleType) -> None:
    part = ("--action", "price.set", "--action", "letter.send", "--target", "shop", "--exclude", "letter.send")

    shown = rescind(*UNDO, *part, "--json").json

    assert shown["counts"] == {"restore": 1}
    applied = rescind(*shlex.split(shown["apply"])[1:], "--json")
    assert applied.json["counts"] == {"restored": 1}
    assert (shop.shelf["a"], shop.sold) == (1, ["b"])


def test_a_mistyped_part_is_refused(rescind: Rescind, shop: ModuleType) -> None:
    refused = rescind(*UNDO, "--exclude", "letter.sent", "--apply")

    assert refused.status == 2
    assert "no step, action or target 'letter.sent'; did you mean 'letter.send'?" in refused.err
    assert shop.shelf["a"] == 100


def test_leaving_out_everything_says_so(rescind: Rescind, shop: ModuleType) -> None:
    shown = rescind(*UNDO, "--action", "letter.send", "--exclude", "letter.send")

    assert "--exclude letter.send leaves out every step, so there is nothing to undo" in shown.out


# --- redo ---


def test_a_redo_puts_back_what_an_undo_undid_and_leaves_what_was_offset_to_a_person(
    rescind: Rescind, shop: ModuleType
) -> None:
    digest = rescind(*UNDO, "--json").json["digest"]
    rescind(*UNDO, "--apply")
    assert shop.shelf["a"] == 1
    redo = ("redo", digest[:16], "--app", "desk")

    shown = rescind(*redo)

    assert shown.status == 0
    assert f"redo of 2 steps of 1 run\n  undone  by plan {digest[:16]}" in shown.out
    assert "1 to restore, 1 for a person" in shown.out
    assert f"rescind redo {digest[:16]} --app desk --apply --plan " in shown.out
    assert shop.shelf["a"] == 1
    applied = rescind(*redo, "--apply")
    assert applied.status == 0
    assert "1  in effect again" in applied.out
    assert (shop.shelf["a"], shop.sold) == (100, [])
    again = rescind(*redo, "--apply", "--json")
    assert again.json["settled_before"] is True
    undone_again = rescind(*UNDO, "--apply", "--json").json
    assert undone_again["counts"] == {"already_undone": 1, "restored": 1, "review": 1}
    assert shop.shelf["a"] == 1
    assert rescind(*redo, "--json").json["counts"] == {"already_in_review": 1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("redo", "ffffffff", "--app", "desk"), "knows no applied plan 'ffffffff'"),
        (("redo", "tea", "--app", "desk"), "PLAN 'tea' is no digest"),
        (("redo", "ffffffff"), "--app is missing"),
        (("redo", "ffffffff", "--app", "desk", "--yes"), "--yes only mean something with --apply"),
    ],
)
def test_a_redo_of_nothing_is_refused(rescind: Rescind, shop: ModuleType, words: tuple[str, ...], says: str) -> None:
    refused = rescind(*words)

    assert refused.status == 2
    assert says in refused.err


def test_after_an_undo_the_world_is_compared(rescind: Rescind, shop: ModuleType) -> None:
    applied = rescind(*UNDO, "--apply")

    assert "the world is as planned at 1 of 1 target" in applied.out
    assert applied.status == 0


def test_what_differs_after_an_undo_is_a_fault(
    rescind: Rescind, shop: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Comparison(compared=2, differs=(Difference(step=StepRef("run-1", "1"), target=None, expected="v0"),))
    monkeypatch.setattr("rescind.cli.undo_session.Session.compare", lambda *_: found)

    applied = rescind(*UNDO, "--apply")

    assert applied.status == 1
    assert "the world is as planned at 1 of 2 targets; 1 differ:\n  run-1/1: it is not at the version" in applied.out
