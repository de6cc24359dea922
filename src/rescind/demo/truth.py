"""The books as they ought to be at the end of the day.

Computed from a copy of the morning's database and the list of legitimate events, in plain SQL and Python. Nothing here
knows the journal, the guard or the desk's tools: whoever checks an undo must not ask the undo.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rescind.demo.opening import ACME, GLOBEX, Opening

Row = tuple[object, ...]


@dataclass(frozen=True)
class Truth:
    """How the books ought to be.

    Attributes:
        acme_subscriptions: By customer, every column; the one that a person edited is as that person left it.
        globex_subscriptions: By customer: plan, status, and when it ends.
        owed_cents: By customer of either tenant, what was charged and not credited.
        charges: How many charges are on the books of both tenants, without the wrong ones.
        cohorts: What each report says: by number, the cohort and how many customers it has.
    """

    acme_subscriptions: dict[str, Row]
    globex_subscriptions: dict[str, Row]
    owed_cents: dict[str, int]
    charges: int
    cohorts: dict[int, Row]


ACME_COLUMNS = "customer_id, tenant, plan, status, ends_on, changed_by, began_s"
GLOBEX_COLUMNS = "customer_id, plan, status, ends_on"

CANCELS_ON = "2026-09-30"
"""When a subscription ends whose customer cancels today."""


def find_truth(morning: Path, opening: Opening, *, reports: int) -> Truth:
    """What today's legitimate events make of the morning's books; `reports` is how many reports were asked for."""
    with closing(sqlite3.connect(f"{morning.as_uri()}?mode=ro", uri=True)) as books:
        acme = subscriptions_of(books, ACME, ACME_COLUMNS)
        globex = subscriptions_of(books, GLOBEX, GLOBEX_COLUMNS)
        owed = dict(books.execute("select customer_id, sum(amount_cents) from charges group by customer_id"))
        (charges,) = books.execute("select count(*) from charges").fetchone()
        prices: dict[str, int] = dict(books.execute("select plan, price_cents from plans"))
        cohorts = {number: _cohort(books, number) for number in range(1, reports + 1)}
    for event in opening.events:
        _, plan, *_ = globex[event.customer_id]
        if event.kind == "cancel":
            globex[event.customer_id] = (event.customer_id, plan, "cancelling", CANCELS_ON)
        else:
            globex[event.customer_id] = (event.customer_id, event.plan, "active", None)
            owed[event.customer_id] += prices[event.plan]
            charges += 1
    edit = opening.edit
    acme[edit.customer_id] = _edited(acme[edit.customer_id], opening)
    return Truth(acme, globex, owed, charges, cohorts)


def subscriptions_of(books: sqlite3.Connection, tenant: str, columns: str) -> dict[str, Row]:
    """A tenant's subscriptions by customer, with the given columns, the first of which is the customer."""
    rows = books.execute(f"select {columns} from subscriptions where tenant = ?", (tenant,))  # noqa: S608  # constants
    return {str(row[0]): tuple(row) for row in rows}


def differing(truth: Mapping[Any, object], found: Mapping[Any, object]) -> list[Any]:
    """The keys whose values are not equal, or that are only on one side; in no order."""
    return [key for key in {*truth, *found} if truth.get(key) != found.get(key)]


def cohort_name(number: int) -> str:
    """Which customers a report is about: those whose number ends in these two digits."""
    return f"{number % 100:02}"


def _cohort(books: sqlite3.Connection, number: int) -> Row:
    ending = cohort_name(number)
    everybody = books.execute("select customer_id from customers where tenant = ?", (ACME,))
    return ending, sum(1 for (customer_id,) in everybody if str(customer_id).endswith(ending))


def _edited(row: Row, opening: Opening) -> Row:
    customer_id, tenant, plan, *_ = row
    edit = opening.edit
    return customer_id, tenant, plan, edit.status, edit.ends_on, edit.changed_by, None
