"""The agents, each a process of its own: `python -m rescind.demo.agents FOLDER AGENT TENANT WORKER WORKERS`.

An agent reads on its standard input how far it may go: the number of the last message (or report) that it may take up.
It says on its standard output, in JSON lines, how many writes it made and how many were refused. It leaves when its
input ends, which it also does if whoever started it is killed.

It is as stubborn as agents are: a refusal is caught, and the same thing is tried again at the next turn.
"""

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

import rescind
from rescind.demo.desk import Desk, open_desk
from rescind.demo.mailroom import READERS, Wish
from rescind.demo.truth import cohort_name

SUBJECT = "Welcome back! Your subscription is active again"

PACE_S = 0.012
"""A breath between two pieces of work. A model would take longer; with less, four agents only wait for the database."""

POLL_S = 0.03
"""How often an agent without work looks for some."""


class Leash:
    """How far the agent may go, as its standard input says."""

    def __init__(self) -> None:
        self.until, self.is_over = 0, threading.Event()
        self._moved = threading.Event()
        threading.Thread(target=self._follow, name="leash", daemon=True).start()

    def rest(self, duration_s: float) -> None:
        """Wait this long, or until the leash is over."""
        self.is_over.wait(duration_s)

    def _follow(self) -> None:
        for line in sys.stdin:
            self.until = int(line)
        self.is_over.set()


class Tally:
    """What the agent did, told to whoever listens."""

    def __init__(self) -> None:
        self.position = self.writes = self.refused = 0

    def attempt(self, work: Callable[[], int]) -> bool:
        """Do a piece of work, which says how many writes it made. Returns whether it was allowed to."""
        try:
            self.writes += work()
        except (rescind.CallDenied, rescind.RunHalted):
            self.refused += 1
            return False
        return True

    def tell(self) -> None:
        """Say where things stand."""
        print(json.dumps(vars(self)), flush=True)  # noqa: T201  # the protocol with the demo


def answer_mail(desk: Desk, agent: str, tenant: str, worker: int, workers: int) -> None:
    """Take up the tenant's messages, every `workers`-th of them, as the agent's release reads them."""
    read, leash, tally = READERS[agent], Leash(), Tally()
    with desk.guard.run(agent=agent, tenant=tenant, workflow="inbox") as run:
        while not leash.is_over.is_set():
            for message_id, customer_id, body in _messages(desk, tenant, tally.position, leash.until):
                if message_id % workers == worker:
                    wish = read(body)
                    with run.branch():
                        if not tally.attempt(lambda: _serve(desk, wish, message_id, customer_id, agent)):  # noqa: B023
                            break
                    leash.rest(PACE_S)
                tally.position = message_id
                tally.tell()
            tally.tell()
            leash.rest(POLL_S)


def file_reports(desk: Desk, agent: str, tenant: str) -> None:
    """File one report after the other."""
    leash, tally = Leash(), Tally()
    with desk.guard.run(agent=agent, tenant=tenant, workflow="reporting"):
        while not leash.is_over.is_set():
            while tally.position < leash.until and not leash.is_over.is_set():
                number = tally.position + 1
                if not tally.attempt(lambda: _file(desk, number, agent)):  # noqa: B023
                    break
                tally.position = number
                tally.tell()
                leash.rest(PACE_S)
            tally.tell()
            leash.rest(POLL_S)


def _serve(desk: Desk, wish: Wish, message_id: int, customer_id: str, agent: str) -> int:
    match wish.kind:
        case "reactivate":
            desk.set_subscription(customer_id, "active", agent)
            desk.charge(message_id, customer_id, "subscription reactivated", agent)
            desk.send_mail(message_id, customer_id, SUBJECT, agent)
            return 3
        case "upgrade":
            desk.move_to_plan(customer_id, wish.plan, agent)
            desk.charge(message_id, customer_id, f"moved to {wish.plan}", agent)
            return 2
        case "cancel":
            desk.set_subscription(customer_id, "cancelling", agent)
            return 1
        case _:
            return 0


def _file(desk: Desk, number: int, agent: str) -> int:
    desk.file_report(number, cohort_name(number), agent)
    return 1


def _messages(desk: Desk, tenant: str, after: int, until: int) -> list[tuple[int, str, str]]:
    statement = sa.text(
        "select message_id, customer_id, body from inbox "
        "where tenant = :tenant and message_id > :after and message_id <= :until order by message_id"
    )
    with desk.database.connect() as books:
        rows = books.execute(statement, {"tenant": tenant, "after": after, "until": until})
        return [(row.message_id, row.customer_id, row.body) for row in rows]


def main(folder: str, agent: str, tenant: str, worker: str, workers: str) -> None:
    """Be one agent until the standard input ends."""
    desk = open_desk(Path(folder))
    try:
        if agent in READERS:
            answer_mail(desk, agent, tenant, int(worker), int(workers))
        else:
            file_reports(desk, agent, tenant)
    finally:
        desk.guard.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
