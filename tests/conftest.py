"""Servers that several folders of tests share: started once, when a test first asks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from servers import Postgres, postgres_server

# How fast examples are made says how busy the machine is, and nothing of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


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
