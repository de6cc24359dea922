"""`rescind incidents`: what was noticed, what was done about it, and what is still held."""

from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from rescind.cli.app import APP_VARIABLE
from rescind.cli.identity import whoami
from rescind.cli.incident_view import Found, say_head, say_whole
from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stopping import order_as_json, resume_command
from rescind.cli.stores import find_store, history_of, journal_of, quoted_store
from rescind.cli.words import count_of
from rescind.clock import SystemClock
from rescind.containment.incident import close as close_incident
from rescind.containment.incident import incident_of, list_incidents
from rescind.errors import EntryUnreadable, UsageError
from rescind.journal.pages import every_entry, readable_entries
from rescind.journal.port import Query
from rescind.model.entry import RunSnapshot
from rescind.recovery.reading import the_one_meant
from rescind.recovery.stages import Stage, fold_course

if TYPE_CHECKING:
    from rescind.containment.timeline import Incident
    from rescind.database.address import StoreAt
    from rescind.journal.port import Journal
    from rescind.recovery.stages import Course

_RUNS_READ = 50
"""Runs whose state is looked for. An incident of more is told from these."""

FAULT = 1
"""Exit status: an incident cannot be told."""


@click.group(
    epilog="""\b
Examples:
  rescind incidents list
  rescind incidents show inc_e490ac9f
  rescind incidents close inc_e490ac9f --note "the price list was wrong"
"""
)
def incidents() -> None:
    """What was noticed, what was done about it, what is still held."""


@incidents.command("list")
@click.option("--all", "every", is_flag=True, help="Closed ones, too.")
@common
def list_(*, every: bool, out: Out) -> int:
    """List open incidents, the newest last."""
    gaps: list[EntryUnreadable] = []
    store = find_store(given_store())
    with journal_of(store) as journal:
        found = [incident for incident in list_incidents(journal, gaps=gaps) if every or incident.is_open]
    if out.json:
        told = [incident.as_dict(whole=False) for incident in found]
        out.emit({"incidents": told, "unreadable": [gap.sequence for gap in gaps]})
        return FAULT if gaps else 0
    for gap in gaps:
        out.note(f"an incident may be missing here, or be closed already: {safe(str(gap))}", style="red")
    for incident in found:
        say_head(incident, out)
    if found:
        out.say()
        out.say(f"rescind incidents show{quoted_store(store)} ID      what happened, and how to lift what is held")
    else:
        out.say("there are no incidents" if every else "no incident is open")
    return FAULT if gaps else 0


@incidents.command()
@click.argument("incident_id", metavar="ID")
@click.option("--all", "every", is_flag=True, help="Every signal and every run.")
@common
def show(*, incident_id: str, every: bool, out: Out) -> int:
    """Show one: what is still held, what was noticed, what was ordered. The beginning of its id will do."""
    store = find_store(given_store())
    with journal_of(store) as journal:
        found = _find(journal, store, incident_id)
    if out.json:
        out.emit(
            {
                "incident": found.incident.as_dict(),
                "held": [
                    {**order_as_json(order), "lift": resume_command([order.order_id], store)} for order in found.held
                ],
                "lifted": list(found.lifted),
                "elsewhere": list(found.elsewhere),
                "snapshots": [
                    {"run_id": run_id, **msgspec.to_builtins(snapshot)} for run_id, snapshot in found.snapshots
                ],
            }
        )
        return 0
    say_whole(found, store, out, every=every)
    return 0


@incidents.command()
@click.argument("incident_id", metavar="ID")
@click.option("--note", required=True, metavar="TEXT", help="How it ended.")
@click.option("--anyway", is_flag=True, help="Although what was undone is not reconciled.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def close(*, incident_id: str, note: str, anyway: bool, actor: str | None, out: Out) -> int:
    """Close one: what is noticed from now on is a new incident. Nothing that is held is lifted by this.

    An incident whose undo was begun is closed once it is reconciled: every step accounted for, and nothing worse.
    """
    if not note.strip():
        raise UsageError("closing an incident takes a note; say with --note how it ended")
    store = find_store(given_store())
    with journal_of(store) as journal:
        found = _find(journal, store, incident_id)  # what it holds, while a trouble with the orders changes nothing yet
        meant = found.incident.incident_id
        if not anyway:
            _refuse_unreconciled(journal, meant)
        waited = Stage.CLASSIFY in (course := _course(journal, meant)).ended and Stage.COMPENSATE not in course.ended
        incident = close_incident(journal, meant, actor=actor or whoami(), note=note, clock=SystemClock())
    out.say(f"{safe(incident.incident_id)} is closed", style="bold")
    if waited:
        out.say("its undo was planned and nobody let it begin: nothing was undone by its recovery", style="yellow")
    if found.held:
        out.say(f"closing lifts nothing; still held by {count_of(len(found.held), 'order')}:", style="yellow")
        for order in found.held:
            out.say(f"  {safe(order.what)}")
            out.say(f"    lift  {resume_command([order.order_id], store)}")
    out.emit({"incident": incident.as_dict(whole=False), "held": [order_as_json(order) for order in found.held]})
    return 0


@incidents.command(
    short_help="Contain, classify, undo and reconcile it, step by step.",
    epilog="""\b
Examples:
  rescind incidents recover inc_e490ac9f --app shop.tools
  rescind incidents recover inc_e490ac9f --app shop.tools --approve 3fa2c1d0
""",
)
@click.argument("incident_id", metavar="ID")
@click.option("--app", envvar=APP_VARIABLE, metavar="MODULE[:GUARD]", help=f"Where your tools are, or {APP_VARIABLE}.")
@click.option("--approve", metavar="DIGEST", help="Let the stage that waits begin: exactly the plan that was shown.")
@click.option("--note", default="", metavar="TEXT", help="With --approve: why.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@common
def recover(*, incident_id: str, app: str | None, approve: str | None, note: str, actor: str | None, out: Out) -> int:
    """Drive the course of one as far as it goes without a person; the beginning of its id will do.

    Its runs are contained, their state is recorded, and what would be undone is shown. A person approves exactly that
    plan; then it is undone, compared with what was to be, and said from where its runs could be carried on. It may be
    killed and run again at any time. Nothing is lifted and no run goes on by this.

    Exit status 1 if a stage failed; what is wrong is said, and the incident stays open.
    """
    from rescind.cli.recover import recover_incident

    with journal_of(find_store(given_store())) as journal:
        meant = _meant(journal, incident_id)
    return recover_incident(meant, app=app, digest=approve, note=note, actor=actor or whoami(), out=out)


@incidents.command(short_help="Tell all of one, in Markdown or JSON.")
@click.argument("incident_id", metavar="ID")
@click.option("--out", "file", type=click.Path(), metavar="FILE", help="Write it there, as Markdown; or .json.")
@common
def report(*, incident_id: str, file: str | None, out: Out) -> int:
    """Tell all of one in Markdown, or with --json as JSON: what happened, what was done, what is left."""
    from rescind.recovery.report import as_markdown, report_of

    with journal_of(find_store(given_store())) as journal:
        told = report_of(journal, incident_of(journal, _meant(journal, incident_id)))
    if file is None:
        out.say(as_markdown(told))
    else:
        as_json_file = file.endswith(".json")
        text = msgspec.json.format(msgspec.json.encode(told.as_dict())).decode() if as_json_file else as_markdown(told)
        _write(Path(file), text)
        out.say(f"written to {safe(file)}")
    out.emit(told.as_dict())
    return 0


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _refuse_unreconciled(journal: "Journal", incident_id: str) -> None:
    course = _course(journal, incident_id)
    begun = Stage.COMPENSATE in course.ended or Stage.COMPENSATE in course.approved
    if begun and not course.is_done(Stage.RECONCILE):
        failed = course.ended.get(Stage.RECONCILE)
        why = f": {failed.detail}" if failed is not None else ""
        raise UsageError(
            f"incident {incident_id} stays open, since what was undone is not reconciled{why}. Run `rescind incidents "
            "recover` again, or close it with --anyway"
        )


def _course(journal: "Journal", incident_id: str) -> "Course":
    return fold_course(every_entry(journal, Query(run_id=incident_id)))


def _meant(journal: "Journal", text: str) -> str:
    gaps: list[EntryUnreadable] = []
    known = [each.incident_id for each in list_incidents(journal, gaps=gaps)]
    return the_one_meant(text, [*known, *(gap.run_id for gap in gaps)], what="incident")


def _find(journal: "Journal", store: "StoreAt", text: str) -> Found:
    incident = incident_of(journal, _meant(journal, text))
    causes = {incident.incident_id, *(line.ref for line in incident.of("signal"))}
    noted = [line.ref for line in incident.of("order")]
    known = history_of(store)
    related = {order.order_id for order in known.orders if order.cause in causes} | set(noted)
    held = tuple(order for order in known.standing if order.order_id in related)
    standing = {order.order_id for order in held}
    ever = {order.order_id for order in known.orders}
    found = Found(
        incident,
        held=held,
        lifted=tuple(sorted(related & ever - standing)),
        elsewhere=tuple(order_id for order_id in noted if order_id not in ever),
    )
    return msgspec.structs.replace(found, snapshots=_snapshots(journal, found, related))


def _snapshots(journal: "Journal", found: Found, orders: set[str]) -> tuple[tuple[str, RunSnapshot], ...]:
    began: Incident = found.incident
    since = min([began.opened_at, *(line.at for line in began.timeline)])
    return tuple(
        (run_id, entry.event)
        for run_id in found.runs[:_RUNS_READ]
        for entry in readable_entries(journal, Query(run_id=run_id, since=since), [])
        if isinstance(entry.event, RunSnapshot) and entry.event.order_id in orders
    )
