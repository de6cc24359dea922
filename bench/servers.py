"""The cluster of the tests, with a disk that is waited for."""

import sys
import tempfile
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

    with tempfile.TemporaryDirectory(prefix="bench-postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        with postgres_server(Path(folder) / "cluster", fsync="on") as server:
            yield server
