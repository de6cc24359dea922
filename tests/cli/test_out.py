"""Sentences are folded where somebody looks, and whole where a program reads."""

import io
from contextlib import redirect_stderr, redirect_stdout

import pytest

from rescind.cli.out import Out, complain

SENTENCE = "  why       one record more than the 25 allowed in this run: erp/invoice/inv_25 (order ord_1 by policy)"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")


def test_a_sentence_is_folded_on_a_terminal_and_stays_in_its_column() -> None:
    with redirect_stdout(Screen()) as screen:
        Out(json=False).tell(SENTENCE, behind=12)

    first, *others = screen.getvalue().splitlines()
    assert first.startswith("  why       one record")
    assert others
    assert all(line.startswith(" " * 12 + line.strip()[:1]) for line in others)
    assert max(map(len, (first, *others))) <= 60


def test_elsewhere_it_is_one_line() -> None:
    with redirect_stdout(io.StringIO()) as pipe:
        Out(json=False).tell(SENTENCE, behind=12)

    assert pipe.getvalue() == SENTENCE + "\n"


def test_a_message_is_folded_on_a_terminal_and_what_is_to_be_copied_is_whole() -> None:
    told = "`rescind review list --all` shows them; " * 5
    command = "  rescind undo --run " + "x" * 80

    with redirect_stderr(Screen()) as screen:
        complain(f"{told}\n{command}")

    *lines, last = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert sum(line.count("`rescind review list --all`") for line in lines) == 5
    assert last == command


def test_a_message_is_one_line_where_nobody_looks() -> None:
    with redirect_stderr(io.StringIO()) as log:
        complain("word " * 40)

    assert len(log.getvalue().splitlines()) == 1
