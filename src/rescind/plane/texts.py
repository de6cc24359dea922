"""What people send as text, before it is kept for good."""

from rescind.errors import UsageError

TEXT_MAX = 2_000
"""Characters of a reason or a note: they are shown on one line."""


def needed(name: str, text: str) -> str:
    """The text, which must say something. Raises: UsageError."""
    if not text.strip():
        raise UsageError(f"{name} is empty; say why, for whoever reads the journal")
    return bounded(name, text)


def bounded(name: str, text: str) -> str:
    """The text, which may be empty, and must not be too long. Raises: UsageError."""
    if len(text) > TEXT_MAX:
        raise UsageError(f"{name} has {len(text):,} characters; at most {TEXT_MAX:,} are kept")
    return text
