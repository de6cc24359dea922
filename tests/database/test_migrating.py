"""Laws MG1 to MG3 of revisions, and what connections promise, on a real server."""

import functools
from pathlib import Path
from typing import Any

import psycopg
import pytest

from builders import at_once
from rescind.database.address import Address
from rescind.database.connecting import connect, translating
from rescind.database.migrating import Part, ensure, exists
from rescind.errors import OrdersUnavailable, StoreFormatError, UsageError
from servers import Postgres, free_port

REVISION = '''
"""A revision of a test."""
from pathlib import Path
from alembic import op
from rescind.database.migrating import run_script
revision, down_revision = {revision!r}, {before!r}

def upgrade() -> None:
    run_script(op.get_bind(), Path({script!r}))
'''


def a_part(folder: Path, *scripts: str) -> Part:
    """A part with a revision for each script."""
    before = None
    for number, script in enumerate(scripts, start=1):
        revision = f"{number:04}"
        (folder / f"{revision}.sql").write_text(script)
        text = REVISION.format(revision=revision, before=before, script=str(folder / f"{revision}.sql"))
        (folder / f"{revision}_test.py").write_text(text)
        before = revision
    return Part("things", f"{len(scripts):04}", folder)


def brought_up(address: Address, part: Part) -> None:
    with connect(address, name="test") as connection:
        ensure(connection, address, part)


def fetched(address: Address, query: str) -> list[Any]:
    with connect(address, name="test") as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.fixture
def address(postgres: Postgres) -> Address:
    return Address.parse(postgres.new_database())


ONE = "CREATE TABLE rescind.things (n int DEFAULT 100 % 7); CREATE TABLE rescind.others (n int);"
TWO = "ALTER TABLE rescind.things ADD COLUMN m int; INSERT INTO rescind.things VALUES (1, 2);"


def test_mg1_tables_are_made_once_and_brought_up_to_date_later(address: Address, tmp_path: Path) -> None:
    with connect(address, name="test") as connection:
        assert not exists(connection, a_part(tmp_path, ONE))
    brought_up(address, a_part(tmp_path, ONE))
    brought_up(address, a_part(tmp_path, ONE))
    brought_up(address, a_part(tmp_path, ONE, TWO))

    assert fetched(address, "SELECT * FROM rescind.things") == [(1, 2)]
    assert fetched(address, "SELECT * FROM rescind.things_version") == [("0002",)]


def test_mg1_a_revision_that_fails_leaves_nothing_behind(address: Address, tmp_path: Path) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        brought_up(address, a_part(tmp_path, ONE, "INSERT INTO nonsense"))

    assert fetched(address, "SELECT to_regclass('rescind.things'), to_regclass('rescind.things_version')") == [
        (None, None)
    ]


def test_mg2_many_come_at_once_and_find_the_tables_made_once(address: Address, tmp_path: Path) -> None:
    part = a_part(tmp_path, ONE, TWO)

    at_once(functools.partial(brought_up, address, part) for _ in range(4))

    assert fetched(address, "SELECT * FROM rescind.things") == [(1, 2)]


def test_mg3_tables_of_a_newer_rescind_are_left_alone(address: Address, tmp_path: Path) -> None:
    newer = a_part(tmp_path, ONE, TWO)
    brought_up(address, newer)

    with pytest.raises(StoreFormatError, match="newer rescind"):
        brought_up(address, Part("things", "0001", tmp_path))


def test_a_commit_waits_for_the_disk_whatever_the_database_says(address: Address) -> None:
    with connect(address, name="test") as connection:
        connection.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    try:
        assert fetched(address, "SHOW synchronous_commit") == [("on",)]
        assert fetched(address, "SHOW application_name") == [("rescind test",)]
    finally:
        with connect(address, name="test") as connection:
            connection.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    address = Address.parse(f"postgresql://ops:hunter2@127.0.0.1:{free_port()}/agents")

    silent = pytest.raises(OrdersUnavailable, match=r"see that the server runs")
    with silent as caught, translating(address, OrdersUnavailable, what="the orders"):
        connect(address, name="test")
    assert "postgresql://ops@127.0.0.1" in str(caught.value)
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("text", ["a\0b", "\udcff"])
def test_what_no_database_can_keep_is_a_mistake_and_no_outage(address: Address, text: str) -> None:
    refused = pytest.raises(UsageError, match="no text")
    with connect(address, name="test") as connection, refused, translating(address, OrdersUnavailable):
        connection.execute("SELECT %s::text", (text,))
