"""Contents of files kept aside, each under its own hash.

A blob is complete as soon as it has its name: it is written elsewhere, made durable, and renamed. What is read is
hashed again, so a damaged copy is noticed before it is put anywhere.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rescind.errors import RescindError, UsageError

_CHUNK_BYTES = 1 << 20


class BlobDamaged(RescindError):
    """The copy that was kept is missing, or is not what was kept."""


class Blobs:
    """A folder of blobs, `sha256/ab/cdef…`; readable for its owner only. Several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, file: int, *, bytes_max: int) -> tuple[str, int]:
        """Copy the open file, unless its content is here already. Durable when it returns.

        Returns: the hash in hexadecimal, and the size in bytes.
        Raises: UsageError, if it is longer than `bytes_max` or changes meanwhile; OSError.
        """
        sha256, size = hash_of(file, bytes_max=bytes_max)
        path = self._path(sha256)
        if path.exists() and path.stat().st_size == size:
            _sync_folder(path.parent)  # whoever kept it may have died, or be about to, before its name was durable
            return sha256, size
        self._make_folder(path.parent)
        copy, name = tempfile.mkstemp(prefix="unfinished-", dir=path.parent)
        try:
            with os.fdopen(copy, "wb") as out:
                digest = hashlib.sha256()
                for chunk in _chunks(file):
                    digest.update(chunk)
                    out.write(chunk)
                if digest.hexdigest() != sha256:
                    raise UsageError("a file changed while it was copied aside; nothing was done, try again")
                out.flush()
                os.fsync(out.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
        return sha256, size

    def holds(self, sha256: str) -> bool:
        """Whether a copy is here; it may be damaged."""
        return self._path(sha256).exists()

    def copy_to(self, sha256: str, out: int) -> None:
        """Write a blob into an open file.

        Raises: BlobDamaged; the file then holds something wrong.
        """
        digest = hashlib.sha256()
        try:
            blob = os.open(self._path(sha256), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise BlobDamaged(f"the copy {sha256} is missing from {self.folder}") from error
        try:
            for chunk in _chunks(blob):
                digest.update(chunk)
                write_all(out, chunk)
        finally:
            os.close(blob)
        if digest.hexdigest() != sha256:
            raise BlobDamaged(f"the copy {sha256} in {self.folder} is damaged")

    def _path(self, sha256: str) -> Path:
        return self.folder / "sha256" / sha256[:2] / sha256[2:]

    def _make_folder(self, folder: Path) -> None:
        missing = [level for level in (folder, *folder.parents) if not level.exists()]
        for level in reversed(missing):
            level.mkdir(mode=0o700, exist_ok=True)
            _sync_folder(level.parent)


def hash_of(file: int, *, bytes_max: int | None = None) -> tuple[str, int]:
    """SHA-256 of an open file in hexadecimal, and its size. Raises: UsageError beyond `bytes_max`."""
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(file):
        digest.update(chunk)
        size += len(chunk)
        if bytes_max is not None and size > bytes_max:
            raise UsageError("there is more to keep aside than bytes_max allows; raise it, or choose less")
    return digest.hexdigest(), size


def write_all(out: int, chunk: bytes) -> None:
    """Write the whole chunk."""
    view = memoryview(chunk)
    while view:
        view = view[os.write(out, view) :]


def _chunks(file: int) -> Iterator[bytes]:
    os.lseek(file, 0, os.SEEK_SET)
    while chunk := os.read(file, _CHUNK_BYTES):
        yield chunk


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
