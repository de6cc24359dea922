"""Puts a tree back, path by path, so that being interrupted anywhere leaves something that can be finished.

Everything new is first made complete in a staging folder next to the guarded path, on the same file system; from there
it is renamed into place, in one move per path. So at any moment each path is as it was before the step or as the step
left it. The exceptions are marked by the staging folder, which goes last: a path whose type changes from or to a folder
is absent for a moment, and folders are writable for their owner while their contents change.
"""

import hashlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from rescind.compensation.effects.blobs import Blobs
from rescind.compensation.effects.manifest import (
    FILE,
    Entry,
    Manifest,
    Scan,
    as_name,
    folder_below,
    opened,
    signature_of,
)
from rescind.errors import Conflict, RescindError

_OWNER_ALL = 0o700
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NAMED_MAX = 10  # paths that a message names


class HalfWay(RescindError):
    """Some paths have been put back and others have not; the next restore finishes it."""


def restore_tree(
    parent: int, name: str, *, was: Manifest, left: Manifest, scan: Scan, blobs: Blobs, bytes_max: int
) -> None:
    """Make `name` in the open folder what `was` says, if it is what `left` says.

    What is overwritten is copied aside first, as far as `bytes_max` goes: it may be somebody's later content.

    Raises: Conflict, BlobDamaged, UsageError: nothing was changed, except as the class docstring of `Files` says of
        writers in the very moment; HalfWay; OSError: run it again.
    """
    staging = ".rescind-undo-" + hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    resuming = _exists(parent, staging)
    scan.run(parent, name)
    work = _Work(parent, name, staging, was, left, scan)
    pending = work.choose(resuming=resuming)
    if not pending and not resuming:
        return
    if not resuming:
        os.mkdir(staging, _OWNER_ALL, dir_fd=parent)
    _empty(parent, staging)
    try:
        work.keep(pending, blobs, bytes_max)
        work.stage(pending, blobs)
        work.check_untouched(pending)
    except BaseException:
        # Nothing has moved yet. An earlier, interrupted run needs its mark, though.
        _empty(parent, staging)
        if not resuming:
            os.rmdir(staging, dir_fd=parent)
        raise
    os.fsync(parent)  # the mark, before the first path between two states
    try:
        work.open_folders(pending)
        work.remove(pending)
        work.put(pending)
        work.close_folders()
        _empty(parent, staging)
        os.rmdir(staging, dir_fd=parent)
        os.fsync(parent)
    except OSError as error:
        raise HalfWay(f"{name} is put back in part, since {error}; mend that, then run the same undo again") from error


@dataclass
class _Work:
    """What there is, was and shall be."""

    parent: int
    name: str
    staging: str
    was: Manifest
    left: Manifest
    scan: Scan

    def choose(self, *, resuming: bool) -> list[str]:
        """The paths to change, parents first. Raises: Conflict."""
        now = self.scan.manifest
        pending: list[str] = []
        strange: list[str] = []
        for path in sorted(self.was.keys() | self.left.keys() | now.keys(), key=_names):
            here, old, new = now.get(path), self.was.get(path), self.left.get(path)
            if here == old:
                continue
            if here == new or (resuming and _is_between(here, old, new)):
                pending.append(path)
            else:
                strange.append(path or self.name)
        if strange:
            more = f" and {len(strange) - _NAMED_MAX} more" if len(strange) > _NAMED_MAX else ""
            raise Conflict(f"not as the step left it, so nothing was changed: {', '.join(strange[:_NAMED_MAX])}{more}")
        return pending

    def keep(self, pending: Iterable[str], blobs: Blobs, bytes_left: int) -> None:
        """Copy aside what goes, for the way back. What the step left there mostly is already."""
        for path in pending:
            here = self.scan.manifest.get(path)
            if here is None or here["type"] != "file" or here["size"] > bytes_left or blobs.holds(here["sha256"]):
                continue
            *above, name = (self.name, *_names(path))
            with folder_below(self.parent, tuple(above)) as folder, opened(name, FILE, folder) as file:
                bytes_left -= blobs.keep(file, bytes_max=here["size"])[1]

    def stage(self, pending: Iterable[str], blobs: Blobs) -> None:
        """Make what is to come complete, aside."""
        with folder_below(self.parent, (self.staging,)) as staging:
            for number, path in enumerate(pending):
                entry = self.was.get(path)
                if entry is None or self._only_mode_differs(path):
                    continue
                if entry["type"] == "folder":
                    os.mkdir(str(number), dir_fd=staging)
                    _set_mode(staging, str(number), entry["mode"] | _OWNER_ALL)
                elif entry["type"] == "link":
                    os.symlink(as_name(entry["target"]), str(number), dir_fd=staging)
                else:
                    _stage_file(staging, str(number), entry, blobs)
            os.fsync(staging)

    def check_untouched(self, pending: Iterable[str]) -> None:
        """Raises: Conflict, if a path was written to since we looked."""
        for path in pending:
            if self.scan.manifest.get(path) is None:
                continue
            *above, name = (self.name, *_names(path))
            with folder_below(self.parent, tuple(above)) as folder:
                if signature_of(os.stat(name, dir_fd=folder, follow_symlinks=False)) != self.scan.signatures[path]:
                    raise Conflict(f"{path or self.name} was written to just now, so nothing was changed")

    def open_folders(self, pending: Iterable[str]) -> None:
        """Make folders writable in which something changes."""
        for path in pending:
            above = "/".join(path.split("/")[:-1])
            entry = self.scan.manifest.get(above)
            if path and entry and entry["type"] == "folder" and entry["mode"] & _OWNER_ALL != _OWNER_ALL:
                self._set_mode(above, entry["mode"] | _OWNER_ALL)

    def remove(self, pending: list[str]) -> None:
        """Take away what was not there, and what a folder replaces or is replaced by; children first."""
        for path in reversed(pending):
            here, old = self.scan.manifest.get(path), self.was.get(path)
            if here is None or (old is not None and not _replaces_folder(here, old)):
                continue
            *above, name = (self.name, *_names(path))
            with folder_below(self.parent, tuple(above)) as folder:
                if here["type"] == "folder":
                    os.rmdir(name, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
                os.fsync(folder)

    def put(self, pending: Iterable[str]) -> None:
        """Move what was staged into place; parents first."""
        with folder_below(self.parent, (self.staging,)) as staging:
            for number, path in enumerate(pending):
                if path not in self.was or self._only_mode_differs(path):
                    continue
                *above, name = (self.name, *_names(path))
                with folder_below(self.parent, tuple(above)) as folder:
                    os.rename(str(number), name, src_dir_fd=staging, dst_dir_fd=folder)
                    os.fsync(folder)

    def close_folders(self) -> None:
        """Give folders their modes; children first."""
        for path in sorted(self.was, key=_names, reverse=True):
            if self.was[path]["type"] == "folder":
                self._set_mode(path, self.was[path]["mode"])

    def _only_mode_differs(self, path: str) -> bool:
        here, old = self.scan.manifest.get(path), self.was.get(path)
        return bool(here and old and here["type"] == old["type"] == "folder")

    def _set_mode(self, path: str, mode: int) -> None:
        *above, name = (self.name, *_names(path))
        with folder_below(self.parent, tuple(above)) as folder:
            _set_mode(folder, name, mode)


def _is_between(here: Entry | None, old: Entry | None, new: Entry | None) -> bool:
    """Whether an interrupted run of ours leaves a path like this."""
    if here is None:
        return old is not None and new is not None and _replaces_folder(old, new)
    if here["type"] != "folder":
        return False
    ends = [entry for entry in (old, new) if entry and entry["type"] == "folder"]
    return any(here["mode"] == entry["mode"] | _OWNER_ALL for entry in ends)


def _replaces_folder(one: Entry, other: Entry) -> bool:
    return bool((one["type"] == "folder") != (other["type"] == "folder"))


def _stage_file(staging: int, name: str, entry: Entry, blobs: Blobs) -> None:
    with opened(name, _NEW_FILE, staging) as file:
        blobs.copy_to(entry["sha256"], file)
        os.fchmod(file, entry["mode"])  # after the content: writing clears the set-user-id bit
        os.fsync(file)


def _set_mode(folder: int, name: str, mode: int) -> None:
    with folder_below(folder, (name,)) as here:
        if stat.S_IMODE(os.fstat(here).st_mode) != mode:
            os.fchmod(here, mode)
            os.fsync(here)


def _names(path: str) -> tuple[str, ...]:
    return tuple(as_name(path).split("/")) if path else ()


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _empty(parent: int, staging: str) -> None:
    """Clear the staging folder, which holds files, links and empty folders."""
    with folder_below(parent, (staging,)) as here:
        for name in os.listdir(here):
            is_folder = stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)
            (os.rmdir if is_folder else os.unlink)(name, dir_fd=here)
