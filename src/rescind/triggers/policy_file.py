"""Policies read from files: as a whole or not at all, and every refusal names its line.

A file is a `rescind.yaml`, whose section `policy:` is read, or a policy by itself:

    mode: shadow                     # every rule counts and reports, none refuses; the default is enforce
    detect:                          # limits, by detector; `off` switches one off
      blast_radius: {records_per_run: 25}
    respond:                         # the first rule that matches decides, then the built-in ones
      - signal: blast_radius         # or blast_radius.records_per_run, or "*"
        severity: warning            # at least
        scope: agent:billing-agent   # whose signals
        times: 2                     # from the second such signal of a run on
        mode: enforce                # or shadow, or if_limited
        then: [read_only on agent@version, incident]
    require_approval: ["payment.*"]
    baseline: baseline.json          # of `rescind baseline learn`; relative to this file
    fleet: {evidence_guards: 2, stop_share_pct: 50}
    outage: {runs_min: 3, share_pct: 60, window_seconds: 60}
"""

import stat
import threading
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path

from rescind.config import load_settings
from rescind.errors import ConfigError
from rescind.triggers.marked import TEXT_BYTES_MAX, BadLine, Document
from rescind.triggers.policy import Policy
from rescind.triggers.policy_sections import DEFAULT_NAME, read_sections

LOOK_EVERY_S = 1.0
"""How often a policy's file is looked at: its change is in force within this time, for one `stat` a second."""


def load_policy(path: str | Path) -> Policy:
    """The policy of a `rescind.yaml`, or of a file that is one; with the built-in rules behind its own.

    Raises: ConfigError, which names the file, the line and the remedy.
    """
    source = Path(path)
    return read_policy(_read(source), name=str(source))


def policy_in_force(path: str | Path | None = None) -> Policy:
    """The policy of a file; else of the nearest `rescind.yaml` from here upwards, as a guard finds it; else built in.

    Raises: ConfigError.
    """
    source = Path(path) if path is not None else load_settings().source
    if source is None:
        return default_policy()
    # By its name where it lies here: that is how people call it, and lines of output are short.
    return load_policy(source.name if path is None and source.parent == Path.cwd() else source)


def default_policy() -> Policy:
    """The built-in policy, with detectors of its own."""
    return read_policy(b"", name="")


def default_text() -> str:
    """The built-in policy as it is written, with its comments."""
    return files("rescind.triggers").joinpath("default_policy.yaml").read_text(encoding="utf-8")


def read_policy(data: bytes, *, name: str, before_reading: Callable[[Path], None] = lambda _: None) -> Policy:
    """As `load_policy`, of what the file holds.

    Args:
        data: The file's bytes; empty means the built-in policy alone.
        name: What messages and rules call the file.
        before_reading: See `read_sections`.

    Raises: ConfigError.
    """
    try:
        return read_sections(Document(data), name=name, built_in=_built_in(), before_reading=before_reading)
    except BadLine as bad:
        raise ConfigError(f"{name}, line {bad.line}: {bad.problem}") from bad


@cache
def _built_in() -> Policy:
    # Its rules and limits are frozen and shared by all policies of a process; its detectors are never made.
    return read_sections(Document(default_text().encode()), name=DEFAULT_NAME, built_in=None)


def _read(source: Path) -> bytes:
    try:
        if not stat.S_ISREG(source.stat().st_mode):  # a pipe would be waited for
            raise ConfigError(f"{source} is no file")
        with source.open("rb") as file:
            return file.read(TEXT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from error


_Seen = tuple[int, ...]


class PolicyFile:
    """A policy in its file, read again when the file changes. Thread-safe.

    A file that cannot be used leaves the policy in force that was read before it: a slip of the finger must not switch
    off what protects, and `fault` says what is wrong for as long as it is. The baseline that the file names belongs to
    it: where that changes, or comes to be, the file is read again.
    """

    def __init__(self, path: str | Path | None) -> None:
        """Read it now.

        Args:
            path: A `rescind.yaml` or a policy; None means the built-in policy, which never changes.

        Raises: ConfigError, which names the file, the line and the remedy: a guard must not start under half a policy.
        """
        self._path = Path(path) if path is not None else None
        self._look_again_s = float("-inf")
        self._lock = threading.Lock()
        self.fault = ""
        self._seen: dict[Path, _Seen] = {}
        self._policy = default_policy() if self._path is None else _load(self._path, self._seen)

    @property
    def path(self) -> Path | None:
        """The file; None for the built-in policy."""
        return self._path

    def current(self, now_s: float | None = None) -> Policy:
        """The policy in force. Detectors whose limits have not changed are the same objects as before.

        Args:
            now_s: Seconds on a clock that only moves forward; the file is looked at once in `LOOK_EVERY_S`. None: it
                is not looked at.
        """
        if now_s is None or self._path is None or now_s < self._look_again_s:
            return self._policy
        if not self._lock.acquire(blocking=False):  # another thread looks; a call does not wait for that
            return self._policy
        try:
            self._look_again_s = now_s + LOOK_EVERY_S
            self._look(self._path)
        finally:
            self._lock.release()
        return self._policy

    def after_fork(self) -> None:
        """In a forked child: the thread that held the lock may not have come along."""
        self._lock = threading.Lock()

    def _look(self, path: Path) -> None:
        if all(_seen(file) == before for file, before in self._seen.items()):
            return
        seen: dict[Path, _Seen] = {}
        try:
            self._policy = _load(path, seen).taking_over(self._policy)
        except ConfigError as error:
            self.fault = f"{error}. The policy that was read before stays in force"
        except Exception as error:  # noqa: BLE001  # a mistake of ours: it is the file's reader that fails, and no call
            kind = type(error).__name__
            self.fault = f"{path} cannot be understood ({kind}). The policy that was read before stays in force"
        else:
            self.fault = ""
        # Of what was tried, and not of the policy in force: a missing baseline may yet be learned. And only now:
        # a child that is forked meanwhile tries by itself.
        self._seen = seen


def _load(path: Path, seen: dict[Path, _Seen]) -> Policy:
    """As `load_policy`. Puts into `seen` how each file was before it was read: a change meanwhile is seen later."""

    def before_reading(file: Path) -> None:
        seen[file] = _seen(file)

    before_reading(path)
    return read_policy(_read(path), name=str(path), before_reading=before_reading)


def _seen(path: Path) -> _Seen:
    # The inode too: an editor replaces the file, and its clock may be coarse.
    try:
        found = path.stat()
    except (OSError, ValueError):  # it is not there, or no path can be called that
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
