"""`rescind status` about undos whose command or workers were killed (`kill -9`): law AL1, and what to type next."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from acceptance.test_redo import AGENT, TOOLS, TRACE, UNDO, PriceList
from acceptance.test_workers import until

pytest.importorskip("dbos")

if TYPE_CHECKING:
    from servers import Postgres


_WAITS = """
    while os.path.exists("closed"):
        time.sleep(0.01)
    name ="""


class ClosedList(PriceList):
    """A list that can be closed: no price is put back then, however slow a command is that a test runs meanwhile."""

    files: ClassVar = {"list_tools.py": TOOLS.replace("\n    time.sleep(0.01)\n    name =", _WAITS), "agent.py": AGENT}

    def close(self) -> None:
        (self.folder / "closed").touch()

    def reopen(self) -> None:
        (self.folder / "closed").unlink()


@pytest.fixture(params=["folder", pytest.param("postgres", marks=pytest.mark.slow)])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClosedList]:
    store = ""
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        store = postgres.new_database()
    made = ClosedList(tmp_path, store)
    yield made
    made.end_all()


def undos(shop: PriceList) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shop.answer("status")["unfinished"]["undos"]
    return found


def the_undo(shop: PriceList) -> dict[str, Any]:
    (undo,) = undos(shop)
    return undo


def shown(shop: PriceList) -> str:
    """What a person reads, in one line."""
    return " ".join(shop.rescind("status").stdout.split())


def test_an_undo_whose_command_was_killed_is_said_to_be_so_and_how_it_goes_on(shop: ClosedList) -> None:
    begun = shop.start(*UNDO, "--here")
    until(lambda: len(shop.put("undo:")) > 5, "the undo is under way")
    shop.close()
    digest = the_undo(shop)["plan_digest"]
    assert shop.rescind("plan", "pause", digest, "--reason", "the bank asks").returncode == 0
    assert (the_undo(shop)["state"], the_undo(shop)["holder"]) == ("paused", "process")
    assert "has died" not in shown(shop)

    begun.kill()
    begun.wait()
    shop.reopen()
    until(lambda: the_undo(shop)["holder"] == "nobody", "its death is seen")
    assert the_undo(shop)["heard_at"] >= the_undo(shop)["begun_at"]
    assert "is paused by" in shown(shop)
    assert "the process that applied it has died, last heard" in shown(shop)
    assert shop.rescind("plan", "resume", digest).returncode == 0
    text = shown(shop)
    assert f"undo of trace {TRACE} is not finished; the process that applied it has died, last heard" in text

    lines = shop.rescind("status").stdout.splitlines()
    (command,) = [line.strip() for line in lines if line.startswith("    rescind undo ")]
    assert command.endswith(" --app … --apply")
    words = shlex.split(command.replace("--app …", "--app list_tools"))[1:]
    assert shop.rescind(*words, "--here").returncode == 0
    assert undos(shop) == []
    assert set(shop.prices()) == {100}


@pytest.mark.slow
def test_an_undo_whose_workers_were_killed_waits_for_one_and_says_so(shop: ClosedList) -> None:
    worker = shop.start_worker()
    shop.answer(*UNDO, "--workers", "--no-wait")
    until(lambda: len(shop.put("undo:")) > 5, "the undo is under way")
    shop.close()
    assert shop.rescind("plan", "pause", the_undo(shop)["plan_digest"], "--reason", "wait").returncode == 0
    assert (the_undo(shop)["state"], the_undo(shop)["holder"]) == ("paused", "workers")
    worker.kill()
    worker.wait()
    shop.reopen()
    until(lambda: the_undo(shop)["holder"] == "no_worker", "its death is seen")
    assert "no worker lives to go on with it, last heard" in shown(shop)

    another = shop.start_worker()
    assert the_undo(shop)["holder"] == "workers"
    assert shop.rescind("plan", "resume", the_undo(shop)["plan_digest"]).returncode == 0
    until(lambda: undos(shop) == [], "it has ended")
    assert set(shop.prices()) == {100}
    another.terminate()
    assert another.wait(40.0) == 0
