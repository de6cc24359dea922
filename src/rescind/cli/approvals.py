"""`rescind approvals`: what waits for a person's approval, and what was decided."""

import click

from rescind.cli.approval_desk import desk_of
from rescind.cli.approval_view import as_json, say_approval, say_decided, say_trouble, say_what_next
from rescind.cli.identity import whoami
from rescind.cli.options import ACTOR_HELP, common, given_places, switches
from rescind.cli.out import Out
from rescind.cli.words import count_of
from rescind.clock import SystemClock, from_us
from rescind.model.approval import APPROVED, DENIED

NOTE_HELP = "Why. Who asked is told, if it is denied."


@click.group(
    epilog="""\b
Examples:
  rescind approvals list
  rescind approvals approve approval_33ff --note "checked with sales"
  rescind approvals deny approval_33ff --note "the price list is wrong"
"""
)
def approvals() -> None:
    """What waits for a person's approval."""


@approvals.command("list")
@click.option("--all", "every", is_flag=True, help="Also what nobody has to decide any more.")
@common
@switches
def list_(*, every: bool, out: Out) -> int:
    """List what waits for a decision, oldest first."""
    now = from_us(SystemClock().now_us())
    with desk_of(given_places()) as desk:
        found = desk.approvals(waiting_only=not every)
        words, trouble = desk.words(), desk.trouble
    say_trouble(trouble, out)
    if out.json:
        out.emit({"approvals": [as_json(each, now) for each in found], "trouble": trouble})
        return 0
    for approval in found:
        say_approval(approval, now, out)
    if not found:
        out.say("nothing waits for an approval" if not every else "nobody has asked for an approval")
    elif not every:
        out.say()
        say_what_next("ID", words, out)
    return 0


@approvals.command()
@click.argument("approval_id", metavar="ID")
@common
@switches
def show(*, approval_id: str, out: Out) -> int:
    """Show one: who asks, what exactly would be done, and why. The beginning of its id will do."""
    now = from_us(SystemClock().now_us())
    with desk_of(given_places()) as desk:
        approval = desk.find(approval_id)
        words = desk.words()
    if out.json:
        out.emit({"approval": as_json(approval, now)})
        return 0
    say_approval(approval, now, out, whole=True)
    if approval.state(now).value == "waiting":
        out.say()
        say_what_next(approval.approval_id, words, out)
    return 0


@approvals.command(short_help="Approve one call: just what is shown, once.")
@click.argument("approval_id", metavar="ID")
@click.option("--note", default="", metavar="TEXT", help="Why.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
@switches
def approve(*, approval_id: str, note: str, actor: str | None, out: Out) -> int:
    """Approve one call: exactly what is shown may be done, once, until it expires."""
    return _decide(approval_id, APPROVED, note, actor, out)


@approvals.command()
@click.argument("approval_id", metavar="ID")
@click.option("--note", default="", metavar="TEXT", help=NOTE_HELP)
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
@switches
def deny(*, approval_id: str, note: str, actor: str | None, out: Out) -> int:
    """Deny one call. It is not asked for again before it expires."""
    return _decide(approval_id, DENIED, note, actor, out)


def _decide(approval_id: str, decision: str, note: str, actor: str | None, out: Out) -> int:
    now = from_us(SystemClock().now_us())
    with desk_of(given_places()) as desk:
        approval = desk.decide(approval_id, decision, actor=actor or whoami(), note=note)
        trouble = desk.trouble
        waiting = len(desk.approvals(waiting_only=True))
    say_decided(approval, out)
    say_trouble(trouble, out)
    out.say(f"{count_of(waiting, 'call')} left" if waiting else "nothing else waits for an approval")
    out.emit({"approval": as_json(approval, now), "waiting": waiting, "trouble": trouble})
    return 0
