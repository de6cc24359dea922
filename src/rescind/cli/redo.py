"""`rescind redo PLAN`: undo an undo, under the same rules: show the plan, and with `--apply` do exactly that."""

import click

from rescind.cli.app import WHAT_APP_IS
from rescind.cli.applying import Applying, applying, refuse_no_digest
from rescind.cli.options import common
from rescind.cli.out import Out
from rescind.errors import UsageError


@click.command(
    epilog="""\b
Examples:
  rescind redo 5f6fba9d41cd7b91 --app shop.tools
  rescind redo 5f6fba9d41cd7b91 --app shop.tools --apply
  rescind redo 5f6fba9d41cd7b91 --app shop.tools --apply --workers
"""
)
@click.argument("plan", metavar="PLAN")
@applying
@common
def redo(*, plan: str, how: Applying, out: Out) -> int:
    """Put back what the undo with the digest PLAN has undone; its first digits will do.

    What it restored is put back to what the steps had left, if the target is still as the undo left it. What it
    compensated is left to a person: nobody repeats a charge by guess. Then the steps are in effect again, and
    `rescind undo` can undo them once more. As with undo, nothing is changed without --apply, and with it exactly what
    was shown is done.
    """
    how_asked = how.fields()
    refuse_no_digest("PLAN", plan)
    if not how.app:
        raise UsageError(f"--app is missing: steps are redone with the tools that made them. Give {WHAT_APP_IS}")
    from rescind.cli.redo_session import RedoRequest, run_redo

    request: RedoRequest = RedoRequest(redone=plan.lower(), as_typed={}, **how_asked)
    return run_redo(request, out)
