"""What a worker does between undos: small tasks, again and again, each of which may fail without harm to the others.

CH1. *Again.* Whatever a chore raises is logged, and it is done again at its next time.
CH2. *Safe in many.* Any number of workers may do the same chores at once: each is under laws of its own (HE2 of held
     effects, IC2 of incidents, X1 of exports).
CH3. *In nobody's way.* None waits for another one: the undo of an incident may take hours, and be paused, and a
     receiver may be slow, while what is held for a certain moment has to go then.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from rescind.containment.incident import list_incidents
from rescind.errors import EntryUnreadable, RescindError
from rescind.recovery.course import drive, read_course
from rescind.recovery.held import HeldWatch
from rescind.recovery.release import release_due
from rescind.recovery.review_export import export_tasks

if TYPE_CHECKING:
    from rescind.clock import Clock
    from rescind.containment.timeline import Incident
    from rescind.guard.guard import Guard
    from rescind.journal.port import Journal
    from rescind.model.entry import StepRef
    from rescind.recovery.stage_work import Means
    from rescind.switch.alerts.channel import Channel

RELEASE_EVERY_S, RECOVER_EVERY_S, EXPORT_EVERY_S, ANSWER_EVERY_S = 1.0, 5.0, 15.0, 0.5

RECOVER_EVERY_MAX_S = 300.0
"""An incident that stands still is driven ever less often, down to this: each time looks at all of its targets."""

_log = logging.getLogger("rescind.worker")


class Chore(msgspec.Struct, frozen=True):
    """One of them: what it is called, how often it is done, and what is to be told of one time."""

    name: str
    every_s: float
    do: Callable[[], str]


class Chores:
    """Does chores, each in a thread of its own (CH3), from `start` to `close`.

    Args:
        chores: What is to be done.
        clock: The time between two times of one.
        closing: Set by `close`; for chores that want to know of it while they are under way.
    """

    def __init__(self, chores: Sequence[Chore], clock: "Clock", closing: threading.Event | None = None) -> None:
        self._clock, self._closing = clock, closing or threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(chore,), name=f"rescind-{chore.name}", daemon=True)
            for chore in chores
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Begin no further one, and wait for those under way."""
        self._closing.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _run(self, chore: Chore) -> None:
        wait_s = 0.0
        while not self._closing.wait(wait_s):
            if told := do_chore(chore):
                _log.info("%s: %s", chore.name, told)
            wait_s = chore.every_s


def do_chore(chore: Chore) -> str:
    """Do it once. Returns what is to be told; nothing, if it failed, which is logged (CH1)."""
    try:
        return chore.do()
    except RescindError as error:
        _log.warning("%s: %s", chore.name, error)
    except Exception:  # noqa: BLE001  # tools, invariants and receivers raise what they like
        _log.exception("%s failed, and is tried again", chore.name)
    return ""


def releasing(guard: "Guard") -> Chore:
    """Release and drop what is held, for the actions of this guard."""
    watch, known, failures = HeldWatch(guard.journal), set[str](), list["tuple[StepRef, str]"]()

    def do() -> str:
        done = release_due(guard, watch)
        for run_id, why in done.unread:
            if run_id not in known:  # once, and not every second
                _log.warning("what run %s holds is neither released nor dropped: %s", run_id, why)
                known.add(run_id)
        for failure in done.failed:
            if failure not in failures:  # likewise
                _log.warning("%s: %s", *failure)
        failures[:] = done.failed
        told = [f"{ref} released, {how}" for ref, how in done.released]
        told += [f"{ref} dropped, {why}" for ref, why in done.dropped]
        return "; ".join(told)

    return Chore("held effects", RELEASE_EVERY_S, do)


def recovering(means: "Means") -> Chore:
    """Drive incidents of the kinds that the policy lets start by themselves as far as they go, each by itself (CH1)."""
    kinds = {kind.value for kind in means.compensate_on}
    hidden: set[str] = set()
    pauses: dict[str, tuple[float, float]] = {}  # of incidents that did not move on: until when, and for how long

    def do() -> str:
        now_s, told = means.clock.monotonic_s(), list[str]()
        gaps: list[EntryUnreadable] = []
        for incident in list_incidents(means.journal, gaps=gaps):
            signals = incident.of("signal")
            noticed = {str(line.facts.get("kind", "")) for line in signals}
            if not incident.is_open or not kinds & noticed or not any(line.facts.get("run_id") for line in signals):
                pauses.pop(incident.incident_id, None)
            elif any(gap.run_id == incident.incident_id for gap in gaps):
                if incident.incident_id not in hidden:  # once, and not at each look
                    _log.warning("incident %s is not driven: an entry of it cannot be read", incident.incident_id)
                    hidden.add(incident.incident_id)
            elif pauses.get(incident.incident_id, (now_s, 0.0))[0] <= now_s:
                moved = do_chore(Chore(f"incident {incident.incident_id}", 0.0, partial(_drive_on, incident, means)))
                told += [moved] if moved else []
                pause_s = RECOVER_EVERY_S if moved else pauses.get(incident.incident_id, (0.0, 0.0))[1] * 2
                pause_s = min(max(pause_s, RECOVER_EVERY_S), RECOVER_EVERY_MAX_S)
                pauses[incident.incident_id] = now_s + pause_s, pause_s
        return "; ".join(told)

    return Chore("incidents", RECOVER_EVERY_S, do)


def _drive_on(incident: "Incident", means: "Means") -> str:
    before = read_course(means.journal, incident.incident_id).length
    standing = drive(incident.incident_id, means)
    if standing.course.length == before:
        return ""
    stage = "every stage is done" if standing.stage is None else f"{standing.stage.value}: "
    return f"{incident.incident_id} {stage}{standing.detail}"


def exporting(journal: "Journal", channel: "Channel", clock: "Clock") -> Chore:
    """Tell a webhook of review tasks that it does not know yet."""

    def do() -> str:
        exported = export_tasks(journal, channel, clock=clock)
        if exported.problem:
            _log.warning("%s: %s not told: %s", channel.name, exported.left, exported.problem)
        return f"{len(exported.told)} changes told to {channel.name}" if exported.told else ""

    return Chore("review tasks", EXPORT_EVERY_S, do)
