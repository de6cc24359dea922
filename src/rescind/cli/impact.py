"""`rescind impact`: who acted on what some steps wrote, as a tree, as JSON, and as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rescind.cli.options import common, given_store
from rescind.cli.out import Out
from rescind.cli.selecting import Chosen, selecting
from rescind.cli.words import count_of
from rescind.errors import UsageError

if TYPE_CHECKING:
    from rescind.database.address import StoreAt


@click.command(
    epilog="""\b
Examples:
  rescind impact --run run_77
  rescind impact --agent billing-agent@2.4.0 --since 06:00 --html impact.html
"""
)
@selecting
@click.option("--svg", type=click.Path(dir_okay=False), metavar="FILE", help="Draw it there.")
@click.option("--html", type=click.Path(dir_okay=False), metavar="FILE", help="Write a page with the picture there.")
@click.option("--all", "every", is_flag=True, help="Show every run and step of a large one.")
@common
def impact(*, chosen: Chosen, svg: str | None, html: str | None, every: bool, out: Out) -> int:
    """Show which later steps read or overwrote what was selected has written, and what followed from them.

    What a run has read is known of writes, and of reads that were declared with a target: guard.read(…, target=…).
    After a read, whatever its run goes on to write counts as depending on it. Nothing is changed. To undo all of it
    together: rescind undo … --cascade.
    """
    from rescind.cli.impact_page import html_of
    from rescind.cli.impact_picture import svg_of
    from rescind.cli.impact_view import reach_lines, tree_lines
    from rescind.cli.stores import find_store, journal_of
    from rescind.cli.why_nothing import why_nothing
    from rescind.compensation.planning.aftermath import read_impact
    from rescind.compensation.planning.selection import select_steps

    selection = chosen.selection(to="follow")
    store = find_store(given_store())
    with journal_of(store) as journal:
        steps = select_steps(journal, selection)
        why = "" if steps else why_nothing(journal, selection)
        found = read_impact(journal, steps)
    runs = len({record.run.run_id for record in steps})
    out.say(f"impact of {count_of(len(steps), 'step')} of {count_of(runs, 'run')}", style="bold")
    if why:
        out.say(f"{why}, so nothing depends on it")
    else:
        for line, style in reach_lines(found, width=out.columns):
            out.tell(line, behind=11, style=style)
    if found.affected or found.readers:
        out.say()
        for line, style in tree_lines(found, every=every, width=out.columns):
            out.say(line, style=style)
    files: dict[str, str] = {}
    for kind, path, draw in (("svg", svg, svg_of), ("html", html, html_of)):
        if path is not None:
            files[kind] = _written(path, draw(found))
            out.say(f"drawn in {files[kind]}")
    out.emit(_as_json(found, store, why) | files)
    return 0


def _written(path: str, text: str) -> str:
    """Raises: UsageError."""
    from rescind.cli.safe import safe

    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    return safe(path)


def _as_json(found: Any, store: "StoreAt", why: str) -> dict[str, Any]:
    from rescind.compensation.planning.impact import reach_of

    return {
        "roots": [write.ref for write in found.roots],
        "affected": list(found.affected),
        "readers": list(found.readers),
        "reach": reach_of(found),
        "runs": list(found.runs.values()),
        "reads_missing": list(found.reads_missing),
        "unclosed": list(found.unclosed),
        "why_nothing": why,
        "store": str(store),
    }
