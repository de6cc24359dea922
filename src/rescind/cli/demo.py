"""`rescind demo`: the whole story on a real database, in under a minute."""

from contextlib import redirect_stdout
from pathlib import Path

import click

from rescind.cli.options import DEBUG_HELP
from rescind.cli.out import answers


@click.command()
@click.option(
    "--manual-stop", is_flag=True, help="Let an operator notice and stop; triggers only say what they would do."
)
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Leave everything in this folder, for exploring.",
)
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help=DEBUG_HELP)
def demo(*, manual_stop: bool, keep: Path | None, as_json: bool) -> int:
    """Watch agents go wrong on a billing desk, be stopped, and be undone by two workers, one of which is killed.

    No model, no network: a real database, real processes. Exit status 0 only if every promise held.
    """
    from rescind.demo import run

    with redirect_stdout(answers()):  # the demo prints its object itself
        return run(keep=keep, manual_stop=manual_stop, as_json=as_json)
