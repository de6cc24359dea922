"""What a person was last shown: the digest of the plan, per selection and user, in a small file of the store.

`undo --apply` executes what was shown. Between showing and applying lies another process and perhaps a coffee, so the
digest is kept here; whoever applies compares.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from rescind.model.step import canonical_json

SHOWN_NAME = "shown-plans.json"

KEPT_MAX = 100
"""Selections that are remembered; the oldest are forgotten, and their plan is shown again before it is applied."""


def selection_key(selection: dict[str, Any], *, user: int | None = None) -> str:
    """One name for equal selections by one user: SHA-256 over their JSON values.

    Args:
        selection: What was selected.
        user: The user's number; who runs this, by default. What one person was shown, no other has seen.
    """
    shown_to = {"selection": selection, "user": os.getuid() if user is None else user}
    return hashlib.sha256(canonical_json(shown_to)).hexdigest()


def last_shown(store: Path, key: str) -> str | None:
    """The digest that was last shown for the selection; None if none is known, or if the file cannot be read."""
    return _read(store).get(key)


def was_shown(store: Path, digest: str) -> bool:
    """Whether a plan whose digest begins so was the last one that was shown for its selection, to anybody."""
    return any(each.startswith(digest) for each in _read(store).values())


def remember_shown(store: Path, key: str, digest: str) -> bool:
    """Keep what was shown. Returns whether that worked: a plan is worth showing on a read-only disk, too."""
    shown = _read(store)
    shown.pop(key, None)
    shown[key] = digest
    kept = dict(list(shown.items())[-KEPT_MAX:])
    try:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(store / SHOWN_NAME, kept)
    except OSError:
        return False
    return True


def forget_shown(store: Path, key: str) -> None:
    """The plan was applied: what comes next for the selection is a new plan."""
    shown = _read(store)
    if shown.pop(key, None) is not None:
        with contextlib.suppress(OSError):
            _replace(store / SHOWN_NAME, shown)


def _read(store: Path) -> dict[str, str]:
    # A damaged file is as good as none: the plan is then shown before it is applied.
    try:
        return msgspec.json.decode((store / SHOWN_NAME).read_bytes(), type=dict[str, str])
    except (OSError, ValueError):
        return {}


def _replace(path: Path, shown: dict[str, str]) -> None:
    # mkstemp makes the file with mode 0600, and a rename is seen whole or not at all.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(shown))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
