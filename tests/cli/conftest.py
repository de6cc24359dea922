"""The command line in this process: what it printed, where, and how it left."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rescind.cli import main


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.out)
        return answer


Rescind = Callable[..., Answer]


@pytest.fixture
def rescind(capsys: pytest.CaptureFixture[str]) -> Rescind:
    def run(*argv: str) -> Answer:
        capsys.readouterr()
        status = main(argv)
        printed = capsys.readouterr()
        return Answer(status, printed.out, printed.err)

    return run


SHOP = """
import rescind

guard = rescind.Guard.at("store")
shelf = {"a": 1, "b": 2}
sold = []

@guard.write("price.set", target=lambda name: ("shop", "price", name))
def set_price(name: str, price: int) -> None:
    shelf[name] = price

@set_price.snapshot
def _(name):
    return shelf.get(name)

@set_price.restore
def _(step):
    shelf[step.arguments["name"]] = step.before

@guard.write("thing.sell")
def sell(name: str) -> None:
    sold.append(name)

@sell.compensate
def _(step):
    sold.remove(step.arguments["name"])

@guard.write("letter.send", irreversible="a letter cannot be unsent")
def send(name: str) -> None:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to be in, and no module of it left afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("RESCIND_STORE", "RESCIND_APP", "RESCIND_DEBUG", "RESCIND_URL", "RESCIND_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(str(getattr(sys.modules[name], "__file__", ""))).is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture
def shop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A shop whose agent has set a price, sold something and sent a letter, in a run of its own."""
    (folder / "shop.py").write_text(SHOP)
    # What a command imports: the same tools and the same world, behind a guard of its own, as in another process.
    (folder / "desk.py").write_text(SHOP.replace('shelf = {"a": 1, "b": 2}\nsold = []', "from shop import shelf, sold"))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("RESCIND_STORE", str(folder / "store"))
    module = importlib.import_module("shop")
    with module.guard.run(
        "shop-agent@1.2.0", run_id="run-1", tenant="acme", trace_id="4bf92f3577b34da6a3ce929d0e0e4736"
    ):
        module.set_price("a", 100)
        module.sell("b")
        module.send("c")
    module.guard.close()
    yield module
    module.guard.close()
