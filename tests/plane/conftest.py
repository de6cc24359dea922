"""Planes over both kinds of stores, and one that many tests share."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from plane.served import Served

if TYPE_CHECKING:
    from servers import Postgres


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """A plane of one's own."""
    store = ""
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        store = postgres.new_database()
    made = Served(tmp_path, store)
    yield made
    made.end_all()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A plane for the tests of one module."""
    made = Served(tmp_path_factory.mktemp("plane"))
    yield made
    made.end_all()
