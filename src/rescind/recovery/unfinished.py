"""What is not finished in a store: undos under way, writes that wait for a yes, review tasks, open incidents.

UF1. *Only reading.* Looking changes nothing, and asks no target system.
UF2. *Quick.* Only the runs of plans, approvals and incidents and the entries of review tasks are read, never those of
    the steps: it takes as long in a journal of a million steps as in one of a hundred. How far an undo is, which needs
    them, `recovery.undos` tells. Of one that nobody goes on with, their last entries are looked for by halving.
UF3. *A gap hides nothing else.* What cannot be read is named, and the rest is told.
"""

from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from rescind.containment.incident import INCIDENT_AGENT
from rescind.containment.timeline import fold_incidents
from rescind.errors import EntryUnreadable
from rescind.journal.pages import readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.approval import Approval
from rescind.model.history import ReviewTask
from rescind.recovery.appliers import Appliers
from rescind.recovery.approvals import list_approvals
from rescind.recovery.review import list_tasks
from rescind.recovery.stages import FAILED, Course, fold_course
from rescind.recovery.undos import OpenUndo, open_undos

if TYPE_CHECKING:
    from rescind.model.entry import Entry


class OpenIncident(msgspec.Struct, frozen=True, kw_only=True):
    """An incident that nobody has closed.

    Attributes:
        title: What its first signal said.
        opened_at: When it began; aware, UTC.
        stage: The next stage of its course; empty if nobody has begun to recover it, or every stage is done.
        waits: Whether a person has to let that stage begin.
        failed: Why that stage failed when it was tried last; empty if it did not.
    """

    incident_id: str
    title: str
    opened_at: datetime
    stage: str = ""
    waits: bool = False
    failed: str = ""


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """What is not finished, each kind oldest first.

    Attributes:
        undos: Those that have not ended: under way, paused, or left to workers that have not begun.
        approvals: Writes that wait for a person.
        tasks: Review tasks that are open.
        incidents: Those that are open.
        gaps: Entries that could not be read; something of their runs may be missing here.
    """

    undos: tuple[OpenUndo, ...]
    approvals: tuple[Approval, ...]
    tasks: tuple[ReviewTask, ...]
    incidents: tuple[OpenIncident, ...]
    gaps: tuple[EntryUnreadable, ...] = ()

    def overdue(self, now: datetime) -> tuple[ReviewTask, ...]:
        """The tasks that should have been decided by then, the longest overdue first."""
        late = [task for task in self.tasks if task.is_overdue(now)]
        return tuple(sorted(late, key=lambda task: (task.due_at or now, task.task_id)))


def unfinished_of(
    journal: Journal,
    *,
    now: datetime,
    appliers: Appliers | None = None,
    has_workers: Callable[[], bool] | None = None,
) -> Unfinished:
    """What is not finished in this journal.

    Args:
        journal: Where to look.
        now: An aware moment; decides which approvals have expired.
        appliers: As for `open_undos`.
        has_workers: As for `open_undos`.

    Raises: JournalUnavailable.
    """
    gaps: list[EntryUnreadable] = []
    return Unfinished(
        undos=tuple(open_undos(journal, gaps=gaps, appliers=appliers, has_workers=has_workers)),
        approvals=tuple(list_approvals(journal, now=now, gaps=gaps)),
        tasks=tuple(list_tasks(journal, gaps=gaps)),
        incidents=tuple(_open_incidents(journal, gaps)),
        gaps=tuple({gap.sequence: gap for gap in gaps}.values()),
    )


def _open_incidents(journal: Journal, gaps: list[EntryUnreadable]) -> list[OpenIncident]:
    entries = list(readable_entries(journal, Query(agent_name=INCIDENT_AGENT), gaps))
    runs: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        runs[entry.run.run_id].append(entry)
    found: list[OpenIncident] = []
    for incident in fold_incidents(entries):
        if not incident.is_open:
            continue
        course = fold_course(runs[incident.incident_id])
        stage = course.next if course.is_begun else None
        found.append(
            OpenIncident(
                incident_id=incident.incident_id,
                title=incident.title,
                opened_at=incident.opened_at,
                stage="" if stage is None else stage.value,
                waits=stage is not None and course.waits_for_approval(stage),
                failed=_failure(course),
            )
        )
    return found


def _failure(course: Course) -> str:
    ended = None if course.next is None else course.ended.get(course.next)
    return ended.detail if ended is not None and ended.how == FAILED else ""
