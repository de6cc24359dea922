"""Bad input: a message with the place and the remedy, exit status 2, no traceback, and nothing is changed."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cli.conftest import Rescind

UNDO = ("undo", "--run", "run-1", "--app", "desk")


def contents(folder: Path) -> dict[str, bytes]:
    kept = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal"))]
    return {str(path): path.read_bytes() for path in kept}


@pytest.fixture
def unchanged(shop: ModuleType, folder: Path) -> Iterator[None]:
    before = contents(folder)
    yield
    assert contents(folder) == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("stop",), "Missing argument 'SCOPE'"),
        (("stop", "agnet:x"), "did you mean 'agent'?"),
        (("stop", "everything+tenant:x"), "a scope is `everything`"),
        (("stop", "agent:x", "--level", "hlted"), "the levels are: normal, supervised, read_only, paused, halted"),
        (("stop", "agent:x", "--level", "normal"), "lift an order"),
        (("stop", "agent:x", "--wait", "0"), "is not in the range"),
        (("stop", "agent:x", "tenant:y"), "unexpected extra argument"),
        (("stop", "agent:x", "--levle", "paused"), "No such option"),
        (("resume", "agent:x"), "Missing option '--reason'"),
        (("resume", "agent:x", "--reason", "y"), "no order stands with exactly the scope 'agent:x'"),
        (("resume", "ord_1", "--reason", "y"), "no order 'ord_1'"),
        (("undo", "--app", "desk"), "say what to undo"),
        (("undo", "--run", "run-1"), "--app is missing: 3 steps (letter.send, price.set, thing.sell)"),
        (("undo", "--run", "run-2", "--app", "desk"), "did you mean 'run-1'?"),
        (("undo", "--agent", "shop-agnt", "--app", "desk"), "did you mean 'shop-agent'?"),
        (("undo", "--agent", "a@", "--app", "desk"), "NAME@VERSION"),
        (("undo", "--run", "run-1", "--app", "no_such"), "no module 'no_such'"),
        ((*UNDO, "--since", "2026-11-21T06:00:00"), "has no time zone"),
        ((*UNDO, "--since", "2200-01-01T00:00:00Z"), "is still to come"),
        ((*UNDO, "--since", "yesterday"), "--since 'yesterday' is no moment"),
        ((*UNDO, "--since", "2026-11-21T06:00Z", "--until", "2026-11-21T05:00Z"), "no time lies between"),
        ((*UNDO, "--yes"), "--yes only mean something with --apply"),
        ((*UNDO, "--apply", "--plan", "12"), "is no digest"),
        ((*UNDO, "--store", "elsewhere"), "leave --store out, or name the same store"),
        ((*UNDO, "--parallel", "0"), "'--parallel'"),
        (("review", "show", "rev_1"), "knows no review task 'rev_1'"),
        (("review", "resolve", "rev_1", "--as", "maybe"), "'--as'"),
        (("audit", "export", "--run", "run-9"), "no run 'run-9'"),
        (("audit", "log", "--agent", "@1"), "NAME@VERSION"),
        (("audit", "log", "--since", "2026-11-21"), "has no time zone"),
        (("audit", "import", "no-such-file"), "No such file"),
        (("status", "--store", "nowhere"), "does not exist (named by --store)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_refused_with_the_place_and_the_remedy(rescind: Rescind, argv: tuple[str, ...], says: str) -> None:
    answer = rescind(*argv)

    assert (answer.status, answer.out) == (2, ""), answer.err
    assert says in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("command", [("stop", "everything"), ("status",), ("audit", "verify"), ("review", "list")])
def test_a_folder_without_a_store_is_not_made_into_one(
    rescind: Rescind, folder: Path, command: tuple[str, ...]
) -> None:
    answer = rescind(*command)

    assert answer.status == 2
    assert "--store" in answer.err
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stor: x\n", "unknown key 'stor'; did you mean 'store'?"),
        ("undo:\n  paralel: 3\n", "did you mean 'undo.parallel'?"),
        ("undo:\n  parallel: 0\n", "parallel is 0"),
        ("store: [\n", "rescind.yaml, line 2, column 1: this is not YAML"),
        ("store: a\x00b\n", "this is not YAML"),
        ("undo:\n  parallel: many\n", "undo.parallel must be a number, and is 'many'"),
        ("undo:\n  retries: true\n", "undo.retries must be a number"),
        ("undo:\n  systems: 3\n", "undo.systems must hold names of systems, and is 3"),
        ("undo:\n  systems: {crm: 3}\n", "undo.systems.crm must hold keys and values"),
        ("undo:\n  systems: {crm: {rate: 3}}\n", "unknown key 'undo.systems.crm.rate'"),
        ("undo:\n  systems: {crm: {rate_per_s: fast}}\n", "undo.systems.crm.rate_per_s must be a number"),
        ("undo:\n  systems: {crm: {rate_per_s: 0}}\n", "rate_per_s is 0"),
        ("undo:\n  within_s: 0\n", "within_s is 0"),
        ("undo: 3\n", "undo must hold keys and values, and is 3"),
        ("store: 3\n", "store must be text, and is 3"),
        ("store:\n", "store must be text, and is empty"),
    ],
)
def test_an_unreadable_configuration_is_refused_with_its_place(
    rescind: Rescind, folder: Path, text: str, says: str
) -> None:
    (folder / "rescind.yaml").write_text(text)

    answer = rescind("stop", "everything")

    assert answer.status == 2
    assert says in answer.err
    assert str(folder / "rescind.yaml") in answer.err
    assert answer.err.count("\n") == 1


def test_a_stop_with_a_named_store_does_not_read_the_configuration(
    rescind: Rescind, shop: ModuleType, folder: Path
) -> None:
    (folder / "rescind.yaml").write_text("store: [\n")

    assert rescind("stop", "everything", "--store", "store").status == 0


@pytest.mark.parametrize("name", ["journal.db", "orders.db"])
def test_a_store_of_a_newer_format_is_left_alone(rescind: Rescind, shop: ModuleType, folder: Path, name: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / "store" / name)) as connection, connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()

    answer = rescind(*(("audit", "log") if name == "journal.db" else ("stop", "everything")))

    assert answer.status == 2
    assert "newer" in answer.err


def test_an_error_is_an_object_where_json_was_asked_for(rescind: Rescind, shop: ModuleType) -> None:
    answer = rescind("stop", "agnet:x", "--json")

    assert answer.status == 2
    assert answer.json["error"]["kind"] == "UsageError"
    assert "did you mean 'agent'?" in answer.json["error"]["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_stop_on_a_read_only_disk_says_so(rescind: Rescind, shop: ModuleType, folder: Path) -> None:
    for path in [*(folder / "store").iterdir(), folder / "store"]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        answer = rescind("stop", "everything")
    finally:
        for path in [folder / "store", *(folder / "store").iterdir()]:
            path.chmod(path.stat().st_mode | 0o200)

    assert answer.status == 1
