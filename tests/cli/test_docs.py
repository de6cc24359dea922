"""Every command line in README and docs is one that `rescind` takes: its words, its options, and their values."""

import re
import shlex
from pathlib import Path

import click
import pytest

from rescind.cli.root import root

ROOT = Path(__file__).parents[2]

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)

COMMAND = re.compile(r"\$ (?:[A-Z_]+=\S+ )?(rescind .*)")

ELSEWHERE = set("|&;<>")
"""Where a shell goes on."""


def words_of(line: str) -> list[str]:
    """What a shell would give to the command, without what stands for something else."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, words = True, list[str]()
    for word in lexer:
        if set(word) & ELSEWHERE and set(word) <= ELSEWHERE:
            break
        words.append(word)
    return [word for word in words[1:] if word not in ("…", "$D")]


def lines_of(page: Path) -> list[str]:
    console = "\n".join(BLOCK.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    found = (COMMAND.match(line.strip()) for line in console.splitlines())
    return [match[1] for match in found if match]


LINES = [pytest.param(line, id=f"{page.stem}: {line}") for page in PAGES for line in lines_of(page)]


def test_there_are_some() -> None:
    assert len(LINES) > 60


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_of_the_docs_is_taken(line: str) -> None:
    command: click.Command = root
    context = command.make_context("rescind", words_of(line))
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command, context = found, found.make_context(found.name, rest, parent=context)
