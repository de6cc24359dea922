"""Which runs of a journal nobody should learn from.

A baseline is as good as the runs it was learned from. What was contained, undone or found wrong is no example; that a
run in which nobody noticed anything was healthy remains the claim of whoever learns from it.
"""

from collections.abc import Iterable

from rescind.model.entry import CompensationIntended, Entry, RunClosed, RunSnapshot, Signalled
from rescind.model.signal import Severity


def doubtful_runs(entries: Iterable[Entry]) -> set[str]:
    """The ids of runs that were halted, contained or undone, or of which a policy in force had something to say.

    A signal in shadow does not count: a rule that starts in shadow would otherwise take away its own false alarms, and
    find them strange for ever.
    """
    return {entry.run.run_id for entry in entries if _is_doubt(entry)}


def _is_doubt(entry: Entry) -> bool:
    match entry.event:
        case CompensationIntended() | RunSnapshot():
            return True
        case RunClosed(how=how):
            return how == "halted"
        case Signalled(signal=signal, shadow=shadow):
            return not shadow and signal.severity >= Severity.HIGH
        case _:
            return False
