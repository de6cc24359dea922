"""What a file or a folder tree is: a manifest of paths, types, modes, hashes and link targets.

Everything is opened relative to an open folder and without following links, so nothing outside the tree is ever
read, also while somebody swaps folders for links.
"""

import os
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rescind.compensation.effects.blobs import Blobs, hash_of
from rescind.errors import UsageError

Entry = dict[str, Any]
"""`type` (file, folder or link), and `mode`, `size`, `sha256` or `target` as the type has them."""

Manifest = dict[str, Entry]
"""Path below the guarded one, escaped by `as_text`, to its entry; "" is the guarded path itself. Empty if absent."""

Signature = tuple[int, ...]
"""What tells cheaply that a path was not written to since."""

_DEPTH_MAX = 100  # one open folder per level while scanning; a process commonly has 1024 handles
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # non-blocking: a pipe could stand there by now


@dataclass
class Scan:
    """One walk over a guarded path.

    Attributes:
        entries_max: How many paths there may be.
        keep: Where contents are copied; None to hash only.
        bytes_left: How many bytes may still be copied.
        keep_all: Whether more than that is refused; otherwise the rest is hashed only.
        sync_unless: If given, files that differ from this manifest, and all folders, are made durable.
    """

    entries_max: int
    keep: Blobs | None = None
    bytes_left: int = 0
    keep_all: bool = True
    sync_unless: Manifest | None = None
    manifest: Manifest = field(default_factory=lambda: Manifest())
    signatures: dict[str, Signature] = field(default_factory=lambda: dict[str, Signature]())

    def run(self, folder: int, name: str) -> "Scan":
        """Walk over `name` in the open folder.

        Raises: UsageError for too much, too deep, or what is no file, folder or link; OSError.
        """
        self._visit(folder, name, (), 0)
        return self

    def _visit(self, folder: int, name: str, path: tuple[str, ...], depth: int) -> None:
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if len(self.manifest) >= self.entries_max:
            raise UsageError(f"there are more than {self.entries_max:,} paths; raise entries_max, or choose less")
        if depth > _DEPTH_MAX:
            raise UsageError(f"folders are nested deeper than {_DEPTH_MAX}; choose a folder further down")
        key = "/".join(map(as_text, path))
        try:
            if stat.S_ISLNK(status.st_mode):
                self.manifest[key] = {"type": "link", "target": as_text(os.readlink(name, dir_fd=folder))}
                self.signatures[key] = signature_of(status)
                return
            if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
                raise UsageError(f"{name!r} is no file, folder or link, so it cannot be kept; choose a path without it")
            here = os.open(name, _FOLDER if stat.S_ISDIR(status.st_mode) else FILE, dir_fd=folder)
        except FileNotFoundError:
            return  # it went between the two questions
        try:
            self.signatures[key] = signature_of(status)
            if stat.S_ISDIR(status.st_mode):
                self._visit_folder(here, path, depth, key, stat.S_IMODE(status.st_mode))
            else:
                self._visit_file(here, name, key, stat.S_IMODE(status.st_mode))
        finally:
            os.close(here)

    def _visit_folder(self, here: int, path: tuple[str, ...], depth: int, key: str, mode: int) -> None:
        self.manifest[key] = {"type": "folder", "mode": mode}
        for child in sorted(os.listdir(here)):
            self._visit(here, child, (*path, child), depth + 1)
        if self.sync_unless is not None:
            os.fsync(here)

    def _visit_file(self, file: int, name: str, key: str, mode: int) -> None:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{name!r} became something else while it was read; nothing was done, try again")
        if self.keep is None or not (self.keep_all or status.st_size <= self.bytes_left):
            sha256, size = hash_of(file)
        else:
            sha256, size = self.keep.keep(file, bytes_max=self.bytes_left)
            self.bytes_left -= size
        self.manifest[key] = {"type": "file", "mode": mode, "size": size, "sha256": sha256}
        if self.sync_unless is not None and self.sync_unless.get(key) != self.manifest[key]:
            os.fsync(file)


@contextmanager
def opened(name: str | Path, flags: int, folder: int | None = None) -> Generator[int]:
    """An open handle, closed at the end of the block."""
    handle = os.open(name, flags, dir_fd=folder)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def folder_below(start: int | Path, names: tuple[str, ...], *, make_missing: bool = False) -> Generator[int]:
    """A handle on a folder some levels below another, reached without following a link.

    Raises: FileNotFoundError; other OSErrors, if a level is a link or no folder.
    """
    here = os.open(start, _FOLDER) if isinstance(start, Path) else os.dup(start)
    try:
        for name in names:
            assert name not in ("", ".", ".."), "a path out of a manifest leaves it"
            if make_missing:
                _make_folder(name, here)
            here, above = os.open(name, _FOLDER, dir_fd=here), here
            os.close(above)  # no longer `here`: an interrupt between the two lines closes nothing twice
        yield here
    finally:
        os.close(here)


def signature_of(status: os.stat_result) -> Signature:
    """The signature of a path with this status."""
    if stat.S_ISDIR(status.st_mode):  # its times move with its children, which have signatures of their own
        return (status.st_ino, status.st_mode)
    return (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def as_text(name: str) -> str:
    """A file name as text that JSON can hold: names may have bytes that are no UTF-8. See `as_name`."""
    return name.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def as_name(text: str) -> str:
    """The inverse of `as_text`."""
    return re.sub(r"\\(\\|udc[0-9a-f]{2})", _unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    escape = match.group(1)
    return escape if escape == "\\" else chr(int(escape[1:], 16))


def _make_folder(name: str, folder: int) -> None:
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        return
    os.fsync(folder)
