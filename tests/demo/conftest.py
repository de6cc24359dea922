"""One telling of each story for all tests that look at what it leaves behind."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from rescind.demo.damage import Damage
from rescind.demo.opening import REPORTS, WRONGED, Opening, make_opening
from rescind.demo.truth import Truth, find_truth

RESCIND = "import sys; from rescind.cli import main; sys.exit(main())"


@dataclass(frozen=True)
class Kept:
    """A demo that was run with `--keep` and `--json`: how it ended, what it said, and where it left everything."""

    folder: Path
    status: int
    stdout: str
    stderr: str


def told(folder: Path, *options: str) -> Kept:
    done = subprocess.run(
        [sys.executable, "-c", RESCIND, "demo", *options, "--json", "--keep", folder],
        capture_output=True,
        text=True,
        timeout=180,
    )
    return Kept(folder, done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The story in which an operator stops the agent."""
    return told(tmp_path_factory.mktemp("demo") / "a folder, kept", "--manual-stop")


@pytest.fixture(scope="session")
def triggered(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The story in which the policy stops it."""
    return told(tmp_path_factory.mktemp("triggered") / "a folder, kept")


@pytest.fixture(scope="session")
def opening(tmp_path_factory: pytest.TempPathFactory) -> Opening:
    folder = tmp_path_factory.mktemp("opening")
    return make_opening(folder / "billing.db", morning=folder / "morning.db")


@pytest.fixture(scope="session")
def damage(opening: Opening) -> Damage:
    """What the agent does to everybody who has written, if nobody stops it."""
    everybody = frozenset(opening.wronged)
    return Damage(changed=WRONGED, charges=WRONGED, cents=2_268_000, mails=WRONGED, customers=everybody)


@pytest.fixture(scope="session")
def truth(kept: Kept, opening: Opening) -> Truth:
    return find_truth(kept.folder / "morning.db", opening, reports=REPORTS)
