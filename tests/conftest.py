"""Servers that several folders of tests share: started once, when a test first asks."""

from collections.abc import Iterator

import pytest

from servers import Postgres, postgres_server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A running PostgreSQL; `postgres.new_database()` gives an empty database in it."""
    with postgres_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server
