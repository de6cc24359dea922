"""`rescind plan`: the undos of a store, how far each is, and pause, resume and cancel of one in progress."""

from typing import TYPE_CHECKING

import click

from rescind.cli.identity import whoami
from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.plan_status import (
    follow_plainly,
    holder_as_json,
    line_about,
    say_status,
    say_steps,
    say_whose,
    status_as_json,
    status_line,
)
from rescind.cli.safe import safe
from rescind.cli.stores import command_line, find_store, journal_of

if TYPE_CHECKING:
    from rescind.database.address import StoreAt
    from rescind.errors import EntryUnreadable
    from rescind.recovery.undo_status import UndoStatus
    from rescind.recovery.undos import OpenUndo

FAULT = 1


@click.group(
    epilog="""\b
Examples:
  rescind plan list
  rescind plan follow 8096baef
  rescind plan pause 8096baef --reason "the bank asks us to wait"
"""
)
def plan() -> None:
    """Undos in progress and past ones: how far they are; pause, resume and cancel.

    PLAN is the digest that `rescind undo` shows, or the beginning of it.
    """


@plan.command("list")
@click.option("--all", "every", is_flag=True, help="Ended ones, too.")
@common
def list_(*, every: bool, out: Out) -> int:
    """List the undos that have not ended, the newest last."""
    from rescind.cli.undo_holder import open_undos_of
    from rescind.recovery.undos import list_undos

    store = find_store(given_store())
    with journal_of(store) as journal:
        gaps: list[EntryUnreadable] = []
        found = list_undos(journal, gaps=gaps, past_too=every)
        held = open_undos_of(journal, store) if any(not status.has_ended for status in found) else {}
    shown = [status for status in found if every or not status.has_ended]
    for status in shown:
        line, style = status_line(status)
        out.say(line, style=style)
        out.tell(f"    {line_about(status)}", behind=4)
        say_whose(held.get(status.plan_run), store, out, indent=4)
    if not shown:
        out.say("no undo was applied yet" if not found else "no undo is in progress; --all shows those that have ended")
    elif any(not status.has_ended for status in shown):
        out.say()
        out.say(f"{command_line('plan', 'follow', store=store)} PLAN      how far it is, until it has ended")
    for gap in gaps:
        out.note(f"an undo is left out: {safe(str(gap))}", style="red")
    plans = [status_as_json(status) | holder_as_json(held.get(status.plan_run)) for status in shown]
    out.emit({"plans": plans, "unreadable": [gap.sequence for gap in gaps]})
    return FAULT if gaps else 0


@plan.command(short_help="Show how far one is, and who holds it.")
@click.argument("digest", metavar="PLAN")
@click.option("--steps", "every", is_flag=True, help="Every step that was begun: when, how it ended, by which worker.")
@common
def show(*, digest: str, every: bool, out: Out) -> int:
    """Show how far one is, what it is about, who began it, who carries it out, and who holds it."""
    from rescind.cli.undo_holder import open_undos_of
    from rescind.recovery.undos import undo_steps

    store = find_store(given_store())
    with journal_of(store) as journal:
        status, steps = undo_steps(journal, digest)
        held = None if status.has_ended else open_undos_of(journal, store).get(status.plan_run)
    say_status(status, out, held=held)
    say_whose(held, store, out, indent=2)
    if every:
        say_steps(steps, out)
    answer = status_as_json(status) | holder_as_json(held)
    out.emit({"plan": answer} | ({"steps": steps} if every else {}))
    return 0


@plan.command()
@click.argument("digest", metavar="PLAN")
@common
def follow(*, digest: str, out: Out) -> int:
    """Watch one until it has ended, wherever it runs.

    A bar on a terminal, else a line for each change; with --json a line of JSON for each. Exit status 1 if it ended
    with steps that were not reached.
    """
    from rescind.cli.undo_holder import LEFT, next_of, open_undos_of, whose
    from rescind.clock import SystemClock
    from rescind.recovery.undos import follow as follow_undo
    from rescind.recovery.undos import plan_run_meant

    store = find_store(given_store())
    with journal_of(store) as journal:
        held = open_undos_of(journal, store).get(plan_run_meant(journal, digest))
        if held is not None and held.holder in LEFT:  # else whoever waits, waits for nobody
            out.note(f"{whose(held)}; until somebody does, nothing changes: {next_of(held, store)}", style="red")
        statuses = follow_undo(journal, digest, SystemClock())
        if out.is_live and not out.json:
            from rescind.cli.progress import followed

            last = followed(statuses, out.console())
        else:
            last = follow_plainly(statuses, out)
    if not out.json:
        say_status(last, out)
    return 0 if last.state == "finished" else FAULT


@plan.command()
@click.argument("digest", metavar="PLAN")
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the journal.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def pause(*, digest: str, reason: str, actor: str | None, out: Out) -> int:
    """Let one begin nothing more until it is resumed. What is under way comes to its end."""
    return _order("pause", digest, reason=reason, actor=actor, out=out)


@plan.command()
@click.argument("digest", metavar="PLAN")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the journal.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def resume(*, digest: str, reason: str, actor: str | None, out: Out) -> int:
    """Let a paused one go on."""
    return _order("resume", digest, reason=reason, actor=actor, out=out)


@plan.command()
@click.argument("digest", metavar="PLAN")
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the journal.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def cancel(*, digest: str, reason: str, actor: str | None, out: Out) -> int:
    """End one. What is under way comes to its end; the rest is not reached, and a later undo plans it again."""
    return _order("cancel", digest, reason=reason, actor=actor, out=out)


def _order(what: str, digest: str, *, reason: str, actor: str | None, out: Out) -> int:
    from rescind.cli.undo_holder import open_undos_of
    from rescind.clock import SystemClock
    from rescind.recovery.ordering import order_undo

    store = find_store(given_store())
    with journal_of(store) as journal:
        status = order_undo(journal, digest, what, actor=actor or whoami(), reason=reason, clock=SystemClock())
        held = None if status.has_ended else open_undos_of(journal, store).get(status.plan_run)
    say_status(status, out, held=held)
    _say_next(what, status, held, store, out)
    out.emit({"plan": status_as_json(status) | holder_as_json(held)})
    return 0


def _say_next(what: str, status: "UndoStatus", held: "OpenUndo | None", store: "StoreAt", out: Out) -> None:
    from rescind.cli.undo_holder import LEFT

    is_left = held is not None and held.holder in LEFT
    if is_left and what == "resume":
        say_whose(held, store, out, indent=2)
        return
    who = "nobody applies it now; whoever does next" if is_left else "whoever applies it"
    when = "" if is_left else " within about a second"
    match what:
        case "pause":
            out.say(f"{who} obeys{when}; to let it go on:")
            out.say(f"  {command_line('plan', 'resume', status.plan_digest[:16], store=store)}")
        case "cancel":
            out.say(f"{who} ends{when}; what is left, `rescind undo` plans again")
        case _:
            out.say("whoever applies it goes on within about a second; to watch it:")
            out.say(f"  {command_line('plan', 'follow', status.plan_digest[:16], store=store)}")
