"""The command line: it parses, delegates and renders. What decides lives in the rooms below.

Exit status: 0 for success, 1 if something is not as it should be, 2 for bad input, after which nothing was changed.

A stop must be quick from a cold start, so a command's module is imported when the command is called, and what draws
is imported when something is drawn.
"""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the console script `rescind`. Returns the exit status."""
    try:
        from rescind.cli.entry import run

        return run(argv)
    except KeyboardInterrupt:  # so early that nobody else was there yet, or a second one
        from rescind.cli.out import report_interrupt

        return report_interrupt(argv)
