"""A redo as a session of `rescind undo`: another plan, the same showing, checking and applying."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.shown import selection_key
from rescind.cli.stores import store_words
from rescind.cli.undo_request import DIGITS_SHOWN, UndoRequest
from rescind.cli.undo_session import Session, run_session
from rescind.clock import SystemClock
from rescind.compensation.decision import Plan
from rescind.compensation.planning.mirror import FORTH, mirrored
from rescind.compensation.planning.redo import Applied, find_applied, make_redo_plan
from rescind.compensation.planning.selection import Selection
from rescind.compensation.port import Compensator
from rescind.compensation.way import Way

if TYPE_CHECKING:
    from rescind.database.address import StoreAt


class RedoRequest(UndoRequest, frozen=True, kw_only=True):
    """The words of one `rescind redo`; `redone` is the digest of the undo, or its beginning."""

    redone: str
    selection: Selection = Selection(agent="rescind-undo")

    @property
    def verb(self) -> str:
        """See `UndoRequest`."""
        return "redo"

    def command(self, *extra: str, store: "StoreAt") -> str:
        """See `UndoRequest`."""
        words = ["rescind", "redo", self.redone, *(["--app", self.app] if self.app else []), *store_words(store)]
        return " ".join(shlex.quote(safe(word)) for word in [*words, *extra])

    @property
    def conditions(self) -> list[tuple[str, str]]:
        """See `UndoRequest`."""
        return [("undone", f"by plan {safe(self.redone[:DIGITS_SHOWN])}")]


class RedoSession(Session, frozen=True, kw_only=True):
    """All that a redo works with."""

    @property
    def applied(self) -> Applied:
        """The undo that is redone. Raises: UsageError."""
        assert isinstance(self.request, RedoRequest)
        return find_applied(self.journal, self.request.redone)

    def plan(self) -> Plan:
        """See `Session`."""
        return make_redo_plan(self.journal, self.applied, self.compensators, SystemClock(), parallel=self.parallel)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """See `Session`."""
        return self.applied.runs

    @property
    def way(self) -> Way:
        """See `Session`."""
        return FORTH

    @property
    def tools(self) -> Mapping[str, Compensator]:
        """See `Session`."""
        return mirrored(self.compensators)

    def why_nothing(self) -> str:
        """See `Session`."""
        return "nothing that this plan undid is undone by it now"

    @property
    def key(self) -> str:
        """See `Session`."""
        return selection_key({"redo": self.applied.digest})


def run_redo(request: RedoRequest, out: Out) -> int:
    """Show the plan of the redo, or apply it. Returns the exit status."""
    return run_session(request, RedoSession, out)
