"""What a command says: to people in lines and tables, to programs in one JSON object.

With `--json`, stdout holds that object and nothing else; whatever is for people goes to stderr. Nothing is imported
here before it is needed, since a stop passes through.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

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

    def note(self, text: str, *, style: str = "") -> None:
        """A line beside the answer, such as a warning: always on stderr. The text must be safe already."""
        _write(text, style, err=True)

    def emit(self, answer: dict[str, Any]) -> None:
        """The one JSON object, if JSON was asked for."""
        if self.json:
            print_json(answer)

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

    def console(self) -> "Console":
        """What draws receipts and progress while they come in. It reads no markup: all text is taken literally."""
        from rich.console import Console

        return Console(stderr=self.json, markup=False, emoji=False, highlight=False)


def print_json(answer: dict[str, Any]) -> None:
    """One object on one line of stdout, in plain ASCII, so that nothing in it can reach a terminal unescaped."""
    import json

    _write(json.dumps(answer, ensure_ascii=True, default=_as_json), "", err=False)


def complain(message: str) -> None:
    """Say on stderr what went wrong. Our own messages may have several lines; what they quote may not add to them."""
    from rescind.cli.safe import safe

    _write("rescind: " + "\n".join(safe(line) for line in message.split("\n")), "", err=True)


def _write(text: str, style: str, *, err: bool) -> None:
    stream = sys.stderr if err else sys.stdout
    if style and "NO_COLOR" not in os.environ and stream.isatty():
        text = f"\x1b[{_STYLES[style]}m{text}\x1b[0m"
    stream.write(text + "\n")
    stream.flush()  # a line is news: nobody should wait for the next one to see it


def _as_json(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value)
