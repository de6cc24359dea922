"""A lock that all machines of a database share, for work that one at a time may do.

It belongs to a connection: whoever dies, or is cut off, has let go of it. So it keeps people from being in each other's
way, and what it is held for must be right without it.
"""

import contextlib
import hashlib
from collections.abc import Generator

from rescind.database.address import Address
from rescind.database.connecting import connect, translating
from rescind.errors import JournalUnavailable


@contextlib.contextmanager
def locked(address: Address, name: str) -> Generator[bool]:
    """Hold the lock of this name for the length of a block. Yields whether it was free; it is not waited for.

    Raises: JournalUnavailable, if the database cannot be asked.
    """
    number = int.from_bytes(hashlib.sha256(f"rescind {name}".encode()).digest()[:8], "big", signed=True)
    with translating(address, JournalUnavailable, what="the lock"):
        connection = connect(address, name=f"lock of {name}")
    try:
        with translating(address, JournalUnavailable, what="the lock"):
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (number,)).fetchone()
        yield row is not None and bool(row[0])
    finally:
        connection.close()
