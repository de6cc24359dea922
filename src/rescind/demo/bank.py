"""The bank behind the credits: it answers when it likes, and keeps one process waiting if the demo wants to see it die.

A credit is booked in one transaction, together with who asked for it. After that the bank takes its time to answer; and
whoever is killed while it waits has done something that nobody was told of. That is the worst moment to die, and here
it can be had at will: the first process with so many requests gets no further answers, and the others all of theirs.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rescind.clock import SystemClock

ANSWERS_AFTER_S = 0.02
"""What a bank takes, or rather less: enough that it is the bank which is waited for, and not the machine."""

PATIENCE_S = 20.0
"""How long a process that is kept waiting waits. It does not come to that, unless the demo itself has died."""

_POLL_S = 0.05

_clock = SystemClock()

_NOTE = "insert into credit_requests (credit_key, process, booked) values (:key, :process, :booked)"

_ENTER = """\
update waiting_room set process = :process
where process is null and after_requests <= (select count(*) from credit_requests where process = :process)"""

_WAITS = "select 1 from waiting_room where process = :process"


def note_request(books: Connection, key: str, *, booked: bool) -> bool:
    """Note in the transaction of a credit that this process has asked for it, and whether that booked it.

    Returns: Whether this request is one of those that are to be kept waiting.
    """
    me = {"process": os.getpid()}
    books.execute(sa.text(_NOTE), me | {"key": key, "booked": int(booked)})
    books.execute(sa.text(_ENTER), me)
    return _is_waiting(books)


def await_answer(database: Engine, *, is_kept_waiting: bool) -> None:
    """Wait for the bank: a moment, or for as long as this process is kept waiting."""
    _clock.sleep(ANSWERS_AFTER_S)
    until_s = _clock.monotonic_s() + PATIENCE_S
    while is_kept_waiting and _clock.monotonic_s() < until_s:
        _clock.sleep(_POLL_S)
        with database.connect() as books:
            is_kept_waiting = _is_waiting(books)


def _is_waiting(books: Connection) -> bool:
    return books.execute(sa.text(_WAITS), {"process": os.getpid()}).one_or_none() is not None


def keep_waiting(database: Path, *, after_requests: int) -> None:
    """Keep the first process waiting that has made so many requests."""
    with closing(sqlite3.connect(database, timeout=30)) as books, books:
        books.execute("insert into waiting_room (one, after_requests) values (1, ?)", (after_requests,))


def answer_all(database: Path) -> None:
    """Keep nobody waiting any more."""
    with closing(sqlite3.connect(database, timeout=30)) as books, books:
        books.execute("delete from waiting_room")
