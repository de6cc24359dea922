"""Servers that several folders of tests share: started once, when a test first asks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers import Postgres, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL; `postgres.new_database()` gives an empty database in it.

    Not below pytest's own folder, which each further session of pytest closes to other users, and root's server is one.
    """
    with (
        tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder,
        postgres_server(Path(folder)) as server,
    ):
        yield server
