"""Every store of orders, for suites that hold all of them to the same laws."""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from rescind.switch.memory import MemoryOrders
from rescind.switch.postgres.store import PostgresOrders
from rescind.switch.store import SqliteOrders

if TYPE_CHECKING:
    from servers import Postgres

Store: TypeAlias = MemoryOrders | SqliteOrders | PostgresOrders

STORES = ("memory", "sqlite", "postgres")


@contextlib.contextmanager
def a_store(request: pytest.FixtureRequest, folder: Path) -> Generator[Store]:
    """The empty store that the parameter of a fixture names."""
    if request.param == "memory":
        yield MemoryOrders()
        return
    store: SqliteOrders | PostgresOrders
    if request.param == "sqlite":
        store = SqliteOrders(folder / "store")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        store = PostgresOrders(server.new_database())
    try:
        yield store
    finally:
        store.close()
