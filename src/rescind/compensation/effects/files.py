"""A file or a folder tree as an effect."""

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rescind.compensation.effects.blobs import BlobDamaged, Blobs
from rescind.compensation.effects.files_restore import restore_tree
from rescind.compensation.effects.manifest import Manifest, Scan, as_name, as_text, folder_below
from rescind.compensation.effects.one_place import OnePlace, before_of
from rescind.errors import Conflict, UsageError
from rescind.guard.effect import Call, PastStep
from rescind.model.step import Snapshot, Target


class Files(OnePlace):
    """A file or a folder tree below `root`, before and after a call; the undo puts it back as it was.

        reports = Files(lambda name: f"reports/{name}.md", root="/srv/agent", keep="/var/lib/agent/kept")

        @guard.write("report.write", effect=reports)
        def write_report(name: str, text: str) -> None:
            Path(f"/srv/agent/reports/{name}.md").write_text(text)

    Before the call every file's content is copied into `keep`, once per content. The undo applies if every path is as
    the call left it, or is back already; one that is neither is a conflict that names it, and nothing is changed.
    Interrupted in the middle, it is finished by the next one. What the call left is kept too, as far as `bytes_max`
    goes, so that an undo can itself be undone; where it did not go so far, that is a conflict.

    Types, contents, permission bits and link targets are kept; owners, times, extended attributes and shared inodes are
    not. Links are kept as links and never followed, neither below `path` nor on the way to it once it is recorded.
    Folders above `path` that the tool creates remain.

    A file system has no conditional write. Each path is looked at again just before it is replaced, but a program that
    writes in that very moment loses its write. If the tool raises, its step is *failed* if everything is as it was.
    """

    def __init__(
        self,
        path: Callable[..., str | Path],
        *,
        root: str | Path,
        keep: str | Path,
        system: str = "file",
        bytes_max: int = 100 << 20,
        entries_max: int = 1000,
    ) -> None:
        """Guard paths below `root`.

        Args:
            path: Which file or folder, as a function of those of the tool's arguments that it names; relative to
                `root`, or absolute and below it.
            root: The folder that no path may leave; it must exist when a call is made.
            keep: Where contents are kept. Not below a guarded path; the undo needs it, and nothing cleans it up.
            system: What targets call the file system.
            bytes_max: How much one call may need to copy; more is refused before the tool runs.
            entries_max: How many paths one call may concern; they are listed in the journal.
        """
        super().__init__(path, role="path", system=system)
        self._root = Path(root)
        self._blobs = Blobs(Path(keep).absolute())
        self._bytes_max, self._entries_max = bytes_max, entries_max
        self._lock = threading.Lock()

    def target(self, arguments: Mapping[str, Any]) -> Target:
        """The target of a call with these arguments: the path below the root."""
        return Target(self._system, "path", self._locate(arguments))

    def open(self, call: Call) -> "_FilesTouch":
        """See `Effect`.

        Raises: UsageError for a path that leaves the root, or too much to keep; OSError.
        """
        path = self._locate(call.arguments)
        scan = Scan(self._entries_max, keep=self._blobs, bytes_left=self._bytes_max)
        return _FilesTouch(self, path, self.look(path, scan))

    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`."""
        return self.look(step.before["path"], self.scan()) if step.before else None

    def snapshot_of(self, step: PastStep, image: Any) -> Snapshot:
        """See `Imaging`. `entries` by path, none for a path that is not to be there; only contents that are kept."""
        return _snapshot(step.before["path"], image["entries"] if image else {})

    def restore(self, step: PastStep) -> None:
        """See `Effect`."""
        before, after = before_of(step, "the content from"), step.after_snapshot
        path = before.image["path"]
        with self._lock:
            if after is None or not after.image:
                if self.look(path, self.scan()).version == before.version:
                    return
                raise Conflict(f"how the step left {path} was not recorded, so it was not touched")
            *above, name = _names(path)
            missing = self._is_missing(above)
            if missing and before.absent:
                return  # gone with the folder it was in
            if missing and after.image["entries"]:
                raise Conflict(f"{path} is gone with the folder it was in, so nothing was changed")
            try:
                with folder_below(self._resolved_root(), tuple(above), make_missing=missing) as parent:
                    restore_tree(
                        parent,
                        name,
                        was=before.image["entries"],
                        left=after.image["entries"],
                        scan=self.scan(),
                        blobs=self._blobs,
                        bytes_max=self._bytes_max,
                    )
            except FileNotFoundError as error:
                raise Conflict(f"{path} changed while it was put back: {error}") from error
            except (BlobDamaged, UsageError, PermissionError, NotADirectoryError) as error:
                raise Conflict(f"{path}: {error}") from error

    def _is_missing(self, names: list[str]) -> bool:
        """Whether a folder above the path is not there."""
        try:
            with folder_below(self._resolved_root(), tuple(names)):
                return False
        except FileNotFoundError:
            return True
        except OSError as error:
            raise Conflict(f"{'/'.join(names)} is no folder any more: {error}") from error

    def look_after(self, path: str, before: Snapshot) -> Snapshot:
        """The path after the tool, made durable; contents are kept for the way back, as far as `bytes_max` allows."""
        scan = Scan(self._entries_max, keep=self._blobs, bytes_left=self._bytes_max, keep_all=False)
        scan.sync_unless = before.image["entries"]
        return self.look(path, scan)

    def scan(self) -> Scan:
        """A walk that keeps nothing aside."""
        return Scan(self._entries_max)

    def look(self, path: str, scan: Scan) -> Snapshot:
        """The path now, through a fresh walk."""
        *above, name = _names(path)
        with ExitStack() as stack:
            try:
                parent = stack.enter_context(folder_below(self._resolved_root(), tuple(above)))
            except FileNotFoundError:
                return _snapshot(path, {})
            # Not in that block: a file that goes while its folder is read does not make the folder absent.
            entries = scan.run(parent, name).manifest
            if scan.sync_unless is not None:
                os.fsync(parent)
        return _snapshot(path, entries)

    def _resolved_root(self) -> Path:
        try:
            return self._root.resolve(strict=True)
        except OSError as error:
            raise UsageError(f"the root {self._root} cannot be used: {error}") from error

    def _locate(self, arguments: Mapping[str, Any]) -> str:
        """The path below the root, links on the way to it resolved."""
        root = os.fspath(self._resolved_root())
        chosen: Any = self._named(arguments)
        try:
            whole = os.path.join(root, chosen)
            if os.path.basename(whole) in ("", ".", ".."):
                whole = os.path.realpath(whole)
            above, name = os.path.split(whole)
            place = os.path.join(os.path.realpath(above), name)
            os.fsencode(place)  # a text that no file system can have would be escaped into another one's name
        except (ValueError, TypeError) as error:
            raise UsageError(f"path returned {chosen!r}, which is no path: {error}") from error
        if not place.startswith(root.rstrip("/") + "/"):
            raise UsageError(f"path {chosen!r} is not below the root {root}; the tool was not run")
        if "\0" in place:
            raise UsageError(f"path {chosen!r} has a zero byte; the tool was not run")
        kept = os.path.realpath(self._blobs.folder)
        if (kept + "/").startswith(place + "/"):
            raise UsageError(f"the copies are kept in {kept}, inside the guarded path {chosen!r}; keep them elsewhere")
        return as_text(os.path.relpath(place, root))


def _snapshot(path: str, entries: Manifest) -> Snapshot:
    return Snapshot.of({"path": path, "entries": entries}, absent=not entries)


def _names(path: str) -> list[str]:
    return as_name(path).split("/")


class _FilesTouch:
    """See `Touch`."""

    def __init__(self, effect: Files, path: str, before: Snapshot) -> None:
        self.before = before
        self._effect, self._path = effect, path

    def settle(self, result: Any) -> Snapshot:
        """See `Touch`."""
        return self._effect.look_after(self._path, self.before)

    def abandon(self) -> bool:
        """See `Touch`."""
        try:
            return self._effect.look(self._path, self._effect.scan()) == self.before
        except (OSError, UsageError):
            return False
