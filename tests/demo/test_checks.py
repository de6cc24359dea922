"""Each invariant is one that can fail: the kept books are tampered with, and the right check notices."""

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rescind.demo.checks import check_books, check_handover, check_repetition
from rescind.demo.damage import Damage
from rescind.demo.mailroom import ROGUE
from rescind.demo.opening import Opening
from rescind.demo.truth import Truth
from rescind.demo.verdict import Verdict
from rescind.demo.world import World

ONE_CREDIT = "(select credit_key from credits limit 1)"

TAMPERING = {
    "update subscriptions set status = 'active' where customer_id = (select customer_id from credits where "
    "customer_id not in (select customer_id from subscriptions where status = 'paused') limit 1)": [
        "subscriptions_restored"
    ],
    "update subscriptions set status = 'cancelled', ends_on = null where status = 'paused'": ["edit_by_a_person_kept"],
    f"update credits set amount_cents = amount_cents + 1 where credit_key = {ONE_CREDIT}": [
        "nobody_owes_too_much",
        "ledger_agrees",
        "credited_once",
    ],
    "update postings set amount_cents = amount_cents + 1 where account = 'revenue' and posting_id = "
    "(select max(posting_id) from postings where account = 'revenue')": ["ledger_balances"],
    "insert into credits select 'twice', charge_key, tenant, customer_id, amount_cents, reason from credits limit 1": [
        "nobody_owes_too_much",
        "ledger_agrees",
        "credited_once",
        "no_other_credit",
    ],
    "delete from charges where charge_key = (select charge_key from charges where charge_key like 'aug/%' limit 1)": [
        "nobody_owes_too_much",
        "ledger_agrees",
        "nothing_deleted",
    ],
    "update subscriptions set plan = 'starter', status = 'paused' where customer_id = 'globex-0007'": ["globex_exact"],
    "delete from reports where number = 180": ["reports_complete"],
    "update reports set customers = 7 where number = 3": ["reports_complete"],
}


@pytest.fixture
def folder(kept: Any, tmp_path: Path) -> Path:
    for name in ("billing.db", "outbox.jsonl"):
        shutil.copy(kept.folder / name, tmp_path)
    return tmp_path


@pytest.fixture
def failing(folder: Path, truth: Truth, opening: Opening, damage: Damage) -> Callable[[], list[str]]:
    def names() -> list[str]:
        checks = check_books(World(folder), truth, opening, damage, rogue=ROGUE)
        return [check.name for check in checks if not check.holds]

    return names


def test_the_kept_books_hold(failing: Callable[[], list[str]]) -> None:
    assert failing() == []


@pytest.mark.parametrize(
    ("statement", "names"), TAMPERING.items(), ids=[", ".join(names) for names in TAMPERING.values()]
)
def test_tampering_is_noticed(statement: str, names: list[str], folder: Path, failing: Callable[[], list[str]]) -> None:
    with contextlib.closing(sqlite3.connect(folder / "billing.db")) as books, books:
        assert books.execute(statement).rowcount == 1
    assert failing() == names


def test_a_mail_too_many_or_too_few_is_noticed(folder: Path, failing: Callable[[], list[str]]) -> None:
    outbox = folder / "outbox.jsonl"
    lines = outbox.read_text().splitlines(keepends=True)
    for wrong in (lines[1:], [*lines, lines[0]], [*lines[1:], lines[1]]):
        outbox.write_text("".join(wrong))
        assert failing() == ["outbox_as_sent"]


def test_writes_since_a_moment_are_counted_in_the_world(folder: Path) -> None:
    world, moment_s = World(folder), 1e12
    assert world.effects_since(ROGUE, moment_s) == 0
    with contextlib.closing(sqlite3.connect(folder / "billing.db")) as books, books:
        books.execute("update charges set began_s = 2e12 where charge_key = (select charge_key from credits limit 1)")
        books.execute(
            "update subscriptions set began_s = 2e12, changed_by = ? where customer_id in ('acme-0001', 'acme-0002')",
            (ROGUE,),
        )
    with (folder / "outbox.jsonl").open("a") as outbox:
        outbox.write(json.dumps({"to": "x", "sent_by": ROGUE, "began_s": 2e12}) + "\n")
        outbox.write(json.dumps({"to": "x", "sent_by": "another-agent@1", "began_s": 2e12}) + "\n")
    assert world.effects_since(ROGUE, moment_s) == 4


def names_failing(folder: Path, **facts: int) -> list[str]:
    checks = check_repetition(World(folder), **{"under_way": 0, "without_end": 0, "unreported": 99} | facts)
    return [check.name for check in checks if not check.holds]


def test_a_credit_too_many_is_noticed_however_it_came_about(folder: Path) -> None:
    assert names_failing(folder) == []
    with contextlib.closing(sqlite3.connect(folder / "billing.db")) as books, books:
        books.execute(
            "insert into credits select 'twice', charge_key, tenant, customer_id, amount_cents, reason from credits "
            "limit 1"
        )
    assert names_failing(folder) == ["nothing_ran_twice"]
    with contextlib.closing(sqlite3.connect(folder / "billing.db")) as books, books:
        books.execute("delete from credits where credit_key = 'twice'")
    assert names_failing(folder) == []
    with contextlib.closing(sqlite3.connect(folder / "billing.db")) as books, books:
        books.execute("update credit_requests set booked = 1 where booked = 0")
    assert names_failing(folder) == ["nothing_ran_twice"]


def test_only_credits_without_an_answer_may_be_asked_for_again(kept: Any, folder: Path) -> None:
    unreported = json.loads(kept.stdout)["workers"]["unreported_at_kill"]
    assert names_failing(folder, unreported=unreported) == []
    assert names_failing(folder, unreported=unreported - 1) == ["nothing_ran_twice"]


def test_what_is_left_in_the_middle_is_noticed(folder: Path) -> None:
    assert names_failing(folder, under_way=1) == names_failing(folder, without_end=1) == ["nothing_pending"]


def test_a_kill_that_did_not_hit_is_no_success(kept: Any) -> None:
    hit = msgspec.json.decode(kept.stdout, type=Verdict).workers
    assert hit is not None

    def failing(**change: object) -> list[str]:
        checks = check_handover(msgspec.structs.replace(hit, **change))
        return [check.name for check in checks if not check.holds]

    assert failing() == []
    assert failing(killed=None, taken_over_ms=None) == ["killed_in_mid_undo", "taken_over"]
    assert failing(left_at_kill=0) == failing(undone_by_killed=0) == ["killed_in_mid_undo"]
    assert failing(taken_over_ms=None) == ["taken_over"]


def test_a_verdict_holds_only_if_all_of_it_does(kept: Any) -> None:
    good = msgspec.json.decode(kept.stdout, type=Verdict)
    assert good.holds
    worse: list[dict[str, Any]] = [
        {"writes_after_stop": 1},
        {"bystander_writes_lost": 1},
        {"chain_intact": False},
        {"invariants": good.invariants | {"ledger_agrees": False}},
        {"stop": msgspec.structs.replace(good.stop, unknown=1)},
        {"stop": msgspec.structs.replace(good.stop, acknowledged=0)},
    ]
    for change in worse:
        assert not msgspec.structs.replace(good, **change).holds
