"""What a command says: to people in lines and tables, to programs in one JSON object.

With `--json`, stdout holds that object and nothing else; whatever is for people goes to stderr, and so does what an
app's modules, its tools and their subprocesses print. Nothing is imported here before it is needed, since a stop passes
through.
"""

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

INTERRUPTED = 130

WIDTH_MAX = 120
"""Longer lines are harder to read, not easier."""

_STYLES = {"bold": "1", "dim": "2", "red": "1;31", "green": "1;32", "yellow": "1;33"}


class Out:
    """Where a command's words go."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def say(self, text: str = "", *, style: str = "") -> None:
        """A line for people: stdout, or stderr beside JSON. The text must be safe already."""
        _write(text, style, err=self.json)

    def tell(self, text: str, *, behind: int, style: str = "", note: bool = False) -> None:
        """A sentence for people, folded on a terminal with its further lines that far in; elsewhere one line, for grep.

        What is to be copied, such as a command, is said and not told.
        """
        say = self.note if note else self.say
        stream = sys.stderr if self.json or note else answers()
        if not stream.isatty():
            say(text, style=style)
            return
        import textwrap

        blank = " " * min(behind, self.width // 2)
        lines = textwrap.wrap(
            text, self.width, subsequent_indent=blank, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True, replace_whitespace=False,
        )  # fmt: skip
        for line in lines:
            say(line, style=style)

    def note(self, text: str, *, style: str = "") -> None:
        """A line beside the answer, such as a warning: always on stderr. The text must be safe already."""
        _write(text, style, err=True)

    def emit(self, answer: dict[str, Any]) -> None:
        """The one JSON object, if JSON was asked for and not given yet."""
        if self.json:
            answer_once(answer)

    @property
    def is_live(self) -> bool:
        """Whether somebody watches a terminal that can be redrawn."""
        stream = sys.stderr if self.json else sys.stdout
        return stream.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def can_ask(self) -> bool:
        """Whether somebody is there to answer a question."""
        return not self.json and sys.stdin.isatty() and sys.stdout.isatty()

    @property
    def width(self) -> int:
        """Columns to write in: the terminal's, within reason; 80 where there is none."""
        import shutil

        return min(WIDTH_MAX, shutil.get_terminal_size((80, 24)).columns)

    @property
    def columns(self) -> int:
        """Columns that a line for people may have: `width` on a terminal; elsewhere any number, for grep."""
        return self.width if (sys.stderr if self.json else answers()).isatty() else sys.maxsize

    def console(self) -> "Console":
        """What draws receipts and progress while they come in. It reads no markup: all text is taken literally."""
        from rich.console import Console

        return Console(stderr=self.json, markup=False, emoji=False, highlight=False)


class _Answers:
    """Where answers go: stdout as the process was given it, whatever `sys.stdout` and descriptor 1 are meanwhile."""

    stream: TextIO | None = None
    given = False


@contextmanager
def stdout_kept_for_answers(*, for_good: bool) -> Generator[None]:
    """Let only answers reach stdout. What anybody else writes there, subprocesses included, goes to stderr.

    Args:
        for_good: Whether it stays so after the block: what an app prints while the process ends is no answer either.
    """
    outer, outer_given, stdout = _Answers.stream, _Answers.given, sys.stdout
    stdout.flush()
    kept = _redirect_descriptor()
    is_descriptor = kept >= 0 and _descriptor_of(stdout) == 1
    stream: TextIO = stdout
    if is_descriptor:
        _Answers.stream = stream = open(os.dup(kept), "w", encoding="ascii", errors="backslashreplace")  # noqa: SIM115
    else:  # somebody captures `sys.stdout` in this process
        _Answers.stream, sys.stdout = stdout, sys.stderr
    _Answers.given = False
    try:
        yield
    finally:
        if not for_good:
            sys.stdout.flush()
            if is_descriptor:
                _close_quietly(stream)
            if kept >= 0:
                os.dup2(kept, 1)
            sys.stdout = stdout
            _Answers.stream, _Answers.given = outer, outer_given
        if kept >= 0:
            os.close(kept)


def _redirect_descriptor() -> int:
    # Returns what descriptor 1 was, or -1 where there is none: a process may be started without.
    try:
        kept = os.dup(1)
    except OSError:
        return -1
    try:
        os.dup2(2, 1)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    return kept


def _descriptor_of(stream: TextIO) -> int:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return -1


def _close_quietly(stream: TextIO) -> None:
    try:
        stream.close()
    except OSError:  # nobody listens, which was said when it was written
        return


def answers() -> TextIO:
    """The stream of answers."""
    return _Answers.stream or sys.stdout


def answer_once(answer: dict[str, Any]) -> None:
    """Give the one answer to `--json`. Nothing, if it was given: two objects are none that a program could read."""
    if not _Answers.given:
        _Answers.given = True
        print_json(answer)


def report_interrupt(argv: Sequence[str] | None = None) -> int:
    """Say that somebody pressed Ctrl-C, in JSON too if that was asked for. Returns the exit status."""
    complain("interrupted")
    if "--json" in (sys.argv[1:] if argv is None else argv):
        answer_once({"error": {"kind": "Interrupted", "message": "interrupted"}})
    return INTERRUPTED


def print_json(answer: dict[str, Any]) -> None:
    """One object on one line of stdout, in plain ASCII, so that nothing in it can reach a terminal unescaped."""
    import json

    _write(json.dumps(answer, ensure_ascii=True, default=_as_json), "", err=False)


def complain(message: str) -> None:
    """Say on stderr what went wrong. Our own messages may have several lines; what they quote may not add to them."""
    from rescind.cli.safe import safe

    first, *others = (safe(line) for line in message.split("\n"))
    for line in (f"rescind: {first}", *others):
        for part in _folded(line) if sys.stderr.isatty() else (line,):
            _write(part, "", err=True)


def _folded(line: str) -> list[str]:
    """In lines that fit the terminal. What is further in is to be copied, and so is what stands in backquotes."""
    if line.startswith(" ") or not line:
        return [line]
    import re
    import textwrap

    whole = re.sub(r"`[^`]*`", lambda quoted: quoted[0].replace(" ", "\0"), line)
    lines = textwrap.wrap(
        whole, Out(json=False).width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [each.replace("\0", " ") for each in lines]


def _write(text: str, style: str, *, err: bool) -> None:
    stream = sys.stderr if err else answers()
    if style and "NO_COLOR" not in os.environ and stream.isatty():
        text = f"\x1b[{_STYLES[style]}m{text}\x1b[0m"
    stream.write(text + "\n")
    stream.flush()  # a line is news: nobody should wait for the next one to see it


def _as_json(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)
