"""The last screen: what happened, what was undone, what a person has to do, how long it took, and where to look."""

import shlex
from pathlib import Path

from rescind.compensation.port import ReviewReason
from rescind.demo.desk import SWITCH_DATA
from rescind.demo.mailroom import ROGUE
from rescind.demo.opening import WRONGED
from rescind.demo.screen import ACCENT, BAD, GOOD, QUIET, Screen, dollars
from rescind.demo.story import Told
from rescind.demo.verdict import HandoverResult
from rescind.model.history import ReviewTask


def tell_end(screen: Screen, told: Told, *, kept: Path | None) -> None:
    """Sum it up. `kept` is the folder where everything was left; None if it is gone."""
    verdict, undo = told.verdict, told.verdict.undo
    screen.rule()
    if not verdict.holds:
        screen.say("Not everything holds. See the lines marked above.", style=BAD)
    whom, how = f"{verdict.customers_wronged} customers", "Stopped"
    if verdict.stop.by == "trigger":
        whom, how = f"{verdict.customers_wronged} of {WRONGED} customers", "Stopped by a trigger"
    screen.say(f"{whom} wronged. {how} in {verdict.stop.ms:.0f} ms, undone in {undo.ms / 1000:.1f} s.", style="bold")
    screen.blank()
    credited = f"charges, {dollars(told.damage.cents)} by credit entries; nothing deleted"
    handover = verdict.workers
    taken_over = [] if handover is None else [("taken over", handover.left_at_kill, _taken_over(handover))]
    screen.table(
        [
            ("restored", undo.restored, "subscriptions, each to the row as it was"),
            ("compensated", undo.compensated, credited),
            *taken_over,
            ("untouched", told.bystander_writes, f"writes of other agents; {verdict.bystander_writes_lost} lost"),
            ("refused", told.refused, f"attempts since the stop; {verdict.writes_after_stop} got through"),
        ],
        style=GOOD,
    )
    screen.blank()
    screen.say("Left to a person:")
    screen.table([(task.task_id, len(task.steps), _question(task, told)) for task in told.tasks], style=ACCENT)
    if told.insight:
        screen.blank()
        screen.say(told.insight)
    screen.blank()
    if kept is None:
        screen.say("To look around in what is left: rescind demo --keep DIR", style=QUIET)
    else:
        _tell_commands(screen, kept)


def _taken_over(handover: HandoverResult) -> str:
    return f"steps of a worker killed in the middle; {handover.credited_twice} credited twice"


def _question(task: ReviewTask, told: Told) -> str:
    if task.reason == ReviewReason.CONFLICT:
        return f"in conflict and not overwritten: somebody has edited {told.edited} since"
    return f"of {task.action}: {task.detail}"


def _tell_commands(screen: Screen, kept: Path) -> None:
    screen.say("Everything is still there. Look around:")
    screen.blank()
    screen.command(f"cd {shlex.quote(str(kept))}")
    for command in (
        "rescind status",
        "rescind review list",
        f"rescind undo --agent {ROGUE} --app desk",
        "rescind audit verify",
    ):
        screen.command(command)
    screen.blank()
    screen.say(
        f"The switch has ended with the demo. Its ledger is in {SWITCH_DATA}/; rescind.yaml says how to start it.",
        style=QUIET,
    )
