"""The demo's switch: a process of its own, as anybody runs one, with an address that the agents find in the folder."""

import json
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rescind.demo.desk import SWITCH_DATA, SWITCH_URL
from rescind.demo.folder import forget_switch, name_switch
from rescind.errors import RescindError

LEAVE_WITHIN_S = 10.0

_RUN = "import sys; from rescind.cli import main; sys.exit(main(sys.argv[1:]))"


class NoSwitch(RescindError):
    """The switch did not start."""


@contextmanager
def switch_of(folder: Path, log_path: Path) -> Generator[str]:
    """A switch for the length of a block: its URL.

    Raises: NoSwitch, with what it said.
    """
    with log_path.open("a", encoding="utf-8") as log:
        process = _start(folder, log)
        try:
            url = _address_of(process, log_path)
            (folder / SWITCH_URL).write_text(url, encoding="utf-8")
            name_switch(folder, url)
            yield url
        finally:
            # Whoever explores the folder later is not to be sent to a switch that is gone.
            if (folder / SWITCH_URL).exists():
                (folder / SWITCH_URL).unlink()
                forget_switch(folder)
            process.terminate()
            see_off(process)


def _start(folder: Path, log: IO[str]) -> "subprocess.Popen[str]":
    words = ["switch", "--data", str(folder / SWITCH_DATA), "--port", "0", "--json"]
    return subprocess.Popen(  # noqa: S603  # our own command, in our own interpreter
        [sys.executable, "-P", "-c", _RUN, *words],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,  # Ctrl-C is for the demo, which then ends its switch
    )


def _address_of(process: "subprocess.Popen[str]", log_path: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        return str(json.loads(line)["url"])
    except (ValueError, KeyError) as error:
        said = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise NoSwitch(f"the demo's switch did not start: {said[-1] if said else 'it said nothing'}") from error


def see_off(process: "subprocess.Popen[str]") -> None:
    """See that a process leaves that was asked to, and let go of what it says."""
    try:
        process.wait(LEAVE_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    assert process.stdout is not None
    process.stdout.close()
