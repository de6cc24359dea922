"""The morning and the truth: seeded, and computed without rescind."""

import ast
import contextlib
import sqlite3
from collections import Counter
from pathlib import Path

from rescind.demo import truth as truth_module
from rescind.demo.mailroom import read_message_2_3_9, read_message_2_4_0
from rescind.demo.opening import ACME, GLOBEX, REPORTS, WRONGED, Edit, Event, Opening, make_opening
from rescind.demo.truth import differing, find_truth


def opened_at(folder: Path, **seed: int) -> Opening:
    return make_opening(folder / "billing.db", morning=folder / "morning.db", **seed)


def dump(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return "\n".join(connection.iterdump())


def test_the_same_seed_makes_the_same_morning(tmp_path: Path) -> None:
    one, other, different = (tmp_path / name for name in ("one", "other", "different"))
    for folder in (one, other, different):
        folder.mkdir()
    assert opened_at(one) == opened_at(other) != opened_at(different, seed=2)
    assert dump(one / "morning.db") == dump(other / "morning.db") == dump(one / "billing.db")


def test_the_two_releases_read_the_mail_as_the_story_needs(tmp_path: Path) -> None:
    opening = opened_at(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "morning.db")) as morning:
        mail = morning.execute("select tenant, customer_id, body from inbox").fetchall()
    read = Counter(read_message_2_4_0(body).kind for tenant, _, body in mail if tenant == ACME)
    assert read == {"reactivate": WRONGED, "nothing": 60}
    misread = {customer for _, customer, body in mail if read_message_2_4_0(body).kind == "reactivate"}
    assert {*opening.wronged} == {customer for customer in misread if customer.startswith(ACME)}
    rightly_read = [read_message_2_3_9(body) for tenant, _, body in mail if tenant == GLOBEX]
    assert [(wish.kind, wish.plan) for wish in rightly_read] == [(event.kind, event.plan) for event in opening.events]


def test_all_who_are_wronged_had_cancelled(tmp_path: Path) -> None:
    opening = opened_at(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "morning.db")) as morning:
        rows = morning.execute("select customer_id, status from subscriptions").fetchall()
    status = dict(rows)
    assert len(opening.wronged) == len({*opening.wronged}) == WRONGED
    assert {status[customer] for customer in opening.wronged} == {"cancelled", "cancelling"}


def test_the_truth_of_a_day_without_events_is_the_morning_and_the_edit(tmp_path: Path) -> None:
    opening = opened_at(tmp_path)
    quiet = Opening(opening.wronged, events=(), edit=opening.edit)
    truth = find_truth(tmp_path / "morning.db", quiet, reports=0)
    books = sqlite3.connect(tmp_path / "morning.db")
    before = {row[0]: row for row in books.execute("select * from subscriptions where tenant = 'acme'")}
    assert differing(truth.acme_subscriptions, before) == [opening.edit.customer_id]
    assert truth.charges == 920
    assert sum(truth.owed_cents.values()) == books.execute("select sum(amount_cents) from charges").fetchone()[0]
    books.close()
    assert truth.cohorts == {}


def test_later_events_of_a_customer_count_and_each_upgrade_costs_a_month(tmp_path: Path) -> None:
    opened_at(tmp_path)
    customer, other = "globex-0001", "globex-0002"
    events = (
        Event(1, customer, "upgrade", "team"),
        Event(2, customer, "cancel"),
        Event(3, other, "cancel"),
        Event(4, other, "upgrade", "business"),
        Event(5, other, "upgrade", "starter"),
    )
    morning = find_truth(tmp_path / "morning.db", Opening((), (), Edit("acme-0001")), reports=0)
    truth = find_truth(tmp_path / "morning.db", Opening((), events, Edit("acme-0001")), reports=0)
    assert truth.globex_subscriptions[customer] == (customer, "team", "cancelling", "2026-09-30")
    assert truth.globex_subscriptions[other] == (other, "starter", "active", None)
    assert truth.owed_cents[customer] - morning.owed_cents[customer] == 4_900
    assert truth.owed_cents[other] - morning.owed_cents[other] == 12_900 + 1_900
    assert truth.charges - morning.charges == 3


def test_reports_are_about_the_customers_whose_numbers_end_alike(tmp_path: Path) -> None:
    opening = opened_at(tmp_path)
    truth = find_truth(tmp_path / "morning.db", opening, reports=REPORTS)
    assert truth.cohorts[7] == ("07", 8)
    assert truth.cohorts[107] == ("07", 8)
    assert len(truth.cohorts) == REPORTS


def test_the_truth_knows_nothing_of_journal_guard_and_tools() -> None:
    tree = ast.parse(Path(truth_module.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name for name in imported if name.startswith("rescind")} == {"rescind.demo.opening"}
