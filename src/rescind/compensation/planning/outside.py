"""What steps outside the scope of a plan hold back: what they were declared to depend on stays with them (U5)."""

from rescind.compensation.decision import blocks
from rescind.compensation.planning.decide import past_deadline, settled
from rescind.compensation.planning.known import Known
from rescind.model.action import EffectClass
from rescind.model.entry import StepRef
from rescind.model.history import StepRecord


class Outside:
    """What steps outside the scope were declared to depend on, as long as their effects may stay."""

    def __init__(self, known: Known) -> None:
        self._named: dict[StepRef, StepRecord] = {}
        self._newest: dict[tuple[str, str], StepRecord] = {}
        for record in known.outside:
            if not _may_stay(record, known):
                continue
            run_id = record.run.run_id
            for name in record.step.depends_on:
                other_run, _, step_id = name.rpartition("/")
                self._named[StepRef(run_id, name)] = self._named[StepRef(other_run, step_id)] = record
            action = known.actions.get(record.step.action)
            for earlier in action.after if action else ():
                self._newest[run_id, earlier] = record

    def dependent_of(self, record: StepRecord) -> StepRecord | None:
        """A step outside that depends on this one; None if there is none."""
        if not self._named and not self._newest:
            return None
        newest = self._newest.get((record.run.run_id, record.step.action))
        if newest is not None and newest.intended_sequence < record.intended_sequence:
            newest = None
        return self._named.get(record.ref, newest)


def _may_stay(record: StepRecord, known: Known) -> bool:
    """Whether the effect of this step outside the scope stays for now; what stays for good holds nothing back."""
    if record.step.effect_class is EffectClass.IRREVERSIBLE or past_deadline(record, known) is not None:
        return False
    already = settled(record, known)
    return already is None or blocks(already)
