"""What is printed, with and without a terminal."""

import io

from rich.console import Console

from rescind.demo.screen import Screen, counted, dollars


def plain(width: int = 80, encoding: str = "utf-8") -> tuple[Screen, io.TextIOWrapper]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Screen(Console(file=file, width=width, markup=False, emoji=False, highlight=False)), file


def printed(file: io.TextIOWrapper) -> str:
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    return file.buffer.getvalue().decode()


def test_without_a_terminal_a_bar_becomes_a_few_plain_lines() -> None:
    screen, file = plain()
    with screen.progress("customers wronged", 340) as advance:
        for count in range(341):
            advance(count)
    assert printed(file).splitlines() == [
        "    customers wronged: 85 of 340",
        "    customers wronged: 170 of 340",
        "    customers wronged: 255 of 340",
        "    customers wronged: 340 of 340",
    ]


def test_nothing_to_do_is_no_division_by_zero() -> None:
    screen, file = plain()
    with screen.progress("steps", 0) as advance:
        advance(0)
    assert printed(file) == ""


def test_lines_fit_the_width_have_no_blanks_at_their_end_and_no_escape_sequences() -> None:
    screen, file = plain(width=60)
    screen.title("rescind demo", "stop it")
    screen.act("An act")
    screen.say("many words " * 20)
    screen.check("it holds " * 15, note="a remark " * 10)
    screen.check("it does not", note="for this reason", holds=False)
    screen.table([("word", 1_234, "what it counts " * 10), ("task_1", "", "")])
    screen.rule()
    lines = printed(file).splitlines()
    assert all(len(line) <= 60 and line == line.rstrip() and "\x1b" not in line for line in lines)
    assert "    ✗ it does not  for this reason" in lines
    assert any("1,234" in line for line in lines)


def test_commands_are_never_folded_so_that_they_can_be_pasted() -> None:
    screen, file = plain(width=40)
    screen.command("rescind stop agent:subscriptions-agent@2.4.0 --level halted", "--reason 'because'")
    assert printed(file) == (
        "    $ rescind stop agent:subscriptions-agent@2.4.0 --level halted \\\n        --reason 'because'\n"
    )


def test_where_only_ascii_can_be_shown_only_ascii_is() -> None:
    screen, file = plain(encoding="ascii")
    screen.check("holds")
    screen.check("does not", holds=False)
    screen.rule()
    assert printed(file).isascii()


def test_text_in_brackets_is_text() -> None:
    screen, file = plain()
    screen.say("[bold]not markup[/bold] :smile:")
    assert "[bold]not markup[/bold] :smile:" in printed(file)


def test_on_a_terminal_the_bar_is_drawn_and_gone_afterwards() -> None:
    file = io.StringIO()
    screen = Screen(Console(file=file, width=80, force_terminal=True, _environ={"TERM": "xterm"}))
    with screen.progress("customers wronged", 340) as advance:
        advance(170)
    assert "\x1b[" in file.getvalue()
    assert "customers wronged" in file.getvalue()


def test_dollars() -> None:
    assert dollars(2_268_000) == "$22,680.00"
    assert dollars(5) == "$0.05"


def test_one_is_singular() -> None:
    assert [counted(count, "credit") for count in (0, 1, 1_020)] == ["0 credits", "1 credit", "1,020 credits"]
