"""Why a target is not as a step left it, in words: who may have changed it since, as far as the journal knows."""

from collections.abc import Sequence

from rescind.compensation.planning.forecast import Site
from rescind.compensation.planning.known import Known
from rescind.compensation.planning.nesting import end_of
from rescind.model.history import StepRecord

_NAMED_MAX = 3  # Steps named in a sentence; more are counted.
_LOOKED_BACK_MAX = 100  # Steps at one target looked through for a sentence, since each of thousands may need one.


def explain_conflict(record: StepRecord, site: Site, known: Known) -> str:
    """Who may have changed the target after this step, as far as the journal knows."""
    foreign = known.foreign_steps.get(record.step.target, ()) if record.step.target else ()
    later = [f"{each.ref} of {each.agent}" for each in foreign if each.intended_sequence > record.intended_sequence]
    if later:
        return f"the target was changed after this step by {_named(later)}"
    if site.staying:
        return f"the target was changed after this step by {_named([str(ref) for ref in site.staying])}, which stays"
    if site.later:
        return _explain_by_plan(record, site.later)
    return "the target was changed after this step, outside the journal"


def _explain_by_plan(record: StepRecord, later: Sequence[StepRecord]) -> str:
    """Who of those that are undone before this step may have changed its target, or what came between."""
    overlapping = [str(each.ref) for each in later[-_LOOKED_BACK_MAX:] if each.intended_sequence < end_of(record)]
    if overlapping:
        return f"the target was changed while this step was under way by {_named(overlapping[::-1])}"
    nearest = later[-1].ref
    return f"undoing {nearest} does not give what this step left: the target was changed between the two"


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
