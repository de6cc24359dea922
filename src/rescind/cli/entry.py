"""From a command line to an exit status: the only place that turns errors into words."""

import errno
import os
import sys
from collections.abc import Sequence

from rescind.cli.out import complain, print_json
from rescind.cli.quick import read_stop, run_stop
from rescind.errors import RescindError, UsageError

FAULT, BAD_INPUT, INTERRUPTED = 1, 2, 130

DEBUG_VARIABLE = "RESCIND_DEBUG"


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. With `--debug`, unexpected exceptions come through."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or bool(os.environ.get(DEBUG_VARIABLE))
    as_json = "--json" in arguments
    _never_fail_to_print()
    try:
        words = read_stop(arguments)
        status = run_stop(words) if words is not None else _run_full(arguments)
        sys.stdout.flush()
        return status
    except RescindError as error:
        if debug:
            raise
        return _report(type(error).__name__, str(error), BAD_INPUT if isinstance(error, UsageError) else FAULT, as_json)
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _nobody_listens()
        return _report_surprise(error, debug=debug, as_json=as_json)
    except Exception as error:  # noqa: BLE001  # the edge: a person gets one line, and a way to see the rest
        return _report_surprise(error, debug=debug, as_json=as_json)


def _run_full(arguments: list[str]) -> int:
    import click

    from rescind.cli.root import root

    try:
        status = root.main(arguments, prog_name="rescind", standalone_mode=False)
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = "" if context is None else f"\nTry `{context.command_path} --help`."
        return _report("UsageError", error.format_message() + hint, BAD_INPUT, "--json" in arguments)
    return status if isinstance(status, int) else 0


def _report(kind: str, message: str, status: int, as_json: bool) -> int:
    complain(message)
    if as_json:
        print_json({"error": {"kind": kind, "message": message}})
    return status


def _report_surprise(error: Exception, *, debug: bool, as_json: bool) -> int:
    if debug:
        raise error
    what = f"{type(error).__name__}: {error}"
    remedy = "Run the same command with --debug to see where; a report of it is welcome."
    return _report("Unexpected", f"this should not have happened: {what}\n{remedy}", FAULT, as_json)


def _nobody_listens() -> int:
    # `rescind audit log | head`: the reader has what it wanted. What is left in the buffer must not fail at exit.
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for the rest of the process
    return FAULT


def _never_fail_to_print() -> None:
    # A name that this terminal cannot show must not keep a stop from being reported.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
