"""`rescind lease`: whether a run may act, and under which fencing number."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

import click
import msgspec

from rescind.cli.options import common, given_places, switches
from rescind.cli.out import Out
from rescind.cli.places import Places, find_places
from rescind.cli.safe import safe
from rescind.cli.stopping import order_as_json
from rescind.cli.stores import orders_of
from rescind.cli.trouble import failed, trouble_line
from rescind.clock import SystemClock
from rescind.config import JOURNAL_NAME
from rescind.containment.lease import check
from rescind.errors import UsageError
from rescind.model.lease import RunLease, lease_of, unknown_details
from rescind.model.level import Level
from rescind.model.scope import unnameable
from rescind.model.step import RunInfo, parse_agent
from rescind.switch.client.asking import Reply
from rescind.switch.client.operator import OrderAnswer, get
from rescind.switch.wire import order_of


class _Lease(msgspec.Struct, frozen=True):
    run_id: str
    valid: bool
    level: str
    revocations: tuple[str, ...] = ()
    held_by: tuple[OrderAnswer, ...] = ()


class _Details(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the run; None is not known, and an order that names it counts."""

    agent: str | None = None
    tenant: str | None = None
    workflow: str | None = None
    ancestors: tuple[str, ...] | None = None


@click.command(
    epilog="""\b
Examples:
  rescind lease run_1m7yne1b
  rescind lease run_1m7yne1b --fencing 1 && ./send-the-letters
  rescind lease run_1m7yne1b --agent billing-agent@2.4.0 --tenant acme --json
"""
)
@click.argument("run_id", metavar="RUN")
@click.option("--fencing", type=int, metavar="N", help="The number that the run acts under; refused if it is stale.")
@click.option("--action", metavar="NAME", help="For this action, which may be revoked alone.")
@click.option("--agent", metavar="NAME[@VERSION]", help="Its agent, if this machine's journal does not know the run.")
@click.option("--tenant", metavar="NAME", help="Its tenant; empty for none.")
@click.option("--workflow", metavar="NAME", help="Its workflow; empty for none.")
@click.option("--ancestor", "ancestors", multiple=True, metavar="RUN", help="A run above it; may be repeated.")
@switches
@common
def lease(
    *,
    run_id: str,
    fencing: int | None,
    action: str | None,
    agent: str | None,
    tenant: str | None,
    workflow: str | None,
    ancestors: tuple[str, ...],
    out: Out,
) -> int:
    """Say whether RUN may act now, and its fencing number: 1, and one more for each order that ever revoked its lease.

    Asks every switch and this machine's store, and counts what they know together. What is not known of the run may be
    anything, so an order that names it counts. Exit status 0 if the lease is valid, and --fencing, if given, is not
    stale; else 1.
    """
    if not run_id or unnameable(run_id):
        raise UsageError(f"{run_id!r} is no run: it {unnameable(run_id) or 'is empty'}")
    places = find_places(given_places())
    given = _Details(agent=agent, tenant=tenant, workflow=workflow, ancestors=ancestors or None)
    details = _completed(given, _recorded(places, run_id))
    unknown = unknown_details(
        agent=details.agent, tenant=details.tenant, workflow=details.workflow, ancestors=details.ancestors
    )
    found = _lease(places, run_id, details, unknown, action, out)
    problem = check(found.fencing_number if fencing is None else fencing, found)
    out.say(f"{safe(run_id)}: {'valid' if found.valid else 'not valid'}", style="bold" if found.valid else "red")
    out.say(f"  fencing {found.fencing_number}")
    out.say(f"  level   {found.level.label}")
    if problem:
        out.tell(f"  {safe(problem)}", behind=2, style="red")
    if unknown:
        out.tell(f"  not known here: {', '.join(unknown)}. An order that names one of these counts", behind=2)
    out.emit(
        {
            "run_id": run_id,
            "valid": found.valid,
            "fencing_number": found.fencing_number,
            "level": found.level.label,
            "problem": problem,
            "revocations": sorted(found.revocations),
            "held_by": [order_as_json(order) for order in found.held_by],
            "unknown": list(unknown),
        }
    )
    return 1 if problem else 0


def _lease(
    places: Places, run_id: str, details: _Details, unknown: tuple[str, ...], action: str | None, out: Out
) -> RunLease:
    found: list[RunLease] = []
    if places.store is not None:
        info = _info(run_id, details)
        with orders_of(places.store) as orders:
            found.append(lease_of(orders.history(), info.subject, action, unknown=unknown))
    if places.switches.urls:
        replies = get(places.switches, _path(run_id, details, action), _Lease, clock=SystemClock()).every()
        answers = [reply.answer for reply in replies if reply.answer is not None]
        if not answers:  # what stands there cannot be known, and a lease that nobody vouches for is none
            raise failed("no switch says whether this run may act", replies)
        found += [_read(answer) for answer in answers]
        _note_silent(replies, out)
    whole = found[0]
    for each in found[1:]:
        whole = whole.merge(each)
    return whole


def _note_silent(replies: Sequence[Reply[_Lease]], out: Out) -> None:
    for reply in replies:
        if reply.answer is None:
            out.note(f"  {trouble_line(reply)}", style="yellow")


def _read(answer: _Lease) -> RunLease:
    return RunLease(
        run_id=answer.run_id,
        revocations=frozenset(answer.revocations),
        held_by=tuple(order_of(doc) for doc in answer.held_by),
        level=Level.parse(answer.level),
    )


def _path(run_id: str, details: _Details, action: str | None) -> str:
    said = {"agent": details.agent, "tenant": details.tenant, "workflow": details.workflow, "action": action}
    words = [(name, value) for name, value in said.items() if value is not None]
    if details.ancestors is not None:
        words += [("ancestor", each) for each in details.ancestors or ("",)]
    query = urlencode(words)
    return f"/v1/leases/{quote(run_id, safe='')}" + (f"?{query}" if query else "")


def _recorded(places: Places, run_id: str) -> RunInfo | None:
    if places.store is None or (isinstance(places.store, Path) and not (places.store / JOURNAL_NAME).exists()):
        return None
    from rescind.cli.stores import journal_of

    with journal_of(places.store) as journal:
        return journal.run(run_id)


def _completed(given: _Details, recorded: RunInfo | None) -> _Details:
    """What was typed, and for the rest what the journal knows of the run."""
    if recorded is None:
        return given
    return _Details(
        agent=recorded.agent if given.agent is None else given.agent,
        tenant=recorded.tenant if given.tenant is None else given.tenant,
        workflow=recorded.workflow if given.workflow is None else given.workflow,
        ancestors=recorded.ancestors if given.ancestors is None else given.ancestors,
    )


def _info(run_id: str, details: _Details) -> RunInfo:
    try:
        name, version = parse_agent(details.agent) if details.agent else ("", "")
    except ValueError as error:
        raise UsageError(f"--agent: {error}") from error
    return RunInfo(
        run_id=run_id,
        agent_name=name,
        agent_version=version,
        tenant=details.tenant or "",
        workflow=details.workflow or "",
        ancestors=details.ancestors or (),
    )
