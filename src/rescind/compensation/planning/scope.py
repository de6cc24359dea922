"""What a plan is about: the chosen steps, what depends on them, and what stays outside (U5, U21)."""

import msgspec

from rescind.compensation.decision import Dependents
from rescind.compensation.planning.aftermath import read_impact
from rescind.compensation.planning.impact import Impact
from rescind.compensation.planning.parts import leave_out
from rescind.compensation.planning.selection import Selected, Selection, read_steps, select_and_rest
from rescind.journal.port import Journal
from rescind.model.entry import StepRef
from rescind.model.history import StepRecord
from rescind.recovery.reading import last_sequence

LOOKED_THROUGH_MAX = 300_000
"""Entries since the first chosen step that a plan without a cascade looks through: some three seconds."""


class Scope(msgspec.Struct, frozen=True):
    """The steps that are planned, those of the same runs that are not, and what depends on the chosen ones."""

    records: list[StepRecord]
    outside: list[StepRecord]
    dependents: Dependents


def scope_of(journal: Journal, selection: Selection) -> Scope:
    """The scope of a selection. Raises: UsageError, as `select_steps`."""
    selected = select_and_rest(journal, selection)
    if selection.cascade:
        return _with_dependents(journal, selection, selected)
    if not selected.chosen or not _may_have_dependents(journal, selected):
        return Scope(selected.chosen, selected.outside, Dependents())
    if _entries_since(journal, selected) > LOOKED_THROUGH_MAX:
        return Scope(selected.chosen, selected.outside, Dependents(looked=False))
    impact = read_impact(journal, selected.chosen)
    return Scope(selected.chosen, selected.outside, _dependents(impact, {each.step for each in impact.standing}))


def _with_dependents(journal: Journal, selection: Selection, selected: Selected) -> Scope:
    impact = read_impact(journal, selected.chosen)
    wanted = {each.step for each in impact.standing}
    known = {record.run.run_id for record in (*selected.chosen, *selected.outside)}
    others = read_steps(journal, sorted({ref.run_id for ref in wanted} - known))
    rest = [*selected.outside, *others]
    taken = leave_out([record for record in rest if record.ref in wanted], selection, selected.chosen + rest)
    refs = {record.ref for record in taken}
    return Scope(
        selected.chosen + taken,
        [record for record in rest if record.ref not in refs],
        msgspec.structs.replace(_dependents(impact, refs), taken=True),
    )


def _dependents(impact: Impact, refs: set[StepRef]) -> Dependents:
    return Dependents(
        steps=len(refs),
        runs=tuple(sorted({ref.run_id for ref in refs})),
        reads_missing=bool(impact.reads_missing),
    )


def _may_have_dependents(journal: Journal, selected: Selected) -> bool:
    """Whether there is an entry, since the first chosen step, of anything but the chosen steps' runs as a whole.

    Sequences have no gaps (law J1), so that is a matter of counting, and costs nothing to speak of.
    """
    if selected.outside:
        return True
    first = selected.chosen[0].intended_sequence
    return _entries_since(journal, selected) > sum(sequence >= first for sequence in selected.sequences)


def _entries_since(journal: Journal, selected: Selected) -> int:
    return last_sequence(journal, at_least=max(selected.sequences)) - selected.chosen[0].intended_sequence + 1
