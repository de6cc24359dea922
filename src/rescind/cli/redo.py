"""`rescind redo PLAN`: undo an undo, under the same rules: show the plan, and with `--apply` do exactly that."""

import click

from rescind.cli.app import APP_VARIABLE, WHAT_APP_IS
from rescind.cli.identity import whoami
from rescind.cli.options import ACTOR_HELP, common, given_store
from rescind.cli.out import Out
from rescind.cli.undo import refuse_no_digest, refuse_without_apply
from rescind.errors import UsageError


@click.command(
    epilog="""\b
Examples:
  rescind redo 5f6fba9d41cd7b91 --app shop.tools
  rescind redo 5f6fba9d41cd7b91 --app shop.tools --apply
"""
)
@click.argument("plan", metavar="PLAN")
@click.option(
    "--app", envvar=APP_VARIABLE, metavar="MODULE[:GUARD]", help=f"Where your tools are declared, or {APP_VARIABLE}."
)
@click.option("--apply", "apply", is_flag=True, help="Do it. See above.")
@click.option("--plan", "shown", metavar="DIGEST", help="With --apply: only this plan of the redo, or its rest.")
@click.option("--stop-first", is_flag=True, help="With --apply: hold runs that may still write at read_only.")
@click.option("--yes", "-y", is_flag=True, help="With --apply: do not ask.")
@click.option("--parallel", type=click.IntRange(1, 64), metavar="N", help="Steps redone at once; 8 by default.")
@click.option("--tree", is_flag=True, help="Show the plan by dependency.")
@click.option("--all", "every", is_flag=True, help="Show every step of a long plan.")
@click.option("--actor", metavar="NAME", help=ACTOR_HELP)
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the journal.")
@common
def redo(
    *,
    plan: str,
    app: str | None,
    apply: bool,
    shown: str | None,
    stop_first: bool,
    yes: bool,
    parallel: int | None,
    tree: bool,
    every: bool,
    actor: str | None,
    reason: str,
    out: Out,
) -> int:
    """Put back what the undo with the digest PLAN has undone; its first digits will do.

    What it restored is put back to what the steps had left, if the target is still as the undo left it. What it
    compensated is left to a person: nobody repeats a charge by guess. Then the steps are in effect again, and
    `rescind undo` can undo them once more. As with undo, nothing is changed without --apply, and with it exactly what
    was shown is done.
    """
    refuse_without_apply(apply, {"--plan": shown, "--stop-first": stop_first, "--yes": yes})
    refuse_no_digest("PLAN", plan)
    refuse_no_digest("--plan", shown)
    if not app:
        raise UsageError(f"--app is missing: steps are redone with the tools that made them. Give {WHAT_APP_IS}")
    from rescind.cli.redo_session import RedoRequest, run_redo

    request: RedoRequest = RedoRequest(
        redone=plan.lower(),
        workers=False,  # what is left to workers is an undo
        as_typed={},
        app=app,
        store=given_store(),
        apply=apply,
        shown=shown.lower() if shown else None,
        stop_first=stop_first,
        sure=yes,
        parallel=parallel,
        tree=tree,
        every=every,
        actor=actor or whoami(),
        reason=reason,
    )
    return run_redo(request, out)
