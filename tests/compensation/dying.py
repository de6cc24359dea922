"""A process that dies: by an exception that nothing catches, and from then on nothing of it reaches the journal."""

from collections.abc import Callable, Sequence
from typing import Any

from rescind.journal.memory import MemoryJournal
from rescind.journal.port import Draft
from rescind.testing.faulty import FaultyJournal


class Died(BaseException):
    """The process is gone."""


class Fuse:
    """Counts requests, each before and after, and dies at one of them. Everything is dead afterwards."""

    def __init__(self) -> None:
        self.left = -1  # never

    def burn(self) -> None:
        if self.left == 0:
            raise Died
        self.left -= 1

    @property
    def is_burnt(self) -> bool:
        return self.left == 0

    def around(self, request: Callable[[], Any]) -> Any:
        self.burn()
        answer = request()
        self.burn()
        return answer


class FusedJournal(FaultyJournal):
    def __init__(self, journal: MemoryJournal, fuse: Fuse) -> None:
        super().__init__(journal, lambda drafts: False)
        self._fuse = fuse

    def append(self, drafts: Sequence[Draft]) -> Any:
        return self._fuse.around(lambda: super(FusedJournal, self).append(drafts))
