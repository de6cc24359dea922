"""The requests about review tasks: what an undo left to a person, and what the person decided."""

from litestar import get, post

from rescind.clock import from_us
from rescind.compensation.planning.selection import read_steps
from rescind.errors import AlreadySettled, EntryUnreadable
from rescind.model.history import ReviewTask
from rescind.plane.documents import (
    STEPS_SHOWN,
    Assignee,
    CommentDoc,
    Due,
    OneReview,
    ResolutionDoc,
    ReviewDoc,
    ReviewPage,
)
from rescind.plane.pages import After, Most, page_of
from rescind.plane.plane import Plane
from rescind.recovery.review import assign_task, comment_on, find_task, list_tasks, resolve_task, set_due
from rescind.web.edge import builtins_of
from rescind.web.tokens import Caller


@get("/v1/reviews", tags=["reviews"], summary="What waits for a decision", sync_to_thread=True)
def list_reviews(
    plane: Plane,
    viewer: Caller,
    every: bool = False,  # query parameters
    assignee: str | None = None,
    overdue: bool = False,
    after: After = "",
    limit: Most = 100,
) -> ReviewPage:
    """Open tasks, or `every` one, oldest first; of one person by `assignee`, which is empty for those of nobody."""
    now = from_us(plane.clock.now_us())
    gaps: list[EntryUnreadable] = []
    found = [
        task
        for task in list_tasks(plane.journal, open_only=not every, gaps=gaps)
        if (assignee is None or task.assignee == assignee) and (not overdue or task.is_overdue(now))
    ]
    page, further = page_of(found, lambda task: task.task_id, after, limit)
    return ReviewPage(
        tasks=tuple(ReviewDoc.of(task, now) for task in page),
        after=further,
        unreadable=tuple(gap.sequence for gap in gaps),
    )


@get("/v1/reviews/{task_id:str}", tags=["reviews"], summary="One task, and its steps", sync_to_thread=True)
def show_review(task_id: str, plane: Plane, viewer: Caller) -> OneReview:
    """The beginning of its id will do. Its first steps come with all that the journal knows of them."""
    task = find_task(plane.journal, task_id)
    wanted = frozenset(task.steps[:STEPS_SHOWN])
    records = read_steps(plane.journal, dict.fromkeys(step.run_id for step in task.steps[:STEPS_SHOWN]))
    doc = _doc(plane, task)
    return OneReview(
        task=doc.task,
        steps_total=doc.steps_total,
        overdue=doc.overdue,
        records=tuple(builtins_of(record) for record in records if record.ref in wanted),
    )


@post(
    "/v1/reviews/{task_id:str}/assignee", tags=["reviews"], summary="Whose it is", status_code=200, sync_to_thread=True
)
def assign_review(task_id: str, data: Assignee, plane: Plane, operator: Caller) -> ReviewDoc:
    """An empty name makes it nobody's. Decides nothing."""
    name = data.assignee.strip()
    return _doc(plane, assign_task(plane.journal, task_id, name, actor=operator.name, clock=plane.clock))


@post("/v1/reviews/{task_id:str}/due", tags=["reviews"], summary="Until when", status_code=200, sync_to_thread=True)
def set_review_due(task_id: str, data: Due, plane: Plane, operator: Caller) -> ReviewDoc:
    """Until when it should be decided. An overdue task stays open."""
    return _doc(plane, set_due(plane.journal, task_id, data.due_at, actor=operator.name, clock=plane.clock))


@post(
    "/v1/reviews/{task_id:str}/comments",
    tags=["reviews"],
    summary="Say something about it",
    status_code=200,
    sync_to_thread=True,
)
def comment_on_review(task_id: str, data: CommentDoc, plane: Plane, operator: Caller) -> ReviewDoc:
    """For whoever decides, or to explain a decision. The last comment is not kept twice."""
    return _doc(plane, comment_on(plane.journal, task_id, data.text, actor=operator.name, clock=plane.clock))


@post(
    "/v1/reviews/{task_id:str}/resolution", tags=["reviews"], summary="Decide it", status_code=200, sync_to_thread=True
)
def resolve_review(task_id: str, data: ResolutionDoc, plane: Plane, operator: Caller) -> ReviewDoc:
    """Once, for good: 409 if somebody has decided otherwise."""
    try:
        task = resolve_task(
            plane.journal,
            task_id,
            data.resolution,
            actor=operator.name,
            note=data.note,
            reference=data.reference,
            clock=plane.clock,
        )
    except AlreadySettled:
        task = find_task(plane.journal, task_id)
        if not _says_the_same(task, data, operator):
            raise
    return _doc(plane, task)


def _says_the_same(task: ReviewTask, data: ResolutionDoc, operator: Caller) -> bool:
    """Whether this very decision was recorded before: its answer was lost, then (PL4)."""
    wanted = (data.resolution.strip().replace("-", "_"), operator.name, data.note, data.reference.strip())
    return (task.resolution, task.resolved_by, task.note, task.reference) == wanted


def _doc(plane: Plane, task: ReviewTask) -> ReviewDoc:
    return ReviewDoc.of(task, from_us(plane.clock.now_us()))


HANDLERS = (
    list_reviews,
    show_review,
    assign_review,
    set_review_due,
    comment_on_review,
    resolve_review,
)
