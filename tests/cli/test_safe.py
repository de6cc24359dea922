"""Hostile text never reaches a terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from rescind.cli.safe import ELLIPSIS, columns_of, middle, safe, short


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("plain, with Umlaut ü and 漢字", "plain, with Umlaut ü and 漢字"),
        ("\x1b[2J\x1b[31mred", r"\x1b[2J\x1b[31mred"),
        ("one\nrescind: all is well", r"one\nrescind: all is well"),
        ("\r\x08\x7f\x9b31m", r"\r\x08\x7f\x9b31m"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("zero\u200bwidth", r"zero\u200bwidth"),
        ("\ud800", r"\ud800"),
        ("line\u2028separator", r"line\u2028separator"),
    ],
)
def test_what_could_move_a_cursor_is_shown_as_its_escape(hostile: str, shown: str) -> None:
    assert safe(hostile) == shown


@given(st.text(alphabet=st.characters(codec=None)))
def test_anything_becomes_one_printable_line(text: str) -> None:
    assert safe(text).isprintable()


@given(st.text(), st.integers(min_value=1, max_value=20))
def test_short_is_never_longer_than_asked(text: str, width: int) -> None:
    assert len(short(text, width)) <= width


@given(st.text(), st.integers(min_value=1, max_value=40))
def test_a_name_cut_in_the_middle_takes_no_more_columns_than_asked(text: str, columns: int) -> None:
    cut = middle(text, columns)

    assert columns_of(cut) <= columns
    assert cut.isprintable()
    assert cut == safe(text) or ELLIPSIS in cut


def test_wide_characters_take_two_columns_and_combining_ones_none() -> None:
    assert (columns_of("発票"), columns_of("e\u0301"), columns_of("abc")) == (4, 1, 3)
    assert middle("発票発票発票", 7) == "発…票"


def test_markup_in_a_name_is_drawn_as_it_is_written() -> None:
    from rescind.cli.out import Out

    console = Out(json=False).console()
    drawn_on = console.file = io.StringIO()
    table = Table()
    table.add_column("what")
    table.add_row("[red]agent[/red] :smile:")
    console.print(table)
    console.print("[bold]x[/bold]")

    drawn = drawn_on.getvalue()
    assert "[red]agent[/red] :smile:" in drawn
    assert "[bold]x[/bold]" in drawn
