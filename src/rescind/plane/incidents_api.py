"""The requests about incidents, and about who acted on what some steps wrote."""

from typing import Annotated, Any

from litestar import get, post
from litestar.params import Parameter

from rescind.compensation.planning.aftermath import read_impact
from rescind.compensation.planning.impact import reach_of
from rescind.compensation.planning.selection import select_steps
from rescind.containment.incident import incident_of, list_incidents
from rescind.errors import EntryUnreadable, UsageError
from rescind.plane.documents import Approval, ImpactDoc, IncidentPage, OneIncident, SelectionDoc
from rescind.plane.pages import After, Most, page_of
from rescind.plane.plane import Plane
from rescind.plane.texts import bounded
from rescind.recovery.course import approve, read_course
from rescind.recovery.reading import the_one_meant
from rescind.recovery.report import as_markdown, report_of
from rescind.recovery.stages import GATED, Course, Stage
from rescind.web.tokens import Caller

AffectedMost = Annotated[int, Parameter(ge=1, le=100_000, description="How many of each kind are named at most.")]


@post(
    "/v1/impact", tags=["impact"], summary="Who acted on what these steps wrote", status_code=200, sync_to_thread=True
)
def show_impact(data: SelectionDoc, plane: Plane, viewer: Caller, limit: AffectedMost = 1_000) -> ImpactDoc:
    """Changes nothing; a selection is too long for an address."""
    found = read_impact(plane.journal, select_steps(plane.journal, data.selection()))
    return ImpactDoc(
        roots=tuple(write.ref for write in found.roots[:limit]),
        roots_total=len(found.roots),
        affected=found.affected[:limit],
        affected_total=len(found.affected),
        readers=found.readers[:limit],
        readers_total=len(found.readers),
        reach=reach_of(found),
        runs=tuple(found.runs.values())[:limit],
        reads_missing=found.reads_missing,
        unclosed=found.unclosed,
    )


@get("/v1/incidents", tags=["incidents"], summary="What was noticed", sync_to_thread=True)
def list_every_incident(
    plane: Plane,
    viewer: Caller,
    every: bool = False,  # a query parameter
    after: After = "",
    limit: Most = 100,
) -> IncidentPage:
    """Open incidents, or `every` one, oldest first, without their timelines."""
    gaps: list[EntryUnreadable] = []
    found = [incident for incident in list_incidents(plane.journal, gaps=gaps) if every or incident.is_open]
    page, further = page_of(found, lambda incident: incident.incident_id, after, limit)
    told = tuple(incident.as_dict(whole=False) for incident in page)
    return IncidentPage(incidents=told, after=further, unreadable=tuple(gap.sequence for gap in gaps))


@get("/v1/incidents/{incident_id:str}", tags=["incidents"], summary="One incident", sync_to_thread=True)
def show_incident(incident_id: str, plane: Plane, viewer: Caller) -> OneIncident:
    """Its timeline, and where its course stands. The beginning of its id will do."""
    return _incident(plane, _meant(plane, incident_id))


@get("/v1/incidents/{incident_id:str}/report", tags=["incidents"], summary="All of it, as JSON", sync_to_thread=True)
def report_incident(incident_id: str, plane: Plane, viewer: Caller) -> dict[str, Any]:
    """What happened, what was done, what is left."""
    return report_of(plane.journal, incident_of(plane.journal, _meant(plane, incident_id))).as_dict()


@get(
    "/v1/incidents/{incident_id:str}/report.md",
    tags=["incidents"],
    summary="All of it, as Markdown",
    media_type="text/markdown",
    sync_to_thread=True,
)
def report_incident_as_markdown(incident_id: str, plane: Plane, viewer: Caller) -> str:
    """For people, with everything that came from outside made harmless."""
    return as_markdown(report_of(plane.journal, incident_of(plane.journal, _meant(plane, incident_id))))


@post(
    "/v1/incidents/{incident_id:str}/approval",
    tags=["incidents"],
    summary="Let the stage that waits begin",
    status_code=200,
    sync_to_thread=True,
)
def approve_incident(incident_id: str, data: Approval, plane: Plane, approver: Caller) -> OneIncident:
    """Exactly the plan that was shown, by its digest; 409 if it is another one by now."""
    meant, digest = _meant(plane, incident_id), data.digest.strip().lower()
    if len(digest) < 8 or not set(digest) <= set("0123456789abcdef"):
        raise UsageError(f"{data.digest!r} is no digest; give 8 or more of the digits that were shown")
    course = read_course(plane.journal, meant)
    if not _was_approved(course, digest, approver):
        stage = course.next or Stage.RESUME
        note = bounded("note", data.note)
        approve(plane.journal, meant, stage, digest, actor=approver.name, note=note, clock=plane.clock)
    return _incident(plane, meant)


def _was_approved(course: Course, digest: str, approver: Caller) -> bool:
    """Whether the stage to do now was let begin by this very approval: its answer was lost, then (PL4)."""
    stage = course.next
    if stage is None or stage not in GATED or course.waits_for_approval(stage):
        return False
    given = course.approved[stage]
    return given.subject.startswith(digest) and given.actor == approver.name


def _meant(plane: Plane, text: str) -> str:
    gaps: list[EntryUnreadable] = []
    known = [each.incident_id for each in list_incidents(plane.journal, gaps=gaps)]
    return the_one_meant(text, [*known, *(gap.run_id for gap in gaps)], what="incident")


def _incident(plane: Plane, incident_id: str) -> OneIncident:
    course = read_course(plane.journal, incident_id)
    stage = course.next
    return OneIncident(
        incident=incident_of(plane.journal, incident_id).as_dict(),
        next_stage="" if stage is None else stage.value,
        waits=stage is not None and course.waits_for_approval(stage),
        digest=course.subject_of(Stage.COMPENSATE),
    )


HANDLERS = (
    show_impact,
    list_every_incident,
    show_incident,
    report_incident,
    report_incident_as_markdown,
    approve_incident,
)
