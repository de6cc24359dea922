"""What open journals do when their process forks: no connection and no lock may exist on both sides."""

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """A journal with threads and connections."""

    def before_fork(self) -> None:
        """Come to rest without any connection."""
        ...

    def after_fork_in_parent(self) -> None:
        """Go on."""
        ...

    def after_fork_in_child(self) -> None:
        """Begin anew, on connections of the child's own."""
        ...


def survive_forks(journal: Forkable) -> None:
    """Tell this journal of every fork, for as long as it lives."""
    _OPEN.add(journal)


_OPEN: weakref.WeakSet[Forkable] = weakref.WeakSet()

# Those that came to rest before the fork under way; others may be opened or dropped meanwhile.
_RESTING: list[Forkable] = []


def _before_fork() -> None:
    for journal in list(_OPEN):
        journal.before_fork()
        _RESTING.append(journal)


def _after_fork_in_parent() -> None:
    while _RESTING:
        _RESTING.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    while _RESTING:
        _RESTING.pop().after_fork_in_child()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
