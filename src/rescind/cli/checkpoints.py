"""`rescind checkpoints`: from where a run could be carried on."""

import click

from rescind.cli.checkpoint_view import boundary_as_json, say_boundaries
from rescind.cli.options import common, given_store
from rescind.cli.out import Out
from rescind.cli.safe import safe
from rescind.cli.stores import command_line, find_store, journal_of
from rescind.recovery.checkpoint import read_story
from rescind.recovery.resume import problem_with


@click.command()
@click.argument("run_id", metavar="RUN")
@common
def checkpoints(*, run_id: str, out: Out) -> int:
    """Show the checkpoints of a run: which are safe to carry it on from, and what was known at each.

    Exit status 1 if none is safe.
    """
    store = find_store(given_store())
    with journal_of(store) as journal:
        story = read_story(journal, run_id)
    problems = {boundary.name: problem_with(story, boundary) for boundary in story.boundaries}
    safe_ones = [boundary.name for boundary in story.boundaries[1:] if not problems[boundary.name]]
    chosen = safe_ones[0] if safe_ones else ""
    say_boundaries(story, problems, chosen, out)
    if len(story.boundaries) == 1:
        out.say(f"run {safe(story.run.run_id)} has made no checkpoint")
    elif chosen:
        out.say()
        out.say("to carry it on from ->:")
        command = command_line("resume", story.run.run_id, "--entry", "MODULE:FUNCTION", store=store)
        out.say(f'  {command} --reason "…"')
    else:
        out.say()
        words = "none is safe to carry it on from; decide what is open, or undo what came after one:"
        out.tell(words, behind=0, style="red")
        out.say(f"  {command_line('review', 'list', store=store)}")
        out.say(f"  {command_line('undo', '--to-checkpoint', 'ID', '--app', 'MODULE', store=store)}")
    out.emit(
        {
            "run_id": story.run.run_id,
            "chosen": chosen or None,
            "checkpoints": [boundary_as_json(story, each, problems[each.name]) for each in story.boundaries[1:]],
        }
    )
    return 0 if chosen else 1
