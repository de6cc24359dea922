"""The report of an incident: what happened, what was done, what is left. Folded from the journal.

It can be made at any time, and says of an open incident that it is open.
"""

import re
from typing import Any

import msgspec

from rescind.containment.timeline import Incident
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Journal, Query
from rescind.model.entry import PlanFinished, PlanStarted
from rescind.recovery.control import plan_run_id
from rescind.recovery.review import list_tasks
from rescind.recovery.stages import STAGES, Course, Stage, fold_course

_LINES_MAX = 200
"""Lines of the timeline in a report; it says how many there are."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that is to be told of an incident.

    Attributes:
        incident: The incident.
        course: What was done about it, stage by stage.
        undone: Counts of the undo by how its steps ended; empty if there was none.
        applied_by: Who had the plan applied.
        tasks: Review tasks of the undo: id, action, reason, steps, resolution.
    """

    incident: Incident
    course: Course
    undone: dict[str, int]
    applied_by: str
    tasks: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        incident: dict[str, Any] = msgspec.to_builtins(self.incident)
        incident["severity"] = self.incident.severity.label
        return {
            "incident": incident,
            "stages": {stage.value: msgspec.to_builtins(each) for stage, each in self.course.ended.items()},
            "approvals": {stage.value: msgspec.to_builtins(each) for stage, each in self.course.approved.items()},
            "undone": self.undone,
            "applied_by": self.applied_by,
            "tasks": list(self.tasks),
        }


def report_of(journal: Journal, incident: Incident) -> Report:
    """The report of this incident, as of now."""
    course = fold_course(every_entry(journal, Query(run_id=incident.incident_id)))
    approval = course.approved.get(Stage.COMPENSATE)
    digests = {str(course.fact(Stage.COMPENSATE, "digest") or ""), "" if approval is None else approval.subject}
    counts, by = _undone(journal, digests - {""})
    runs = {str(line.facts.get("run_id", "")) for line in incident.of("signal")}
    tasks = [
        task for task in list_tasks(journal, open_only=False) if not runs.isdisjoint(step.run_id for step in task.steps)
    ]
    return Report(
        incident=incident,
        course=course,
        undone=counts,
        applied_by=by,
        tasks=tuple(
            {
                "task_id": task.task_id,
                "action": task.action,
                "reason": task.reason,
                "steps": len(task.steps),
                "resolution": task.resolution,
                "resolved_by": task.resolved_by,
                "reference": task.reference,
            }
            for task in tasks
        ),
    )


def as_markdown(report: Report) -> str:
    """The report as Markdown, with everything that came from outside made harmless."""
    incident = report.incident
    state = "open" if incident.closed_at is None else f"closed by {_md(incident.closed_by)}: {_md(incident.close_note)}"
    lines = [
        f"# Incident {_md(incident.incident_id)}",
        "",
        f"{_md(incident.title)}",
        "",
        "| | |",
        "| --- | --- |",
        f"| state | {state} |",
        f"| severity | {incident.severity.label} |",
        f"| cause | {_md(incident.cause)} |",
        f"| opened | {incident.opened_at:%Y-%m-%d %H:%M:%S} UTC by {_md(incident.opened_by)} |",
        f"| signals | {incident.signals} |",
        "",
        "## What was done",
        "",
        *_stage_lines(report.course),
        "",
        *_undo_lines(report),
        "## What happened",
        "",
        *(
            f"- {line.at:%H:%M:%S} **{_md(line.what)}** {_md(line.detail)}{_by(line.actor)}"
            for line in incident.timeline[:_LINES_MAX]
        ),
    ]
    more = len(incident.timeline) - _LINES_MAX
    return "\n".join([*lines, *([f"- and {more} further lines"] if more > 0 else []), ""])


def _by(actor: str) -> str:
    return f" (by {_md(actor)})" if actor else ""


def _stage_lines(course: Course) -> list[str]:
    if not course.is_begun:
        return ["Nothing yet."]
    lines = ["| stage | | when | by | found |", "| --- | --- | --- | --- | --- |"]
    for stage in STAGES:
        ended = course.ended.get(stage)
        if ended is None:
            lines.append(f"| {stage.value} | {'waits' if stage is course.next else 'not yet'} | | | |")
            continue
        approval = course.approved.get(stage)
        by = _md(ended.actor) + (f", approved by {_md(approval.actor)}" if approval else "")
        lines.append(f"| {stage.value} | {_md(ended.how)} | {ended.at:%H:%M:%S} | {by} | {_md(ended.detail)} |")
    return lines


def _undo_lines(report: Report) -> list[str]:
    if not report.undone and not report.tasks:
        return []
    lines = ["## What was undone", ""]
    if report.undone:
        lines += ["| steps | ended as |", "| ---: | --- |"]
        lines += [f"| {count} | {_md(word.replace('_', ' '))} |" for word, count in report.undone.items()]
        lines.append("")
    if report.tasks:
        lines += ["| review task | steps | of | because | decided |", "| --- | ---: | --- | --- | --- |"]
        for task in report.tasks:
            reference = f" ({task['reference']})" if task["reference"] else ""
            decided = f"{task['resolution']} by {task['resolved_by']}{reference}"
            shown = "**open**" if not task["resolution"] else _md(decided)
            cells = (_md(task["task_id"]), str(task["steps"]), _md(task["action"]), _md(task["reason"]), shown)
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines


def _undone(journal: Journal, digests: set[str]) -> tuple[dict[str, int], str]:
    counts: dict[str, int] = {}
    by = ""
    for digest in sorted(digests):
        for entry in readable_entries(journal, Query(run_id=plan_run_id(digest)), []):
            if isinstance(entry.event, PlanStarted):
                by = entry.event.actor
            elif isinstance(entry.event, PlanFinished):
                counts = dict(entry.event.counts)
    return counts, by


def _md(value: object) -> str:
    """Text that may be hostile, as one line of Markdown that is only text."""
    text = str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    text = "".join(f"\\{c}" if c in "\\`*[]<>|#!&~" else c for c in text)
    # Between letters and digits an underscore is only itself, and an id must be fit to be pasted from the source, too.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
