"""The cluster of the tests, with a disk that is waited for."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from servers import Postgres


@contextmanager
def a_cluster() -> "Iterator[Postgres]":
    """A PostgreSQL of one's own, which ends with the block."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from servers import postgres_server

    with postgres_server(fsync="on") as server:
        yield server
