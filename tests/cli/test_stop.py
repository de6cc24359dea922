"""Stop, resume and status in one process: orders, what lifts them, and what still covers."""

from pathlib import Path
from types import ModuleType

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acceptance.bank import until
from cli.conftest import Rescind
from rescind.cli.overlap import may_overlap
from rescind.cli.quick import VALUED, QuickStop, read_stop
from rescind.cli.stop import stop
from rescind.model.scope import Scope

pytestmark = pytest.mark.usefixtures("shop")


def test_a_stop_says_what_it_holds_that_it_is_durable_and_how_to_lift_it(rescind: Rescind) -> None:
    answer = rescind("stop", "agent:shop-agent", "--reason", "wrong prices")

    assert answer.status == 0
    assert "halted agent:shop-agent" in answer.out
    assert "durable" in answer.out
    assert "wrong prices" in answer.out
    assert "rescind resume ord_" in answer.out


def test_a_stop_answers_in_json(rescind: Rescind) -> None:
    answer = rescind("stop", "tenant:acme", "--level", "READ-ONLY", "--actor", "ana", "--json").json

    assert answer["durable"] is True
    assert {key: answer["order"][key] for key in ("scope", "level", "reason", "actor")} == {
        "scope": "tenant:acme",
        "level": "read_only",
        "reason": "",
        "actor": "ana",
    }


def test_a_receipt_where_nobody_lives_says_so_and_is_no_fault(rescind: Rescind) -> None:
    answer = rescind("stop", "everything", "--wait", "0.1")

    assert answer.status == 0
    assert "no guard lives here" in answer.out


@pytest.mark.parametrize(
    ("scope", "hint"),
    [
        ("agent:shop-agnt", "did you mean agent:shop-agent?"),
        ("agent:shop-agent@1.2.1", "did you mean agent:shop-agent@1.2.0?"),
        ("tenant:acmee", "did you mean tenant:acme?"),
        ("run:run-22", "did you mean run:run-2?"),
        ("workflow:nightly", "covered now; the order"),
    ],
)
def test_a_stop_that_covers_no_living_run_stands_and_says_so(
    rescind: Rescind, shop: ModuleType, scope: str, hint: str
) -> None:
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2", tenant="acme"):
        until(lambda: "run-2" in rescind("status").out, "the guard's report names its run")

        answer = rescind("stop", scope)

    assert answer.status == 0
    assert "no living run is covered now" in answer.err
    assert hint in answer.err


def test_a_stop_that_covers_a_living_run_has_nothing_to_note(rescind: Rescind, shop: ModuleType) -> None:
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2", tenant="acme"):
        until(lambda: "run-2" in rescind("status").out, "the guard's report names its run")

        assert rescind("stop", "agent:shop-agent", "--level", "supervised").err == ""


def test_wait_may_stand_before_the_scope(rescind: Rescind) -> None:
    answer = rescind("stop", "--wait", "everything", "--json")

    assert answer.status == 0
    assert answer.json["receipt"]["guards"] == []


def test_resume_by_scope_lifts_exactly_that_scope_and_names_what_still_covers(rescind: Rescind) -> None:
    wide = rescind("stop", "everything", "--level", "paused", "--json").json["order"]["order_id"]
    ours = [rescind("stop", "agent:a", "--json").json["order"]["order_id"] for _ in range(2)]
    rescind("stop", "agent:b")

    answer = rescind("resume", "agent:a", "--reason", "fixed", "--json").json

    assert [order["order_id"] for order in answer["lifted"]] == ours
    assert [order["order_id"] for order in answer["still_covering"]] == [wide]


def test_resume_takes_ids_and_their_beginnings_and_says_what_was_lifted_before(rescind: Rescind) -> None:
    order_id = rescind("stop", "agent:a", "--json").json["order"]["order_id"]
    assert rescind("resume", order_id[:-2], "--reason", "fixed").status == 0

    again = rescind("resume", order_id, "--reason", "fixed", "--json")

    assert again.status == 0
    assert again.json["lift_id"] is None
    assert again.json["lifted_before"] == [order_id]


def test_resume_without_words_in_the_reason_is_refused(rescind: Rescind) -> None:
    rescind("stop", "agent:a")

    answer = rescind("resume", "agent:a", "--reason", "  ")

    assert answer.status == 2
    assert "takes a reason" in answer.err
    assert len(rescind("status", "--json").json["orders"]) == 1


def test_status_shows_orders_and_every_run_of_every_living_guard(rescind: Rescind, shop: ModuleType) -> None:
    rescind("stop", "agent:shop-agent", "--level", "supervised", "--reason", "look \x1b[2J twice")
    with shop.guard.run("shop-agent@1.2.0", run_id="run-2", tenant="acme"):
        until(lambda: "run-2" in rescind("status").out, "the guard's report names its run")
        answer, shown = rescind("status", "--json"), rescind("status")

    assert answer.status == 0
    (guard,) = answer.json["guards"]
    assert guard["problem"] == ""
    assert [(run["run"]["run_id"], run["level"]) for run in guard["report"]["runs"]] == [("run-2", "supervised")]
    assert "supervised agent:shop-agent" in shown.out
    assert r"look \x1b[2J twice" in shown.out
    assert "run-2  shop-agent@1.2.0 for acme  supervised" in shown.out


# --- two readers of one command line ---


def words_of_full(argv: list[str]) -> QuickStop:
    """What the full command line reads."""
    with stop.make_context("stop", list(argv)) as context:
        given = context.params
        store = context.meta.get("rescind.store")
        urls = tuple(context.meta["rescind.switch"])
        token_file = context.meta["rescind.token_file"]
    assert given["wait_s"] is None
    return QuickStop(
        scope=given["scope"],
        level=None if given["level"] == "halted" else given["level"],
        reason=given["reason"],
        actor=given["actor"],
        store=None if store is None else str(store),
        switch=urls,
        token_file=token_file,
        as_json=given["as_json"],
    )


WORDS = st.sampled_from(
    [*VALUED, "--json", "--wait", "--help", "-x", "--", "-", "paused", "agent:a", "--level=paused", ""]
)


@given(st.lists(WORDS, max_size=7))
def test_what_the_quick_reader_reads_the_full_one_reads_alike(argv: list[str]) -> None:
    quick = read_stop(["stop", *argv])
    if quick is None:
        return  # the full one decides
    try:
        full = words_of_full(argv)
    except click.ClickException as error:
        pytest.fail(f"{argv} is refused by the full reader: {error.format_message()}")
    quick.store = None if quick.store is None else str(Path(quick.store).absolute())
    quick.level = None if quick.level == "halted" else quick.level
    assert quick == full


def test_the_quick_reader_takes_the_plain_stop_and_leaves_the_rest() -> None:
    assert read_stop(["--store", "s", "stop", "everything"]) == QuickStop(scope="everything", store="s")
    assert read_stop(["stop", "everything", "--wait"]) is None
    assert read_stop(["stop", "--help"]) is None
    assert read_stop(["status"]) is None
    assert read_stop([]) is None


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("everything", "run:r", True),
        ("agent:a", "agent:b", False),
        ("agent:a@1", "agent:a", True),
        ("agent:a@1", "agent:a@2", False),
        ("tenant:t+agent:a", "agent:a", True),
        ("tenant:t+agent:a", "tenant:u", False),
        ("tree:r", "tree:s", True),
        ("action:x", "agent:a", True),
    ],
)
def test_orders_overlap_unless_no_call_can_be_under_both(one: str, other: str, overlap: bool) -> None:
    assert may_overlap(Scope.parse(one), Scope.parse(other)) is overlap
    assert may_overlap(Scope.parse(other), Scope.parse(one)) is overlap
