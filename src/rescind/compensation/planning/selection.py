"""Which steps an undo is about."""

from array import array
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from rescind.compensation.planning.back_to import BackTo, find_checkpoint
from rescind.compensation.planning.parts import divide
from rescind.errors import EntryUnreadable, UsageError
from rescind.journal.pages import every_entry
from rescind.journal.port import Journal, Query
from rescind.model.entry import Entry
from rescind.model.history import StepRecord, fold_steps
from rescind.model.step import RunInfo, parse_agent
from rescind.recovery.reading import every_run, the_one_meant, unknown_name


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """A choice of steps. All conditions that are given must hold; at least one must be given besides `exclude`.

    Attributes:
        run_ids: The runs, or the only ones whose ids begin so.
        trace_id: The trace, or the only one whose id begins so.
        agent: `name`, or `name@version`.
        tenant: The tenant.
        since: From this moment on, by the time of intent; aware.
        until: Up to and without this moment; aware.
        actions: Only steps of these actions.
        targets: Only steps at these targets: `SYSTEM/KIND/ID`, or the beginning of one, `SYSTEM/KIND` or `SYSTEM`.
        exclude: Not these: steps (`RUN/STEP`), actions, or targets as above.
        to_checkpoint: Only what was done since this checkpoint, of a run or of a workflow engine; see `back_to`.
        cascade: With them the later steps of whatever run that depend on them; see `impact`.

    Raises: UsageError, for no condition, a time without a zone, or an empty range of time.
    """

    run_ids: tuple[str, ...] = ()
    trace_id: str | None = None
    agent: str | None = None
    tenant: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    actions: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    to_checkpoint: str | None = None
    cascade: bool = False

    def __post_init__(self) -> None:
        if not self.as_dict().keys() - {"exclude", "cascade"}:
            raise UsageError(
                "choose what to undo: a run, a trace, an agent, a tenant, a range of time, an action, a target, or "
                "what was done since a checkpoint"
            )
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and moment.tzinfo is None:
                raise UsageError(
                    f"{name} {moment.isoformat()} has no time zone; add one, such as {moment.isoformat()}Z"
                )
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise UsageError(f"no time lies between since {self.since.isoformat()} and until {self.until.isoformat()}")
        several = {"run": self.run_ids, "action": self.actions, "target": self.targets, "excluded name": self.exclude}
        named = [(name, each) for name, values in several.items() for each in values]
        once = (("trace", self.trace_id), ("agent", self.agent), ("checkpoint", self.to_checkpoint))
        for name, value in (*once, *named):
            if value is not None and not value.strip():
                raise UsageError(f"the {name} to undo is empty; give its name, or leave it out")

    def as_dict(self) -> dict[str, Any]:
        """The conditions that are given, as JSON values."""
        fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return {name: value for name, value in fields.items() if value not in (None, [], False)}

    def covers(self, moment: datetime) -> bool:
        """Whether a step intended at this moment lies in the range of time."""
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)


def select_steps(journal: Journal, selection: Selection) -> list[StepRecord]:
    """The chosen steps in order of intent, each with everything the journal knows of it up to now.

    Only the intent must lie in the range of time: an outcome or a compensation recorded later counts all the same.
    Failed steps are among them; a plan has nothing to do for them.

    Raises: UsageError, for a run, trace, agent or tenant that the journal does not know, and for an action, target or
        step that the chosen runs do not have, with the nearest one there is.
    """
    return select_and_rest(journal, selection).chosen


class Selected(msgspec.Struct, frozen=True):
    """The chosen steps, and those of the same runs that are left out, both in order of intent.

    `sequences` are those of all entries of these runs, in no order.
    """

    chosen: list[StepRecord]
    outside: list[StepRecord]
    sequences: "array[int]"


def select_and_rest(journal: Journal, selection: Selection) -> Selected:
    """The chosen steps, and what else their runs have. Raises: as `select_steps`."""
    sequences = array("q")
    steps: list[StepRecord] = []
    runs = select_runs(journal, selection)
    back_to: BackTo | None = None
    if selection.to_checkpoint is not None:
        named = [run.run_id for run in runs] if selection.run_ids else []
        back_to = find_checkpoint(journal, selection.to_checkpoint, run_ids=named)
    for run in runs:
        if back_to is not None and run.run_id not in back_to.run_ids:
            continue
        try:
            steps += fold_steps(_noting(every_entry(journal, Query(run_id=run.run_id)), sequences))
        except EntryUnreadable as gap:
            raise UsageError(
                f"what run {run.run_id} did cannot be told, so it is not undone, and nothing was changed; other runs "
                f"can be, if they are named with --run: {gap}"
            ) from gap
    steps.sort(key=lambda record: record.intended_sequence)
    # With a cascade, the name of what is left out may be one of a run that is not known yet.
    chosen, outside = divide(steps, selection, strict=not selection.cascade)
    if back_to is not None:
        outside = sorted(
            [*outside, *(each for each in chosen if not back_to.covers(each))], key=lambda each: each.intended_sequence
        )
        chosen = [each for each in chosen if back_to.covers(each)]
    return Selected(chosen, outside, sequences)


def _noting(entries: Iterable[Entry], sequences: "array[int]") -> Iterator[Entry]:
    for entry in entries:
        sequences.append(entry.sequence)
        yield entry


def select_runs(journal: Journal, selection: Selection) -> list[RunInfo]:
    """The runs that chosen steps may be in, by run id. Raises: as `select_steps`."""
    base = _query(journal, selection)
    if not selection.run_ids:
        return list(every_run(journal, base))
    run_ids = sorted({_run_meant(journal, text) for text in selection.run_ids})
    return [run for run_id in run_ids for run in journal.runs(msgspec.structs.replace(base, run_id=run_id), limit=1)]


def read_steps(journal: Journal, run_ids: Iterable[str]) -> list[StepRecord]:
    """All steps of these runs, in order of intent."""
    records = [record for run_id in dict.fromkeys(run_ids) for record in read_run(journal, run_id)[0]]
    return sorted(records, key=lambda record: record.intended_sequence)


def read_run(journal: Journal, run_id: str) -> tuple[list[StepRecord], int]:
    """The steps of one run in order of intent, and the sequence up to which they were read."""
    entries = list(every_entry(journal, Query(run_id=run_id)))
    return fold_steps(entries), entries[-1].sequence if entries else 0


def _query(journal: Journal, selection: Selection) -> Query:
    """The conditions on runs, and on the time of any of their entries, with names checked against the journal."""
    name, version = _parse_agent(selection.agent) if selection.agent is not None else (None, "")
    query = Query(
        trace_id=selection.trace_id and _trace_meant(journal, selection.trace_id),
        tenant=selection.tenant,
        agent_name=name,
        agent_version=version or None,
        since=selection.since,
        until=selection.until,
    )
    # Here the beginning of a name is not enough: `billing` must not come to mean `billing-agent`.
    if name is not None and not journal.runs(Query(agent_name=name, agent_version=version or None), limit=1):
        known = (run.agent if version else run.agent_name for run in _runs(journal))
        raise unknown_name(selection.agent or name, known, what="agent")
    if selection.tenant is not None and not journal.runs(Query(tenant=selection.tenant), limit=1):
        raise unknown_name(selection.tenant, (run.tenant for run in _runs(journal) if run.tenant), what="tenant")
    return query


def _run_meant(journal: Journal, text: str) -> str:
    if journal.run(text) is not None:
        return text
    return the_one_meant(text, (run.run_id for run in _runs(journal)), what="run")


def _trace_meant(journal: Journal, text: str) -> str:
    if journal.runs(Query(trace_id=text), limit=1):
        return text
    return the_one_meant(text, (run.trace_id for run in _runs(journal) if run.trace_id), what="trace")


def _runs(journal: Journal) -> Iterator[RunInfo]:
    return every_run(journal, Query())


def _parse_agent(text: str) -> tuple[str, str]:
    try:
        return parse_agent(text)
    except ValueError as error:
        raise UsageError(str(error)) from error
