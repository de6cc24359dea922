"""The ladder of levels: what a run may still do.

A level is a height on one ladder, so that orders combine by `max` and severity always wins over scope.
"""

import enum


class Level(enum.IntEnum):
    """How far a run is held back. Higher is more severe, and the most severe standing order decides."""

    NORMAL = 0
    SUPERVISED = 1
    READ_ONLY = 2
    PAUSED = 3
    HALTED = 4

    @property
    def label(self) -> str:
        """The name in files, on the wire and in messages: `read_only`."""
        return self.name.lower()

    @property
    def allows_reads(self) -> bool:
        """Whether a new read may start."""
        return self < Level.PAUSED

    @property
    def allows_writes(self) -> bool:
        """Whether a new write may start without anybody's approval."""
        return self == Level.NORMAL

    @classmethod
    def parse(cls, text: str) -> "Level":
        """Read a level as a person types it: `read-only`, `READ_ONLY` and `read_only` are one.

        Raises: ValueError, naming the five levels, for anything else.
        """
        name = text.strip().replace("-", "_").upper()
        try:
            return cls[name]
        except KeyError:
            known = ", ".join(level.label for level in cls)
            raise ValueError(f"unknown level {text!r}; the levels are: {known}") from None
