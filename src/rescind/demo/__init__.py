"""`rescind demo`: a real agent goes wrong on a real database, is stopped with a receipt, and is undone exactly.

The undo is left to two workers, one of which the demo kills in the middle; without the extra `workers` it undoes in its
own process, and says which extra is missing.

No model and no network: the agents are small programs, each in a process of its own, and what they do is determined by
a seed. What is stopped, undone and checked is real.
"""

from importlib.util import find_spec
from pathlib import Path

from rescind.errors import UsageError


def run(*, keep: Path | None, manual_stop: bool, as_json: bool) -> int:
    """Tell the story, and check that it ended well.

    Args:
        keep: A folder to leave everything in, for exploring: a new or empty one, or that of a former demo, whose
            remains are replaced. None for a temporary folder that is removed.
        manual_stop: Whether the policy is in shadow, so that the agent goes through all its mail, until an operator
            notices and stops it. Otherwise a rule of the policy stops it. Nobody at the keyboard is waited for.
        as_json: Whether stdout gets one JSON object, described in `verdict`, and nothing else; the story goes to
            stderr.

    Returns: The exit status: 0 if everything holds, 1 if something does not.
    Raises: UsageError, before anything is changed, if `keep` cannot be used or SQLAlchemy is missing; RescindError, if
        the story could not be told to its end. No process and no temporary folder is left in any case.
    """
    if find_spec("sqlalchemy") is None:
        raise UsageError("the demo's billing desk needs SQLAlchemy: pip install 'rescind[sql]'")
    from rescind.demo.stage import perform  # what it draws with is not imported for the other modules here

    return perform(keep=keep, manual_stop=manual_stop, as_json=as_json)
