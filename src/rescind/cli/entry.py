"""From a command line to an exit status: the only place that turns errors into words."""

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from rescind.cli.out import answer_once, complain, report_interrupt, stdout_kept_for_answers
from rescind.cli.quick import read_stop, run_stop
from rescind.errors import RescindError, UsageError

FAULT, BAD_INPUT = 1, 2

DEBUG_VARIABLE = "RESCIND_DEBUG"


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. With `--debug`, unexpected exceptions come through."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments  # the rest is somebody else's command
    debug = "--debug" in ours or bool(os.environ.get(DEBUG_VARIABLE))
    as_json = "--json" in ours
    _never_fail_to_print()
    # A console script ends with its answer; whoever calls `main` with words goes on, and wants its stdout back.
    with stdout_kept_for_answers(for_good=argv is None) if as_json else nullcontext():
        return _run(arguments, debug=debug, as_json=as_json)


def explain(error: RescindError, words: str, **answer: Any) -> None:
    """Add words to what is said of the error, and fields to its object."""
    error.add_note(words)
    vars(error).setdefault("answer", {}).update(answer)


def _run(arguments: list[str], *, debug: bool, as_json: bool) -> int:
    try:
        words = read_stop(arguments)
        status = run_stop(words) if words is not None else _run_full(arguments)
        sys.stdout.flush()
        return status
    except RescindError as error:
        if debug:
            raise
        message = "\n".join([str(error), *getattr(error, "__notes__", ())])
        status = BAD_INPUT if isinstance(error, UsageError) else FAULT
        return _report(type(error).__name__, message, status, as_json, **vars(error).get("answer", {}))
    except KeyboardInterrupt:
        return report_interrupt(arguments)
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


def _report(kind: str, message: str, status: int, as_json: bool, **answer: Any) -> int:
    complain(message)
    if as_json:
        answer_once({"error": {"kind": kind, "message": message}, **answer})
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
