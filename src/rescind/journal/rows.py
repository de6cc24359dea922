"""What a row of `runs`, `entries` or `slots` says, as values; the column lists stand beside what reads them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from rescind.clock import from_us
from rescind.journal.admission import slot_of
from rescind.journal.codec import decode_event
from rescind.journal.port import Slot, SlotClaim
from rescind.model.entry import Entry
from rescind.model.step import RunInfo

SPAN_SHIFT = 10
"""A span is 1,024 consecutive sequences; see the schema."""

RUN_COLUMNS = (
    "r.run_key, r.run_id, r.agent_name, r.agent_version, r.tenant, r.workflow, r.session, r.trace_id, r.ancestors"
)
HELD_COLUMNS = "s.tenant, s.key, s.digest, s.run_key, r.run_id, s.step_id, s.intent_sequence, s.outcome_sequence"


def run_of(row: Sequence[Any]) -> tuple[int, RunInfo]:
    """Key and run of a row that begins with `RUN_COLUMNS`."""
    run_key, run_id, agent_name, agent_version, tenant, workflow, session, trace_id, ancestors = row[:9]
    run = RunInfo(
        run_id=run_id,
        agent_name=agent_name,
        agent_version=agent_version,
        tenant=tenant,
        workflow=workflow,
        session=session,
        trace_id=trace_id,
        ancestors=msgspec.json.decode(ancestors, type=tuple[str, ...]),
    )
    return run_key, run


def entry_of(run: RunInfo, sequence: int, position: int, at_us: int, digest: bytes, body: bytes) -> Entry:
    """The entry of this run that a row of a database holds. Raises: EntryUnreadable."""
    return Entry(
        sequence=sequence,
        position=position,
        run=run,
        recorded_at=from_us(at_us),
        event=decode_event(sequence, body, run.run_id),
        hash=digest.hex(),
    )


def row_of(run_key: int, run: RunInfo) -> tuple[int, str, str, str, str, str, str, str, str]:
    """The row of `runs`, in the order of `RUN_COLUMNS`."""
    ancestors = msgspec.json.encode(run.ancestors).decode()
    facts = (run.agent_name, run.agent_version, run.tenant, run.workflow, run.session, run.trace_id)
    return (run_key, run.run_id, *facts, ancestors)


class Held(msgspec.Struct, frozen=True):
    """A row of `slots`: the sequences name the entries that say what was intended and how it ended."""

    tenant: str
    key: str
    digest: str
    run_key: int
    run_id: str
    step_id: str
    intent: int
    outcome: int | None = None

    def slot(self, intent_body: bytes, outcome_body: bytes | None) -> Slot:
        """The slot, given the bodies of the entries it names."""
        end = None if outcome_body is None else decode_event(self.outcome or 0, outcome_body)
        claim = SlotClaim(self.tenant, self.key, self.digest)
        return slot_of(claim, self.run_id, decode_event(self.intent, intent_body), end)
