"""What the viewer sees: live bars on a terminal, plain lines elsewhere, and beside `--json` only on stderr."""

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

WIDTH_MAX = 100
"""Wider lines are harder to read, not easier."""

INDENT = 4

ACCENT, GOOD, BAD, QUIET = "bold cyan", "green", "bold red", "dim"

PLAIN_LINES = 4
"""Lines that a bar becomes where nothing can be redrawn."""

Advance = Callable[[int], None]
"""Says how far something has come."""


class Screen:
    """Where the story is told. All text is taken literally."""

    def __init__(self, console: Console) -> None:
        self._console = console
        if console.width > WIDTH_MAX:
            console.width = WIDTH_MAX
        speaks = console.encoding.lower().startswith("utf")
        self._yes, self._no, self._bar = ("✓", "✗", "─") if speaks else ("ok", "!!", "-")
        self._acts = 0

    @classmethod
    def of_process(cls, *, as_json: bool) -> "Screen":
        """The screen of this process: stdout, or stderr if stdout is for JSON."""
        return cls(Console(file=sys.stderr if as_json else sys.stdout, markup=False, emoji=False, highlight=False))

    # --- telling ---

    def title(self, name: str, text: str) -> None:
        """The first line."""
        self._console.print(Text.assemble((name, ACCENT), "  ", text))

    def act(self, title: str) -> None:
        """The next act begins."""
        self._acts += 1
        self._console.print()
        self._console.print(Text.assemble((f" {self._acts}  ", ACCENT), (title, "bold")))

    def say(self, text: str, *, style: str = "") -> None:
        """A paragraph."""
        self._show(Text(text, style=style))

    def command(self, *parts: str) -> None:
        """A command line that does what is done here; each part but the first begins a line, and all can be pasted."""
        line = f" \\\n{' ' * (INDENT + 4)}".join(parts)
        # Not folded at the edge of the screen: half a command is none.
        self._console.print(Text.assemble(" " * INDENT, ("$ ", QUIET), (line, "bold")), soft_wrap=True)

    def lines(self, text: str, *, style: str = "") -> None:
        """Lines of a file or of a command's answer, as they are: one that is too long goes beyond the edge."""
        for line in text.splitlines():
            self._console.print(Text.assemble(" " * INDENT, (line, style)), soft_wrap=True)

    def check(self, text: str, *, holds: bool = True, note: str = "") -> None:
        """Something that holds, or does not."""
        sign = (self._yes, GOOD) if holds else (self._no, BAD)
        self._show_marked(sign, Text.assemble(text, (f"  {note}" if note else "", QUIET if holds else BAD)))

    def bad(self, text: str, *, note: str = "") -> None:
        """Something that should not have happened, and did."""
        self._show_marked((self._no, BAD), Text.assemble((text, "bold"), f"  {note}" if note else ""))

    def table(self, rows: Iterable[tuple[str, int | str, str]], *, style: str = "") -> None:
        """A word, a number and what it counts, in three columns."""
        table = Table.grid(padding=(0, 2))
        table.add_column(style=style, no_wrap=True)
        table.add_column(style="bold", justify="right", no_wrap=True)
        table.add_column()
        for word, number, remark in rows:
            count = f"{number:,}" if isinstance(number, int) else number
            table.add_row(Text(word), Text(count), Text(remark))
        self._show(table)

    def rule(self) -> None:
        """A line across, before the end."""
        self._console.print()
        self._console.print(Rule(characters=self._bar, style=QUIET))

    def blank(self) -> None:
        """An empty line."""
        self._console.print()

    # --- progress ---

    @contextmanager
    def progress(self, what: str, total: int) -> Generator[Advance]:
        """A bar while something goes on; it is gone afterwards, and the caller says how it ended."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            yield self._plain_progress(what, total)
            return
        columns = (
            TextColumn(" " * INDENT + "{task.description}"),
            BarColumn(bar_width=None, style=QUIET, complete_style="cyan", finished_style=GOOD),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True, expand=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda count: bar.update(task, completed=count)

    def _plain_progress(self, what: str, total: int) -> Advance:
        told = 0

        def advance(count: int) -> None:
            nonlocal told
            quarter = count * PLAIN_LINES // total if total else 0
            if quarter > told:
                told = quarter
                self.say(f"{what}: {count:,} of {total:,}")

        return advance

    def _show_marked(self, sign: tuple[str, str], text: Text) -> None:
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True)
        row.add_column()
        row.add_row(Text(*sign), text)
        self._show(row)

    def _show(self, what: Text | Table) -> None:
        # Line by line and without the blanks that fill a line up: they would stay behind in files and copied text.
        options = self._console.options.update(width=self._console.width - INDENT)
        for segments in self._console.render_lines(what, options, pad=False):
            line = Text.assemble(" " * INDENT, *((segment.text, segment.style or "") for segment in segments))
            line.rstrip()
            self._console.print(line, soft_wrap=True)


def dollars(cents: int) -> str:
    """`$1,234.50`."""
    return f"${cents / 100:,.2f}"


def counted(count: int, what: str) -> str:
    """`1 credit`, `1,020 credits`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
