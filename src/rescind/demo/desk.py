"""The billing desk: the tools that the demo's agents are given, each guarded.

This is what rescind looks like around tools of your own. Each tool says by its effect class what can be done about it:
rows of a subscription are put back, a charge is offset by a credit, and a mail cannot be unsent.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.event import listen

import rescind
from rescind.clock import SystemClock
from rescind.config import CONFIG_NAME, SwitchConfig
from rescind.demo.bank import await_answer, note_request
from rescind.guard.declare import GuardedWrite
from rescind.triggers.policy_file import PolicyFile

DATABASE, OUTBOX, STORE = "billing.db", "outbox.jsonl", ".rescind"
SWITCH_DATA, SWITCH_URL = "switch", "switch.url"

SET_STATUS, CHARGE, MAIL = "subscription.set_status", "customer.charge", "customer.mail"

_clock = SystemClock()


@dataclass(frozen=True)
class Desk:
    """The desk's guard and its tools. `by` is always the agent who asks.

    Attributes:
        guard: Its stores are in the desk's folder.
        database: The billing database.
        set_subscription: (customer_id, status, by): reversible.
        move_to_plan: (customer_id, plan, by): reversible; the subscription is active then.
        charge: (message_id, customer_id, reason, by): one month of the customer's plan, compensatable.
        send_mail: (message_id, customer_id, subject, by): irreversible.
        file_report: (number, cohort, by): reversible.
    """

    guard: rescind.Guard
    database: Engine
    set_subscription: GuardedWrite[[str, str, str], None]
    move_to_plan: GuardedWrite[[str, str, str], None]
    charge: GuardedWrite[[int, str, str, str], int]
    send_mail: GuardedWrite[[int, str, str, str], None]
    file_report: GuardedWrite[[int, str, str], int]


def open_desk(folder: Path) -> Desk:
    """The desk whose books lie in this folder, under the switch and the policy of it. Nothing is touched yet."""
    url, config = folder / SWITCH_URL, folder / CONFIG_NAME
    switch = SwitchConfig(urls=(url.read_text(encoding="utf-8"),)) if url.exists() else None
    policy = PolicyFile(config) if config.exists() else None
    guard = rescind.Guard.at(folder / STORE, switch=switch, policy=policy)
    database = _engine(folder / DATABASE)
    set_subscription, move_to_plan = _subscription_tools(guard, database)
    return Desk(
        guard=guard,
        database=database,
        set_subscription=set_subscription,
        move_to_plan=move_to_plan,
        charge=_charge_tool(guard, database),
        send_mail=_mail_tool(guard, folder / OUTBOX),
        file_report=_report_tool(guard, database),
    )


def _subscription_tools(
    guard: rescind.Guard, database: Engine
) -> tuple[GuardedWrite[[str, str, str], None], GuardedWrite[[str, str, str], None]]:
    rows = rescind.SqlRows(database, "subscriptions", rows=_rows_of_customer)

    def change(customer_id: str, **values: Any) -> None:
        table = rows.table
        values["began_s"] = _clock.monotonic_s()
        rows.connection().execute(sa.update(table).where(table.c.customer_id == customer_id).values(values))

    @guard.write(SET_STATUS, effect=rows)
    def set_subscription(customer_id: str, status: str, by: str) -> None:
        ends_on = None if status == "active" else "2026-09-30"
        change(customer_id, status=status, ends_on=ends_on, changed_by=by)

    @guard.write("subscription.move_to_plan", effect=rows)
    def move_to_plan(customer_id: str, plan: str, by: str) -> None:
        change(customer_id, plan=plan, status="active", ends_on=None, changed_by=by)

    return set_subscription, move_to_plan


def _charge_tool(guard: rescind.Guard, database: Engine) -> GuardedWrite[[int, str, str, str], int]:
    @guard.write(CHARGE, target=_account, key=_charge_key)
    def charge(message_id: int, customer_id: str, reason: str, by: str) -> int:
        began_s = _clock.monotonic_s()
        key = _charge_key(message_id)
        values = {"key": key, "id": customer_id, "why": reason, "by": by, "began_s": began_s}
        with database.begin() as books:
            booked = books.execute(sa.text(_BOOK_CHARGE), values)
            tenant, amount_cents = booked.one()
            _post(books, key, tenant, customer_id, amount_cents)
        return int(amount_cents)

    @charge.compensate(idempotent=True, parallel=True)  # each in a transaction of its own
    def credit(step: rescind.PastStep) -> None:
        key, customer_id = step.idempotency_key, step.arguments["customer_id"]
        charge_key = _charge_key(step.arguments["message_id"])
        values = {"key": key, "charge": charge_key, "why": "charged in error; undone"}
        with database.begin() as books:
            booked = books.execute(sa.text(_BOOK_CREDIT), values).one_or_none()
            if booked is not None:  # otherwise this very credit was booked before, and one is enough
                _post(books, key, booked.tenant, customer_id, -booked.amount_cents)
            is_kept_waiting = note_request(books, key, booked=booked is not None)
        await_answer(database, is_kept_waiting=is_kept_waiting)

    return charge


def _mail_tool(guard: rescind.Guard, outbox: Path) -> GuardedWrite[[int, str, str, str], None]:
    @guard.write(MAIL, target=_mailbox, key=_mail_key, irreversible="a mail cannot be unsent")
    def send_mail(message_id: int, customer_id: str, subject: str, by: str) -> None:
        mail = {
            "to": f"{customer_id}@customers.example",
            "subject": subject,
            "answers": message_id,
            "sent_by": by,
            "began_s": _clock.monotonic_s(),
        }
        _append_line(outbox, json.dumps(mail))

    return send_mail


def _report_tool(guard: rescind.Guard, database: Engine) -> GuardedWrite[[int, str, str], int]:
    rows = rescind.SqlRows(database, "reports", rows=_row_of_report)

    @guard.write("report.file", effect=rows)
    def file_report(number: int, cohort: str, by: str) -> int:
        books = rows.connection()
        count = books.execute(sa.text(_COHORT), {"ending": f"%{cohort}"}).scalar_one()
        row = {"number": number, "tenant": "acme", "cohort": cohort, "customers": count, "filed_by": by}
        books.execute(sa.insert(rows.table).values(row))
        return int(count)

    return file_report


_BOOK_CHARGE = """\
insert into charges (charge_key, tenant, customer_id, amount_cents, reason, charged_by, began_s)
select :key, tenant, customer_id, price_cents, :why, :by, :began_s
from subscriptions join plans using (plan) where customer_id = :id
returning tenant, amount_cents"""

_BOOK_CREDIT = """\
insert into credits (credit_key, charge_key, tenant, customer_id, amount_cents, reason)
select :key, charge_key, tenant, customer_id, amount_cents, :why from charges where charge_key = :charge
on conflict (credit_key) do nothing
returning tenant, amount_cents"""

_POST = "insert into postings (entry_key, tenant, account, amount_cents) values (:key, :tenant, :account, :cents)"

_COHORT = "select count(*) from customers where tenant = 'acme' and customer_id like :ending"


def _post(books: Connection, key: str, tenant: str, customer_id: str, amount_cents: int) -> None:
    for account, cents in ((f"receivable:{customer_id}", amount_cents), ("revenue", -amount_cents)):
        books.execute(sa.text(_POST), {"key": key, "tenant": tenant, "account": account, "cents": cents})


def _rows_of_customer(customer_id: str) -> dict[str, str]:
    return {"customer_id": customer_id}


def _row_of_report(number: int) -> dict[str, int]:
    return {"number": number}


def _account(customer_id: str) -> tuple[str, str, str]:
    return "billing", "customer", customer_id


def _mailbox(customer_id: str) -> tuple[str, str, str]:
    return "mail", "customer", customer_id


def _mail_key(message_id: int) -> str:
    return f"answer to message {message_id}"


def _charge_key(message_id: int) -> str:
    return f"charge for message {message_id}"


def _append_line(path: Path, line: str) -> None:
    # One write to a file opened for appending: lines of several processes do not mix.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def _engine(path: Path) -> Engine:
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": 30})

    listen(engine, "connect", _check_references)
    return engine


def _check_references(connection: Any, _record: Any) -> None:
    connection.execute("pragma foreign_keys = on")
