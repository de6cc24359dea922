"""`rescind contain`: stop the spread of what has gone wrong, measure by measure, each an order of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from rescind.cli.identity import whoami
from rescind.cli.options import common, given_places, placing
from rescind.cli.out import Out
from rescind.cli.stopping import checked_cause, deliver, read_words
from rescind.clock import SystemClock, SystemIds
from rescind.errors import UsageError
from rescind.model.level import Level
from rescind.model.order import Measure, Order
from rescind.model.scope import Scope, Term
from rescind.switch.desk import new_order

ISOLATION = (Measure.QUARANTINE, Measure.REVOKE, Measure.BLOCK_FAN_OUT)
"""What isolates a run and all that it has started: they end, nobody believes them any more, and they start nothing."""

_OF_RUNS = (Measure.BLOCK_FAN_OUT, Measure.QUARANTINE, Measure.PAUSE_QUEUE)

_FLAGS = {
    Measure.REVOKE: ("--revoke", "Void the leases of these runs, and move their fencing numbers on."),
    Measure.QUARANTINE: ("--quarantine", "End these runs; refuse to retry or resume them until they are released."),
    Measure.BLOCK_FAN_OUT: ("--block-fan-out", "Let them start no runs, webhooks or follow-up agents."),
    Measure.PAUSE_QUEUE: ("--pause-queue", "Hold back their jobs that have not begun; see `rescind queues`."),
    Measure.FORCED_OPEN: ("--open-breaker", "Refuse writes as an open breaker does, until it is lifted."),
}


def _with_measures(function: Callable[..., Any]) -> Callable[..., Any]:
    for measure, (flag, text) in reversed(_FLAGS.items()):
        function = click.option(flag, measure.value, is_flag=True, help=text)(function)
    return function


@click.command(
    epilog="""\b
SCOPE is as for `rescind stop`: run:ID, tree:ID (a run and its descendants),
agent:NAME[@VERSION], tenant:NAME, workflow:NAME, action:NAME, joined by `+`.

\b
Examples:
  rescind contain tree:run_1m7y --isolate --reason "dispatches bad work"
  rescind contain run:run_1m7y --revoke --cause sig_1m7yne1b
  rescind contain tenant:acme+workflow:dunning --pause-queue
  rescind contain agent:billing-agent@2.4.0 --block-fan-out --level read-only

Each is lifted by `rescind resume`, and by nothing else.
"""
)
@click.argument("scope")
@_with_measures
@click.option("--isolate", is_flag=True, help="--quarantine, --revoke and --block-fan-out, of a run with its tree.")
@click.option(
    "--level", metavar="LEVEL", help="Hold the scope at this level besides; alone, it is as `rescind stop` does it."
)
@click.option("--cause", default="", metavar="ID", help="The signal or the incident that this answers.")
@click.option("--reason", default="", metavar="TEXT", help="Why. Who is refused is told.")
@placing
@common
def contain(
    *,
    scope: str,
    isolate: bool,
    level: str | None,
    cause: str,
    reason: str,
    wait_s: float | None,
    actor: str | None,
    out: Out,
    **flags: bool,
) -> int:
    """Contain what SCOPE covers: void its leases, quarantine it, stop what it would start, hold back its jobs.

    Every measure is an order of its own, which goes to every switch and to this machine's store as that of `rescind
    stop` does; whatever is not covered goes on as before.

    Exit status 0 if a switch has all of them, and the local store where there is one. With --wait, status 1 also if any
    process may still act under older orders.
    """
    wanted, level_wanted = read_words(scope, level or Level.HALTED.label)
    cause = checked_cause(cause)
    measures = [measure for measure in _FLAGS if flags[measure.value]]
    if isolate:
        wanted = tree_of(wanted)
        measures = [*ISOLATION, *(each for each in measures if each not in ISOLATION)]
    if level is not None:
        measures.append(Measure.LEVEL)
    if not measures:
        options = ", ".join([*(flag for flag, _ in _FLAGS.values()), "--isolate"])
        raise UsageError(f"say what to do about {scope}: {options}, or --level. `rescind stop` just stops it")
    _refuse_pointless(wanted, measures)
    orders = _orders(wanted, measures, level_wanted, cause=cause, reason=reason, actor=actor or whoami())
    return deliver(orders, given_places(), wait_s=wait_s, out=out, clock=SystemClock(), show=_as_json)


def tree_of(scope: Scope) -> Scope:
    """The scope with its run as a tree: what a coordinator has started is isolated with it.

    Raises: UsageError, if it is not about one run.
    """
    runs = [term for term in scope.terms if term.kind in ("run", "tree")]
    if len(runs) != 1:
        raise UsageError(f"--isolate is for a run and what it has started: write run:ID or tree:ID, not {scope}")
    rest = [term for term in scope.terms if term not in runs]
    return Scope(tuple(sorted([*rest, Term("tree", runs[0].value)])))


def _refuse_pointless(scope: Scope, measures: Sequence[Measure]) -> None:
    pointless = [measure for measure in measures if measure in _OF_RUNS]
    if scope.actions and pointless:
        flag, _ = _FLAGS[pointless[0]]
        raise UsageError(
            f"{flag} is about runs and not about single actions, so nothing would obey it for {scope}; "
            "leave out `action:…`, or use --revoke, --open-breaker or --level"
        )


def _orders(
    scope: Scope, measures: Sequence[Measure], level: Level, *, cause: str, reason: str, actor: str
) -> list[Order]:
    clock, ids = SystemClock(), SystemIds()
    return [
        new_order(
            scope,
            level if measure is Measure.LEVEL else measure.level,
            reason=reason,
            actor=actor,
            clock=clock,
            ids=ids,
            measure=measure,
            cause=cause,
        )
        for measure in measures
    ]


def _as_json(answers: list[dict[str, Any]]) -> dict[str, Any]:
    return {"durable": all(answer["durable"] for answer in answers), "orders": answers}
