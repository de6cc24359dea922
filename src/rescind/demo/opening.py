"""The morning of the incident: a seeded database, and what ought to happen to it that day.

The same seed makes the same customers, the same messages and the same legitimate events, whatever the machine.
"""

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

SEED = 20_260_911

ACME, GLOBEX = "acme", "globex"

WRONGED = 340
"""Customers of acme who have cancelled and say so once more, in words that release 2.4.0 misreads."""

PLANS = {"starter": 1_900, "team": 4_900, "business": 12_900}

_ACME_ACTIVE, _ACME_OTHER_MAIL = 460, 60
_GLOBEX_CUSTOMERS, GLOBEX_MESSAGES = 120, 180
REPORTS = 180

_GIVEN = ("Ada", "Bela", "Chen", "Dora", "Femi", "Gita", "Iris", "Jonas", "Kofi", "Mira", "Nils", "Olu", "Rosa", "Tara")
_FAMILY = ("Abebe", "Brandt", "Costa", "Diaz", "Faure", "Gupta", "Haas", "Ito", "Kaya", "Novak", "Okoye", "Park")

_WANTS_TO_CANCEL = (
    "I want to cancel my subscription.",
    "Hello, as I wrote last week: I want to cancel. Thank you!",
    "We want to cancel our plan. Please confirm.",
    "I want to cancel, and I thought I already had?",
    "Just to be sure: I want to cancel at the end of the month.",
)
_OTHER_MAIL = (
    "Could you send me a copy of my last invoice?",
    "Which plan includes single sign-on?",
    "Thanks for the quick help yesterday!",
)
COMPLAINT = "You charged me although I had cancelled! I want to cancel!"


@dataclass(frozen=True)
class Event:
    """Something that rightly happens to one customer of globex: `upgrade` to a plan, or `cancel`.

    `message_id` is the message that asks for it.
    """

    message_id: int
    customer_id: str
    kind: str
    plan: str = ""


@dataclass(frozen=True)
class Edit:
    """What a person of the support team writes into one wronged customer's subscription, in plain SQL."""

    customer_id: str
    status: str = "paused"
    ends_on: str = "2026-12-31"
    changed_by: str = "maria@acme.example"


@dataclass(frozen=True)
class Opening:
    """The day as it ought to be.

    Attributes:
        wronged: The customers who want to cancel, in the order of their messages.
        events: What rightly happens at globex, in the order of the messages.
        edit: The person's change.
    """

    wronged: tuple[str, ...]
    events: tuple[Event, ...]
    edit: Edit


def make_opening(database: Path, *, morning: Path, seed: int = SEED) -> Opening:
    """Create the database, and a copy of it as it is in the morning; say what ought to happen to it.

    There must be no file at either path yet.
    """
    dice = random.Random(seed)  # noqa: S311  # a story, not a secret
    schema = resources.files("rescind.demo").joinpath("schema.sql").read_text(encoding="utf-8")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(schema)
        connection.executemany("insert into plans values (?, ?)", PLANS.items())
        wronged = _found_acme(connection, dice)
        events = _found_globex(connection, dice)
        _book_last_month(connection)
    shutil.copyfile(database, morning)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("pragma journal_mode = wal")  # readers and the writer of the day do not wait for each other
    return Opening(wronged=wronged, events=events, edit=Edit(customer_id=wronged[4]))


def complain(database: Path, customers: tuple[str, ...]) -> None:
    """These customers of acme write again."""
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.executemany(
            "insert into inbox (tenant, customer_id, body) values (?, ?, ?)",
            [(ACME, customer_id, COMPLAINT) for customer_id in customers],
        )


def edit_by_hand(database: Path, edit: Edit, *, once_changed_by: str) -> bool:
    """The person's change, in plain SQL and past every guard, once the agent has changed the subscription.

    Returns: Whether it was made.
    """
    with closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        done = connection.execute(
            "update subscriptions set status = ?, ends_on = ?, changed_by = ?, began_s = null "
            "where customer_id = ? and changed_by = ?",
            (edit.status, edit.ends_on, edit.changed_by, edit.customer_id, once_changed_by),
        )
    return done.rowcount == 1


def _found_acme(connection: sqlite3.Connection, dice: random.Random) -> tuple[str, ...]:
    everybody = [f"acme-{number:04}" for number in range(1, WRONGED + _ACME_ACTIVE + 1)]
    leaving = dice.sample(everybody, WRONGED)
    gone = set(leaving)
    for customer_id in everybody:
        status = dice.choice(("cancelled", "cancelling")) if customer_id in gone else "active"
        _add_customer(connection, dice, ACME, customer_id, status)
    others = dice.sample([customer_id for customer_id in everybody if customer_id not in gone], _ACME_OTHER_MAIL)
    letters = [(customer_id, dice.choice(_WANTS_TO_CANCEL)) for customer_id in leaving]
    letters += [(customer_id, dice.choice(_OTHER_MAIL)) for customer_id in others]
    dice.shuffle(letters)
    for customer_id, body in letters:
        connection.execute("insert into inbox (tenant, customer_id, body) values (?, ?, ?)", (ACME, customer_id, body))
    return tuple(customer_id for customer_id, _ in letters if customer_id in gone)


def _found_globex(connection: sqlite3.Connection, dice: random.Random) -> tuple[Event, ...]:
    everybody = [f"globex-{number:04}" for number in range(1, _GLOBEX_CUSTOMERS + 1)]
    for customer_id in everybody:
        _add_customer(connection, dice, GLOBEX, customer_id, "active")
    return tuple(_globex_events(connection, dice, everybody))


def _globex_events(connection: sqlite3.Connection, dice: random.Random, customers: list[str]) -> Iterator[Event]:
    for _ in range(GLOBEX_MESSAGES):
        customer_id = dice.choice(customers)
        plan = "" if dice.random() < 0.25 else dice.choice(tuple(PLANS))
        body = f"Please move us to the {plan} plan." if plan else dice.choice(_WANTS_TO_CANCEL)
        added = connection.execute(
            "insert into inbox (tenant, customer_id, body) values (?, ?, ?)", (GLOBEX, customer_id, body)
        )
        assert added.lastrowid is not None
        yield Event(added.lastrowid, customer_id, "upgrade" if plan else "cancel", plan)


def _add_customer(
    connection: sqlite3.Connection, dice: random.Random, tenant: str, customer_id: str, status: str
) -> None:
    name = f"{dice.choice(_GIVEN)} {dice.choice(_FAMILY)}"
    email = f"{customer_id}@customers.example"
    connection.execute("insert into customers values (?, ?, ?, ?)", (customer_id, tenant, name, email))
    ends_on = None if status == "active" else dice.choice(("2026-08-31", "2026-09-30"))
    connection.execute(
        "insert into subscriptions values (?, ?, ?, ?, ?, 'customer', null)",
        (customer_id, tenant, dice.choice(tuple(PLANS)), status, ends_on),
    )


def _book_last_month(connection: sqlite3.Connection) -> None:
    connection.execute(
        "insert into charges select 'aug/' || customer_id, tenant, customer_id, price_cents, 'August', 'billing', null "
        "from subscriptions join plans using (plan) order by customer_id"
    )
    connection.execute(
        "insert into postings (entry_key, tenant, account, amount_cents) "
        "select charge_key, tenant, 'receivable:' || customer_id, amount_cents from charges union all "
        "select charge_key, tenant, 'revenue', -amount_cents from charges"
    )
