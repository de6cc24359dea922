"""From the words of `rescind undo` to a plan on the screen, and with `--apply` to its execution."""

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from rescind.cli.app import WHAT_APP_IS, load_guard
from rescind.cli.forcing import approver_of
from rescind.cli.liveness import LiveRuns
from rescind.cli.out import Out
from rescind.cli.plan_view import WHAT_REVIEWS_MEAN, plan_lines, reviews_in, summary_of, words_of
from rescind.cli.shown import remember_shown, selection_key
from rescind.cli.stores import Guards, find_store, journal_of, local_folder, same_store
from rescind.cli.undo_request import DIGITS_SHOWN, UndoRequest
from rescind.cli.why_nothing import why_nothing
from rescind.cli.words import count_of, list_of
from rescind.clock import SystemClock, SystemIds
from rescind.compensation.decision import Plan
from rescind.compensation.execution.limits import Limits
from rescind.compensation.planning.selection import select_steps
from rescind.compensation.planning.survey import make_plan
from rescind.compensation.port import Compensator, ReviewReason
from rescind.compensation.way import BACK, Way
from rescind.config import load_settings
from rescind.errors import UsageError
from rescind.guard.guard import Guard
from rescind.journal.port import Journal
from rescind.switch.port import Orders

if TYPE_CHECKING:
    from rescind.compensation.execution.comparison import Comparison
    from rescind.compensation.result import UndoResult
    from rescind.compensation.sharing.submission import Submission
    from rescind.database.address import StoreAt
    from rescind.recovery.workers import WorkerInfo


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """All that an undo works with.

    Attributes:
        request: What was asked for.
        store: The folder of the app's stores, or their database.
        guards: The guards that are registered there.
        journal: Its journal.
        orders: Its standing orders.
        compensators: The app's declared writes by name.
        parallel: Steps at once.
        retries: Further tries of a step.
        by_workers: Whether it is left to the workers.
        limits: What may be asked of each target system.
        within_s: Seconds after which no step is begun; None for no such deadline.
    """

    request: UndoRequest
    store: "StoreAt"
    guards: Guards
    journal: Journal
    orders: Orders
    compensators: Mapping[str, Compensator]
    parallel: int
    retries: int
    by_workers: bool = False
    limits: Limits = Limits()
    within_s: float | None = None

    def plan(self) -> Plan:
        """The plan as of now."""
        return make_plan(
            self.journal,
            self.request.selection,
            self.compensators,
            SystemClock(),
            parallel=self.parallel,
            live_runs=LiveRuns(self.journal, self.guards.living),
            may_force=self.request.force,
        )

    def refuse_unable(self, plan: Plan) -> None:
        """Check that live workers can execute all of the plan. Raises: UsageError, and nothing was changed."""
        from rescind.cli.undo_workers import refuse_without_workers  # which most undos need not

        refuse_without_workers(self, plan)

    def submit(self, plan: Plan, workers: "list[WorkerInfo]") -> "Submission":
        """Leave the plan to these workers. Raises: UsageError, if they cannot execute it; nothing was changed then."""
        from rescind.compensation.sharing.submission import submit

        return submit(
            plan,
            self.journal,
            self.compensators,
            workers,
            SystemClock(),
            SystemIds(),
            parallel=self.parallel,
            retries=self.retries,
            within_s=self.within_s,
            actor=self.request.actor,
            reason=self.request.reason,
        )

    def compare(self, plan: Plan, result: "UndoResult") -> "Comparison":
        """What the targets are like after it. Nothing is changed."""
        from rescind.compensation.execution.comparison import compare_after

        return compare_after(plan, result, self.journal, self.tools, parallel=self.parallel, way=self.way)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs of the steps that were chosen, before anything is planned. Raises: UsageError, as `plan`."""
        return tuple({record.run.run_id: None for record in select_steps(self.journal, self.request.selection)})

    @property
    def way(self) -> Way:
        """Which way the steps are taken."""
        return BACK

    @property
    def tools(self) -> Mapping[str, Compensator]:
        """The declared writes as the executor needs them."""
        return self.compensators

    def why_nothing(self) -> str:
        """Why the plan has no steps; safe."""
        return why_nothing(self.journal, self.request.selection)

    @property
    def key(self) -> str:
        """What the selection is remembered by, for this user."""
        return selection_key(self.request.selection.as_dict())


S = TypeVar("S", bound=Session)


def run_undo(request: UndoRequest, out: Out) -> int:
    """Show the plan, or apply it. Returns the exit status."""
    if not request.app:
        by_workers = load_settings().config.undo.workers if request.workers is None else request.workers
        if by_workers:
            from rescind.cli.undo_asked import run_asked

            return run_asked(request, out)
        return _without_app(request, out)
    return run_session(request, Session, out)


def run_session(request: UndoRequest, kind: type[Session], out: Out, **further: Any) -> int:
    """Show the plan of a session of this kind, or apply it. Returns the exit status."""
    assert request.app is not None
    guard = load_guard(request.app)
    with closing(guard):
        session = session_of(request, guard, kind, further)
        with closing(session.guards):
            if request.apply:
                from rescind.cli.undo_apply import apply_undo

                return apply_undo(session, out)
            plan = session.plan()
            show_plan(plan, session, out)
            out.emit(plan_as_json(plan, session))
            return 0


def show_plan(plan: Plan, session: Session, out: Out) -> None:
    """Draw the plan, what it leaves to a person and why, and how to apply it; remember that it was shown."""
    request = session.request
    out.say(f"{request.verb} of {count_of(len(plan.items), 'step')} of {count_of(len(plan.runs), 'run')}", style="bold")
    for name, value in request.conditions:
        out.say(f"  {name:<7} {value}")
    if not plan.items:
        out.say(f"{session.why_nothing()}, so there is nothing to {request.verb}")
        return
    out.say()
    for line, style in plan_lines(plan, every=request.every, tree=request.tree, width=out.width):
        out.say(line, style=style)
    out.say()
    _say_reviews(plan, out)
    _say_dependents(plan, session, out)
    out.say(f"plan {plan.digest[:DIGITS_SHOWN]}: {summary_of(plan)}", style="bold")
    remembered = remember_shown(local_folder(session.store), session.key, plan.digest)
    if plan.is_settled:
        out.say("everything is accounted for; applying it would change nothing")
    elif not request.apply:
        out.say("nothing was changed. To apply this plan:")
        out.say(f"  {apply_command(plan, session)}", style="bold")
    if not remembered and not request.apply:
        out.note("the store cannot be written, so that this plan was shown is not remembered; use --plan as above")


def plan_as_json(plan: Plan, session: Session) -> dict[str, Any]:
    """The plan as an answer, with what to run next."""
    return {
        "plan": plan,
        "digest": plan.digest,
        "counts": plan.counts,
        "reviews": {reason.value: count for reason, count in reviews_in(plan).items()},
        "settled": plan.is_settled,
        "why_nothing": "" if plan.items else session.why_nothing(),
        "store": str(session.store),
        "apply": apply_command(plan, session),
    }


def apply_command(plan: Plan, session: Session) -> str:
    """The command that applies this plan and no other."""
    return session.request.command("--apply", "--plan", plan.digest[:DIGITS_SHOWN], store=session.store)


def _say_reviews(plan: Plan, out: Out) -> None:
    reviews = reviews_in(plan)
    if not reviews:
        return
    out.say("left to a person:")
    for reason, count in reviews.items():
        style = "yellow" if reason is ReviewReason.CONFLICT else ""
        out.tell(f"  {count:>6,}  {words_of(reason)}: {WHAT_REVIEWS_MEAN[reason]}", behind=10, style=style)
    out.say()


def _say_dependents(plan: Plan, session: Session, out: Out) -> None:
    """What else depends on what is undone: left alone, or among the steps (U21)."""
    found = plan.dependents
    impact = session.request.command_for("impact", store=session.store)
    if not found.looked:
        out.say("what others did since was not looked through for steps that depend on these; to see it:")
        out.say(f"  {impact}")
    elif found.steps:
        depend, are = ("depends", "is") if found.steps == 1 else ("depend", "are")
        words = f"{count_of(found.steps, 'later step')} of {list_of(found.runs, most=3)} {depend} on what is undone"
        where = "in the plan" if found.taken else "left alone"
        out.tell(f"{words} and {are} {where}; to see:", behind=0, style="yellow")
        out.say(f"  {impact}")
    if found.reads_missing:
        words = "reads are missing in the journal, or cannot be read, so more may depend on it"
        out.tell(words, behind=0, style="yellow")
    if not found.looked or found.steps or found.reads_missing:
        out.say()


def _without_app(request: UndoRequest, out: Out) -> int:
    """Without the app's tools nothing can be planned, except that there is nothing to plan."""
    with journal_of(find_store(request.store)) as journal:
        steps = select_steps(journal, request.selection)
        if steps:
            actions = list_of(sorted({record.step.action for record in steps}))
            raise UsageError(
                f"--app is missing: {count_of(len(steps), 'step')} ({actions}) can be undone only with the tools that "
                f"made them. Give {WHAT_APP_IS}; or leave the planning to workers that have them, with --workers"
            )
        why = why_nothing(journal, request.selection)
    out.say(f"{why}, so there is nothing to undo")
    out.emit({"plan": None, "counts": {}, "settled": True, "why_nothing": why})
    return 0


def session_of(request: UndoRequest, guard: Guard, kind: "type[S]", further: dict[str, Any]) -> S:
    """A session of this kind on the stores of the application. Its guards are to be closed. Raises: UsageError."""
    store = guard.stores.place
    if store is None:
        raise UsageError(f"--app: the guard of {request.app} keeps its journal nowhere that a command could find it")
    if request.store is not None and not same_store(request.store, store):
        raise UsageError(
            f"--store is {request.store}, and the guard of {request.app} keeps its stores in {store}; "
            "leave --store out, or name the same store"
        )
    find_store(store)
    settings = load_settings()
    undo = settings.config.undo
    if request.force and request.apply:
        actor = approver_of(settings, request.actor, clock=SystemClock())
        request = msgspec.structs.replace(request, actor=actor)
    return kind(
        **further,
        request=request,
        store=store,
        guards=Guards(store),
        journal=guard.journal,
        orders=guard.orders,
        compensators=guard.compensators,
        parallel=undo.parallel if request.parallel is None else request.parallel,
        retries=undo.retries,
        by_workers=undo.workers if request.workers is None else request.workers,
        limits=Limits(undo.systems),
        within_s=undo.within_s if request.within_s is None else request.within_s,
    )
