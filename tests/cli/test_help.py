"""Help is short, fits a terminal, and a slip of the finger is met with the nearest command."""

import pytest

from cli.conftest import Rescind
from rescind import __version__
from rescind.cli.root import MODULES

COMMANDS = [
    ("stop",),
    ("resume",),
    ("status",),
    ("contain",),
    ("lease",),
    *(("queues", name) for name in ("list", "watch", "reconcile")),
    *(("breaker", name) for name in ("list", "force-open", "reset")),
    ("undo",),
    ("redo",),
    ("reconcile",),
    ("impact",),
    ("checkpoints",),
    *(("held", name) for name in ("list", "drop", "release")),
    *(("plan", name) for name in ("list", "show", "follow", "pause", "resume", "cancel")),
    *(("review", name) for name in ("list", "show", "assign", "due", "comment", "resolve", "export")),
    *(("approvals", name) for name in ("list", "show", "approve", "deny")),
    *(("incidents", name) for name in ("list", "show", "recover", "report", "close")),
    ("verdict",),
    ("worker",),
    ("serve",),
    ("baseline", "learn"),
    *(("audit", name) for name in ("verify", "log", "orders", "export", "import", "seal")),
]


def test_help_fits_one_screen_and_names_every_command(rescind: Rescind) -> None:
    shown = rescind("--help")

    assert shown.status == 0
    assert len(shown.out.splitlines()) <= 50
    assert max(map(len, shown.out.splitlines())) <= 80
    for name in MODULES:
        assert shown.out.count(f"\n  {name} ") + shown.out.count(f"\n  {name}\n") == 1


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_and_takes_store_json_and_debug(
    rescind: Rescind, command: tuple[str, ...]
) -> None:
    shown = rescind(*command, "--help")

    assert shown.status == 0
    assert all(option in shown.out for option in ("--store", "--json", "--debug"))
    assert max(map(len, shown.out.splitlines())) <= 80


@pytest.mark.parametrize("name", MODULES)
def test_no_line_of_a_groups_help_is_cut(rescind: Rescind, name: str) -> None:
    lines = rescind(name, "--help").out.splitlines()

    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage:")]
    assert max(map(len, lines)) <= 80


def test_no_command_is_help(rescind: Rescind) -> None:
    assert "rescind undo" in rescind().err + rescind().out


def test_the_version_is_said(rescind: Rescind) -> None:
    assert rescind("-V").out == f"rescind {__version__}\n"


@pytest.mark.parametrize(("typed", "meant"), [("stpo", "stop"), ("resmue", "resume"), ("undoo", "undo")])
def test_an_unknown_command_is_met_with_the_nearest(rescind: Rescind, typed: str, meant: str) -> None:
    answer = rescind(typed)

    assert answer.status == 2
    assert f"Did you mean `rescind {meant}`?" in answer.err
