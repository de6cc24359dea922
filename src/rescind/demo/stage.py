"""Everything around the story: the folder, the processes, and what is printed at the end."""

from contextlib import nullcontext
from pathlib import Path

import msgspec

from rescind.demo.crew import crew_of
from rescind.demo.desk import open_desk
from rescind.demo.ending import tell_end
from rescind.demo.folder import LOG, RESULT, SWITCH_LOG, WORKERS_LOG, demo_folder
from rescind.demo.lookout import Lookout
from rescind.demo.oncall import OnCall
from rescind.demo.screen import Screen
from rescind.demo.service import switch_of
from rescind.demo.stops import ByOperator, ByTrigger
from rescind.demo.story import Story, Told
from rescind.demo.workers import are_possible, workers_of


def perform(*, keep: Path | None, manual_stop: bool, as_json: bool) -> int:
    """See `rescind.demo.run`."""
    screen = Screen.of_process(as_json=as_json)
    with demo_folder(keep, shadow=manual_stop) as folder:
        screen.title("rescind demo", "stop it, undo it, prove it")
        told = _tell(folder, screen, manual_stop=manual_stop)
        result = msgspec.json.encode(told.verdict)
        (folder / RESULT).write_bytes(result + b"\n")
    tell_end(screen, told, kept=None if keep is None else folder)
    if as_json:
        print(result.decode())  # noqa: T201  # the one object that stdout is for
    return 0 if told.verdict.holds else 1


def _tell(folder: Path, screen: Screen, *, manual_stop: bool) -> Told:
    desk = open_desk(folder)
    lookout = Lookout(folder, desk)
    try:
        with (
            # First: what takes them a second or two is then over before anything is measured.
            workers_of(folder, folder / WORKERS_LOG) if are_possible() else nullcontext() as workers,
            switch_of(folder, folder / SWITCH_LOG) as url,
            crew_of(folder, folder / LOG) as crew,
        ):
            on_call = OnCall(folder, desk, url)
            stop = ByOperator(screen, on_call, lookout) if manual_stop else ByTrigger(screen, lookout)
            return Story(folder, screen, crew, on_call, stop, workers).tell()
    finally:
        desk.guard.close()
        desk.database.dispose()
