"""Connections of apsw to files that no other SQLite in this process has open.

apsw brings a SQLite of its own, beside the one of Python's `sqlite3`, through which SQLAlchemy goes. The locks of a
file belong to the process and not to a connection: two copies of SQLite in one process do not lock each other out, and
when one closes the file, the locks of the other are gone
(https://www.sqlite.org/howtocorrupt.html#_multiple_copies_of_sqlite_linked_into_the_same_application). Both may write
at once then, and a commit that was acknowledged is lost, or the file is damaged. Other processes may use any copy.

OS1. *Alone or not at all.* A file that another copy has open in this process is not opened, and nothing is committed
    to it. What a copy does that opens the file and closes it in between, nobody sees.
OS2. *Whose a file descriptor is* stands on it: each that apsw has opened is marked, ours and the user's own, and the
    mark goes with the descriptor, whatever number that has. Where a system does not list them, locks belong to
    handles, and copies do lock each other out (Windows).

Numbers would not do. SQLite keeps a descriptor that is closed while its file has locks, closes it when they are gone,
or gives it to the next connection; and then the number is free for another copy. The mark is O_NONBLOCK, which means
nothing for a file, and which no copy of SQLite sets.
"""

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import apsw

from rescind.errors import Transient

_LISTED_AT = "/dev/fd"
_LOOKS, _LOOK_EVERY_S = 100, 0.01  # whoever opens the file for a short look is let finish
_VFS = {"unix", "unix-excl"}  # of these it is known where the descriptor stands: any other puts a layer before it
_DESCRIPTOR_AT = 3 * ctypes.sizeof(ctypes.c_void_p)  # in SQLite's unixFile: methods, VFS, inode, descriptor

_lock = threading.Lock()


def connect(path: Path) -> "apsw.Connection":
    """A connection to this file, which must be there; `close` it. Raises: Transient, if it is open otherwise (OS1)."""
    for _ in range(_LOOKS):
        with _lock:
            if not _is_open_otherwise(path):
                connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
                _mark(connection)
                if _descriptor(connection, "main") is None:  # an apsw with another VFS
                    for number in _unmarked(path):  # there was none, so it is this one's
                        os.set_blocking(number, False)
                return connection
        time.sleep(_LOOK_EVERY_S)
    raise Transient(f"nothing was changed: {in_use(path)}")


def close(connection: "apsw.Connection") -> None:
    """Close it; what it had begun is rolled back."""
    with _lock:
        connection.close(True)


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
    if not any(_unmarked(path)):
        return False
    for connection in apsw.connections():  # it may have been there before this module was
        _mark(connection)
    return any(_unmarked(path))


def _mark(connection: "apsw.Connection") -> None:
    """Mark the descriptors of this connection, where they are known."""
    with suppress(apsw.Error, OSError):  # it is closed by now, or another thread is at it, or its file is gone
        for name in connection.db_names():
            number = _descriptor(connection, name)
            if number is not None:
                os.set_blocking(number, False)


def _descriptor(connection: "apsw.Connection", name: str) -> int | None:
    """The descriptor of one of its databases; None if it is in no file, or nobody knows."""
    path = connection.db_filename(name)
    if not path or connection.vfsname(name) not in _VFS:
        return None
    file = ctypes.c_void_p()
    known = connection.file_control(name, apsw.SQLITE_FCNTL_FILE_POINTER, ctypes.addressof(file))
    if not known or not file.value:
        return None
    number = ctypes.c_int.from_address(file.value + _DESCRIPTOR_AT).value
    return number if os.path.samestat(os.fstat(number), Path(path).stat()) else None


def _unmarked(path: Path) -> Iterator[int]:
    """This process's descriptors of the file that apsw has not opened."""
    wanted = path.stat()
    try:
        names = os.listdir(_LISTED_AT)
    except FileNotFoundError:
        return
    for name in names:
        with suppress(OSError):  # the one of the list itself, or one that was closed since
            number = int(name)
            if os.path.samestat(wanted, os.fstat(number)) and os.get_blocking(number):
                yield number


apsw.connection_hooks.append(_mark)  # now, for a descriptor may be closed before anybody looks, and stay all the same
