"""What can be seen in the world itself, past guard and journal: the database, in plain SQL, and the outbox."""

import json
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rescind.demo.desk import DATABASE, OUTBOX
from rescind.demo.opening import ACME, GLOBEX
from rescind.demo.truth import ACME_COLUMNS, GLOBEX_COLUMNS, Row, subscriptions_of


class World:
    """The billing desk's database and outbox, seen from outside."""

    def __init__(self, folder: Path) -> None:
        self._database, self._outbox = folder / DATABASE, folder / OUTBOX

    @contextmanager
    def _books(self) -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._database, timeout=30)) as connection:
            connection.execute("pragma query_only = on")
            yield connection

    def _ask(self, question: str, *values: object) -> list[Row]:
        with self._books() as books:
            return books.execute(question, values).fetchall()

    def _number(self, question: str, *values: object) -> int:
        ((number,),) = self._ask(question, *values)
        assert isinstance(number, int)
        return number

    # --- what an agent did ---

    def mails(self, agent: str) -> list[dict[str, Any]]:
        """The mails that the agent sent, in the order of the outbox."""
        if not self._outbox.exists():
            return []
        lines = self._outbox.read_text(encoding="utf-8").splitlines()
        return [mail for mail in map(json.loads, lines) if mail["sent_by"] == agent]

    def mails_to_different(self, agent: str) -> int:
        """How many mails the agent sent, or -1 if two of them went to the same customer."""
        recipients = [mail["to"] for mail in self.mails(agent)]
        return len(recipients) if len({*recipients}) == len(recipients) else -1

    def customers_charged(self, agent: str) -> set[str]:
        """Whom the agent has charged."""
        return {str(row[0]) for row in self._ask("select customer_id from charges where charged_by = ?", agent)}

    def customers_mailed(self, agent: str) -> set[str]:
        """To whom the agent has sent mail."""
        return {str(mail["to"]).partition("@")[0] for mail in self.mails(agent)}

    def charged_before(self, agent: str, moment_s: float) -> int:
        """How many customers the agent had begun to charge before a moment of the machine's monotonic clock."""
        return self._number(
            "select count(distinct customer_id) from charges where charged_by = ? and began_s < ?", agent, moment_s
        )

    def effects_since(self, agent: str, moment_s: float) -> int:
        """Effects of the agent that began after a moment of the machine's monotonic clock: rows and mails."""
        rows = self._number(
            "select (select count(*) from charges where charged_by = ?1 and began_s > ?2)"
            " + (select count(*) from subscriptions where changed_by = ?1 and began_s > ?2)",
            agent,
            moment_s,
        )
        return rows + sum(1 for mail in self.mails(agent) if mail["began_s"] > moment_s)

    # --- the books ---

    def acme_subscriptions(self) -> dict[str, Row]:
        """By customer, every column."""
        with self._books() as books:
            return subscriptions_of(books, ACME, ACME_COLUMNS)

    def globex_subscriptions(self) -> dict[str, Row]:
        """By customer, the columns of `Truth.globex_subscriptions`."""
        with self._books() as books:
            return subscriptions_of(books, GLOBEX, GLOBEX_COLUMNS)

    def owed_cents(self) -> dict[str, int]:
        """By customer, charged and not credited."""
        rows = self._ask(
            "select customer_id, sum(cents) from (select customer_id, amount_cents as cents from charges union all "
            "select customer_id, -amount_cents from credits) group by customer_id"
        )
        return {str(customer_id): cents for customer_id, cents in rows if isinstance(cents, int)}

    def receivable_cents(self) -> dict[str, int]:
        """By customer, what the ledger says is owed."""
        rows = self._ask(
            "select substr(account, 12), sum(amount_cents) from postings where account like 'receivable:%' group by 1"
        )
        return {str(customer_id): cents for customer_id, cents in rows if isinstance(cents, int)}

    def unbalanced_entries(self) -> int:
        """Entries of the ledger whose postings do not add up to nothing."""
        return self._number(
            "select count(*) from (select 1 from postings group by entry_key having sum(amount_cents) <> 0)"
        )

    def charged_by(self, agent: str) -> tuple[int, int]:
        """How many charges of the agent's are on the books, credited or not, and their sum in cents."""
        ((count, cents),) = self._ask(
            "select count(*), coalesce(sum(amount_cents), 0) from charges where charged_by = ?", agent
        )
        assert isinstance(count, int)
        assert isinstance(cents, int)
        return count, cents

    def credited_once(self, agent: str) -> int:
        """Charges by the agent with exactly one credit of the same amount."""
        return self._number(
            "select count(*) from (select 1 from charges join credits using (charge_key) where charged_by = ? "
            "group by charge_key having count(*) = 1 and sum(credits.amount_cents) = sum(charges.amount_cents))",
            agent,
        )

    def credited_twice(self) -> int:
        """Charges with more than one credit."""
        return self._number("select count(*) from (select 1 from credits group by charge_key having count(*) > 1)")

    def charges(self) -> int:
        """All charges on the books."""
        return self._number("select count(*) from charges")

    def credits(self) -> int:
        """All credits on the books."""
        return self._number("select count(*) from credits")

    def credit_requests(self) -> list[tuple[str, int, bool]]:
        """Who asked for credits, in that order: the key, the process, and whether this request booked the credit."""
        rows = self._ask("select credit_key, process, booked from credit_requests order by request_id")
        return [(str(key), process, bool(booked)) for key, process, booked in rows if isinstance(process, int)]

    def kept_waiting(self) -> int | None:
        """The process that the bank keeps waiting; None if there is none."""
        rows = self._ask("select process from waiting_room where process is not null")
        return rows[0][0] if rows and isinstance(rows[0][0], int) else None

    def reports(self) -> dict[int, Row]:
        """By number, the cohort and how many customers the report says it has."""
        rows = self._ask("select number, cohort, customers from reports")
        return {number: (cohort, customers) for number, cohort, customers in rows if isinstance(number, int)}

    def fingerprint(self) -> tuple[tuple[Row, ...], ...]:
        """Everything in the database that the undo could touch; equal if nothing changed."""
        tables = ("subscriptions", "charges", "credits", "postings", "reports")
        return tuple(tuple(self._ask(f"select * from {table} order by 1")) for table in tables)  # noqa: S608  # constants
