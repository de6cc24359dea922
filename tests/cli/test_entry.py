"""How a command leaves: never with a traceback, unless it was asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import rescind.cli.status
from cli.conftest import Rescind
from rescind.errors import OrdersUnavailable

pytestmark = pytest.mark.usefixtures("shop")


def failing_with(error: BaseException) -> object:
    def fail(*_: object) -> object:
        raise error

    return fail


def test_a_fault_of_the_machinery_is_one_line_and_status_1(rescind: Rescind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescind_status(), "living_guards", failing_with(OrdersUnavailable("the disk\nis \x1b[31mgone")))

    answer = rescind("status")

    assert answer.status == 1
    assert answer.err == "rescind: the disk\nis \\x1b[31mgone\n"


def test_a_surprise_is_said_with_a_way_to_see_more(rescind: Rescind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescind_status(), "living_guards", failing_with(KeyError("x")))

    answer = rescind("status", "--json")

    assert answer.status == 1
    assert answer.json["error"]["kind"] == "Unexpected"
    assert "--debug" in answer.err
    assert "Traceback" not in answer.err
    with pytest.raises(KeyError):
        rescind("status", "--debug")


def test_an_interrupt_leaves_with_130(rescind: Rescind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescind_status(), "living_guards", failing_with(KeyboardInterrupt()))

    assert rescind("status").status == 130


def rescind_status() -> ModuleType:
    return rescind.cli.status


def test_a_reader_that_has_seen_enough_is_no_traceback(shop: ModuleType) -> None:
    with shop.guard.run("busy-agent@1", run_id="run-2"):
        for number in range(400):
            shop.sell(f"thing-{number}")
    shop.guard.close()
    command = [sys.executable, "-c", "import sys; from rescind.cli import main; sys.exit(main())"]
    log = subprocess.Popen(
        [*command, "audit", "export"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    )
    assert log.stdout is not None
    log.stdout.readline()
    log.stdout.close()
    assert log.stderr is not None
    said = log.stderr.read()
    log.stderr.close()
    log.wait(20.0)

    assert said == b""


def test_a_plain_stop_imports_nothing_that_draws(shop: ModuleType) -> None:
    heavy = ("click", "rich", "yaml", "asyncio", "argparse", "rescind.journal", "rescind.compensation", "rescind.guard")
    code = (
        "import sys; from rescind.cli import main; main(['stop', 'agent:nobody']); "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )

    assert done.stderr.splitlines()[-1] == "[]"


NOISY = """
import os, subprocess, sys
import rescind

print("a module that prints when it is imported")
os.write(1, b"and past sys.stdout\\n")
guard = rescind.Guard.at("store")

@guard.write("thing.sell")
def sell(name: str) -> None: ...

@sell.compensate
def _(step):
    print("a handler that prints")
    subprocess.run([sys.executable, "-c", "print('a subprocess that prints')"], check=True)

@guard.write("price.set", irreversible="x")
def set_price(name: str, price: int) -> None: ...

@guard.write("letter.send", irreversible="x")
def send(name: str) -> None: ...

import atexit
atexit.register(print, "a farewell")
"""

RESCIND = [sys.executable, "-c", "import sys; from rescind.cli import main; sys.exit(main())"]


def test_whatever_an_app_prints_json_is_one_object(folder: Path) -> None:
    (folder / "noisy.py").write_text(NOISY)

    done = subprocess.run(
        [*RESCIND, "undo", "--run", "run-1", "--app", "noisy", "--apply", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )

    assert json.loads(done.stdout)["counts"]["compensated"] == 1, done
    for words in ("when it is imported", "past sys.stdout", "a handler", "a subprocess", "a farewell"):
        assert words in done.stderr


def test_what_an_app_prints_does_not_reach_the_answer_of_a_caller_either(rescind: Rescind, folder: Path) -> None:
    (folder / "noisy.py").write_text(NOISY.replace("atexit.register", "(lambda *_: None)"))

    answer = rescind("undo", "--run", "run-1", "--app", "noisy", "--json")

    assert answer.json["settled"] is False
    assert "when it is imported" in answer.err
    assert rescind("status").out


def test_an_interrupt_is_an_object_where_json_was_asked_for(rescind: Rescind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rescind_status(), "living_guards", failing_with(KeyboardInterrupt()))

    answer = rescind("status", "--json")

    assert answer.status == 130
    assert answer.json["error"]["kind"] == "Interrupted"


def test_an_interrupt_while_an_app_is_imported_is_an_object_too(rescind: Rescind, folder: Path) -> None:
    (folder / "slow.py").write_text("raise KeyboardInterrupt\n")

    answer = rescind("undo", "--run", "run-1", "--app", "slow", "--json")

    assert answer.status == 130
    assert answer.json["error"]["kind"] == "Interrupted"
