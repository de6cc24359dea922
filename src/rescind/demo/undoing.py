"""The two acts of the undo: the plan; and how two workers carry it out, one of which does not live to see its end."""

from collections import Counter

from rescind.compensation.decision import AlreadyUndone, Plan, PlanItem, Review, Settle, kind_of
from rescind.compensation.port import ReviewReason
from rescind.demo.handover import Killed
from rescind.demo.mailroom import ROGUE
from rescind.demo.oncall import OnCall, Undone
from rescind.demo.screen import QUIET, Screen, counted
from rescind.demo.verdict import HandoverResult
from rescind.demo.workers import COMMAND, Workers
from rescind.model.entry import Disposition

UNDO = f"rescind undo --agent {ROGUE} --app desk"


def tell_undo(screen: Screen, on_call: OnCall, workers: Workers | None) -> tuple[Undone, HandoverResult | None]:
    """Both acts. Without workers it is undone in this process. Raises: RescindError, if it does not come to its end."""
    plan = _tell_plan(screen, on_call)
    undone, handover = (
        (_undo_here(screen, on_call, plan), None)
        if workers is None
        else _undo_on_workers(screen, on_call, plan, workers)
    )
    accounted = sum(step.disposition is not None for step in undone.result.steps)
    screen.check(
        f"{accounted:,} of {len(plan.items):,} steps accounted for in {undone.ms / 1000:.1f} s",
        holds=undone.result.is_complete,
    )
    return undone, handover


def _tell_plan(screen: Screen, on_call: OnCall) -> Plan:
    screen.act("Undo: the plan")
    screen.command(UNDO)
    plan = on_call.plan(ROGUE)
    screen.table(_lines_of(plan))
    screen.say(f"{len(plan.items):,} steps of {len(plan.runs)} runs; plan {plan.digest[:12]}", style=QUIET)
    return plan


def _undo_here(screen: Screen, on_call: OnCall, plan: Plan) -> Undone:
    screen.act("Undo: applied, exactly as shown")
    screen.say(
        "In this process, since the extra `workers` is not installed: pip install 'rescind[workers]'. With it, two "
        "workers share the undo, and one of them is killed in the middle."
    )
    screen.command(f"{UNDO} --apply")
    with screen.progress("steps accounted for", len(plan.items)) as advance:
        return on_call.apply(plan, progress=advance)


def _undo_on_workers(screen: Screen, on_call: OnCall, plan: Plan, workers: Workers) -> tuple[Undone, HandoverResult]:
    screen.act("Undo: exactly as shown, by two workers, one of which is killed")
    screen.say("Two processes hold the desk's tools, and take what is left to workers:")
    for pid in workers.pids:
        screen.command(f"{COMMAND}  # process {pid}")
    screen.command(UNDO, "--apply --workers")  # in two lines, since one would be longer than 80 columns

    def tell_kill(killed: Killed) -> None:
        screen.say("One of them has booked credits, and the bank is slow to answer. While it waits:")
        screen.command(f"kill -9 {killed.pid}")
        screen.bad(f"worker {killed.pid} is gone, in the middle of its share", note=_how_far(killed))

    def tell_takeover(pid: int, after_ms: float) -> None:
        screen.check(f"worker {pid} goes on with that share", note=f"after {after_ms / 1000:.1f} s")

    with screen.progress("steps accounted for", len(plan.items)) as advance:
        undone, handover = on_call.leave_to(
            workers, plan, progress=advance, when_killed=tell_kill, when_taken_over=tell_takeover
        )
    _tell_shares(screen, handover)
    return undone, handover


def _how_far(killed: Killed) -> str:
    undone, unreported = counted(killed.undone, "write"), counted(killed.unreported, "more credit")
    return f"It had undone {undone}, and booked {unreported} without living to say so."


def _tell_shares(screen: Screen, handover: HandoverResult) -> None:
    killed = handover.killed
    if killed is None:
        screen.check("the undo was over before a worker could be killed", holds=False)
        return
    (other,) = (pid for pid in handover.processes if pid != killed)
    screen.check(
        f"{counted(handover.asked_again, 'credit')} asked for again, each under its own key",
        note=f"{handover.credited_twice} booked twice",
        holds=not handover.credited_twice,
    )
    screen.table(
        [
            (f"worker {killed}", handover.undone_by_killed, "writes undone, then killed"),
            (f"worker {other}", handover.undone_by_others, "writes undone"),
        ]
    )


_WORDS = {
    "restore": "restore",
    "compensate": "compensate",
    Disposition.NEVER_TOOK_EFFECT: "no effect",
    ReviewReason.IRREVERSIBLE: "to a person",
    ReviewReason.CONFLICT: "conflict",
}


def _lines_of(plan: Plan) -> list[tuple[str, int, str]]:
    """What the plan would do, how often, and to what: one line for all steps that are alike."""
    counts = Counter(_line_of(item) for item in plan.items)
    return [(_WORDS[kind], counts[kind, what], what) for kind in _WORDS for each, what in counts if each == kind]


def _line_of(item: PlanItem) -> tuple[str, str]:
    match item.decision:
        case Review(reason, detail):
            return reason, f"{item.action}: {detail}"
        case Settle(disposition) | AlreadyUndone(disposition) if disposition is Disposition.NEVER_TOOK_EFFECT:
            return disposition, f"{item.action}: refused before it had changed anything"
        case decision:
            return kind_of(decision), item.action
