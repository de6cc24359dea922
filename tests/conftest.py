"""Servers that several folders of tests share: started once, when a test first asks."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from servers import Postgres, postgres_server

# How fast examples are made says how busy the machine is, and nothing of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL; `postgres.new_database()` gives an empty database in it."""
    with postgres_server() as server:
        yield server
