"""What it costs to have rescind at all: the import, the installed core, and `rescind stop` from a cold start."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from bench.form import Row, interleaved, row, seconds_of
from rescind.guard.guard import Guard

ROUNDS = 15
ROOT = Path(__file__).parent.parent


def measure() -> list[Row]:
    return [_import(), _stop(), _size()]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment())


@functools.cache
def environment() -> dict[str, str]:
    """As an installed package finds it: compiled files are there, written by the round that warms up."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return environment | {"PYTHONPYCACHEPREFIX": tempfile.mkdtemp(prefix="rescind-bench-")}


def _nothing() -> float:
    return seconds_of(lambda: _run(sys.executable, "-c", "pass")) * 1000


def _import() -> Row:
    ours, nothing = interleaved(
        lambda: seconds_of(lambda: _run(sys.executable, "-c", "import rescind; rescind.Guard")) * 1000,
        _nothing,
        rounds=ROUNDS,
    )
    net = ours - nothing
    note = f"with its Guard; python -c pass ({nothing:.0f} ms) taken off"
    return row("import rescind", ours=net, reference=100, unit="ms", target=1, n=ROUNDS, note=note)


def _stop() -> Row:
    rescind = str(Path(sys.executable).with_name("rescind"))
    with tempfile.TemporaryDirectory() as folder:
        guard = Guard.at(folder)
        with guard.run("bench@1"):
            pass
        guard.close()
        ours, nothing = interleaved(
            lambda: (
                seconds_of(lambda: _run(rescind, "stop", "run:nobody", "--store", folder, "--reason", "bench")) * 1000
            ),
            _nothing,
            rounds=ROUNDS,
        )
    note = "cold process, until the order is durable, against python -c pass"
    return row("rescind stop", ours=ours, reference=nothing, unit="ms", target=8, n=ROUNDS, note=note)


def _size() -> Row:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "venv"
        venv.create(place, with_pip=True)
        packages = next(place.glob("lib/python*/site-packages"))
        before = _bytes(packages)
        _run(str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT))
        megabytes = (_bytes(packages) - before) / 1e6
        shutil.rmtree(ROOT / "build", ignore_errors=True)
    note = "core without extras, compiled files included, in a fresh environment"
    return row("installed core", ours=megabytes, reference=40, unit="MB", target=1, n=1, note=note)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
