"""Connections of apsw to files that no other SQLite in this process has open.

apsw brings a SQLite of its own, beside the one of Python's `sqlite3`, through which SQLAlchemy goes. The locks of a
file belong to the process and not to a connection: two copies of SQLite in one process do not lock each other out, and
when one closes the file, the locks of the other are gone
(https://www.sqlite.org/howtocorrupt.html#_multiple_copies_of_sqlite_linked_into_the_same_application). Both may write
at once then, and a commit that was acknowledged is lost, or the file is damaged. Other processes may use any copy.

OS1. *Alone or not at all.* A file that another copy has open in this process is not opened, and nothing is committed
    to it. What a copy does that opens the file and closes it in between, nobody sees.
OS2. *Whose a file descriptor is* is known from having seen it appear. Where a system does not list them, locks belong
    to handles, and copies do lock each other out (Windows).
"""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakSet

import apsw

from rescind.errors import Transient

_LISTED_AT = "/dev/fd"
_LOOKS, _LOOK_EVERY_S = 100, 0.01  # whoever opens the file for a short look is let finish


class _File(NamedTuple):
    device: int
    inode: int


_lock = threading.Lock()
_ours: dict[_File, set[int]] = {}
_connections: "WeakSet[apsw.Connection]" = WeakSet()


def connect(path: Path) -> "apsw.Connection":
    """A connection to this file, which must be there; `close` it. Raises: Transient, if it is open otherwise (OS1)."""
    for _ in range(_LOOKS):
        with _lock:
            if not _is_open_otherwise(path):
                before = _descriptors(path)
                connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
                _connections.add(connection)
                _ours.setdefault(_file(path), set()).update(_descriptors(path) - before)
                return connection
        time.sleep(_LOOK_EVERY_S)
    raise Transient(f"nothing was changed: {in_use(path)}")


def close(connection: "apsw.Connection", path: Path) -> None:
    """Close it; what it had begun is rolled back."""
    with _lock:
        _connections.discard(connection)
        connection.close(True)
        with suppress(FileNotFoundError):
            _forget_closed(path)  # now, before another copy gets the same number for the same file


def is_open_otherwise(path: Path) -> bool:
    """Whether another copy of SQLite in this process has this file open."""
    with _lock:
        return _is_open_otherwise(path)


def in_use(path: Path) -> str:
    """What to say then, and how to mend it."""
    return (
        f"{path} is open in this process through another SQLite than apsw's, such as that of Python's sqlite3 or "
        "SQLAlchemy; the two do not lock each other out, so a commit could be lost. Close it there first (an Engine "
        "with poolclass=NullPool keeps nothing open), use apsw for it in this process, or guard its rows with SqlRows"
    )


def _is_open_otherwise(path: Path) -> bool:
    others = _descriptors(path) - _forget_closed(path)
    return bool(others) and len(others) > _apsw_elsewhere(path)


def _forget_closed(path: Path) -> set[int]:
    """Those of our descriptors that are still open. One may stay open after its connection, until locks are gone."""
    file = _file(path)
    still = _ours.get(file, set()) & _descriptors(path)
    if still:
        _ours[file] = still
    else:
        _ours.pop(file, None)
    return still


def _apsw_elsewhere(path: Path) -> int:
    """How many connections to this file the user has made through apsw, whose locks are those of ours."""
    found = 0
    for connection in apsw.connections():
        if connection not in _connections:
            with suppress(apsw.Error, OSError):
                found += _file(Path(connection.filename)) == _file(path)
    return found


def _descriptors(path: Path) -> set[int]:
    """This process's descriptors of the file."""
    wanted = _file(path)
    try:
        names = os.listdir(_LISTED_AT)
    except FileNotFoundError:
        return set()
    found: set[int] = set()
    for name in names:
        with suppress(OSError):  # the one of the list itself, or one that was closed since
            status = os.fstat(int(name))
            if wanted == (status.st_dev, status.st_ino):
                found.add(int(name))
    return found


def _file(path: Path) -> _File:
    status = path.stat()
    return _File(status.st_dev, status.st_ino)
