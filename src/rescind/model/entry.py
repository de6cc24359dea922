"""What the journal holds: events, and the entry that carries each.

An event is what happened; an entry is an event with its place in the journal and in its run's hash chain. Everything
else that we know of a run (see `history`) is folded from its events.
"""

from datetime import datetime

import msgspec

from rescind.model.events.deciding import (
    ApprovalAsked,
    ApprovalDecided,
    ApprovalUsed,
    ReviewNoted,
    ReviewOpened,
    ReviewResolved,
)
from rescind.model.events.noticing import (
    IncidentClosed,
    IncidentNoted,
    IncidentOpened,
    RunSnapshot,
    Signalled,
    StageApproved,
    StageEnded,
)
from rescind.model.events.planning import (
    AnswersRecorded,
    PlanControlled,
    PlanFinished,
    PlanLeft,
    PlanNeeds,
    PlanPart,
    PlanRequested,
    PlanShare,
    PlanStarted,
    PlanSubmitted,
    RequestAnswered,
    RequestTaken,
)
from rescind.model.events.running import (
    Checkpointed,
    EffectHeld,
    Ended,
    Intended,
    Read,
    Refused,
    Released,
    Resumed,
    RunClosed,
    RunOpened,
    Verified,
)
from rescind.model.events.undoing import (
    CompensationEnded,
    CompensationIntended,
    CompensationWithdrawn,
    Disposition,
    Overwrites,
    Probed,
    RedoEnded,
    RedoIntended,
)
from rescind.model.step import RunInfo, StepRef

__all__ = [
    "AnswersRecorded",
    "ApprovalAsked",
    "ApprovalDecided",
    "ApprovalUsed",
    "Checkpointed",
    "CompensationEnded",
    "CompensationIntended",
    "CompensationWithdrawn",
    "Disposition",
    "EffectHeld",
    "Ended",
    "Entry",
    "Event",
    "IncidentClosed",
    "IncidentNoted",
    "IncidentOpened",
    "Intended",
    "Overwrites",
    "PlanControlled",
    "PlanFinished",
    "PlanLeft",
    "PlanNeeds",
    "PlanPart",
    "PlanRequested",
    "PlanShare",
    "PlanStarted",
    "PlanSubmitted",
    "Probed",
    "Read",
    "RedoEnded",
    "RedoIntended",
    "Refused",
    "Released",
    "RequestAnswered",
    "RequestTaken",
    "Resumed",
    "ReviewNoted",
    "ReviewOpened",
    "ReviewResolved",
    "RunClosed",
    "RunOpened",
    "RunSnapshot",
    "Signalled",
    "StageApproved",
    "StageEnded",
    "StepRef",
    "Verified",
]

Event = (
    RunOpened
    | RunClosed
    | Intended
    | Released
    | Ended
    | Read
    | Verified
    | Checkpointed
    | Resumed
    | Refused
    | EffectHeld
    | CompensationIntended
    | CompensationEnded
    | RedoIntended
    | RedoEnded
    | CompensationWithdrawn
    | Probed
    | ReviewOpened
    | ReviewNoted
    | ReviewResolved
    | PlanStarted
    | PlanFinished
    | PlanLeft
    | PlanControlled
    | PlanSubmitted
    | PlanShare
    | PlanNeeds
    | PlanRequested
    | RequestTaken
    | PlanPart
    | RequestAnswered
    | AnswersRecorded
    | Signalled
    | ApprovalAsked
    | ApprovalDecided
    | ApprovalUsed
    | RunSnapshot
    | IncidentOpened
    | IncidentNoted
    | StageEnded
    | StageApproved
    | IncidentClosed
)


class Entry(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An event in its place.

    Attributes:
        sequence: Place in the whole journal, from 1, without gaps.
        position: Place in the run's chain, from 0, without gaps.
        run: The run it belongs to, with agent, tenant, workflow, session, trace and ancestors.
        recorded_at: When the event was handed to the journal; aware, UTC.
        event: What happened.
        hash: This entry's link of the chain, hexadecimal; see `journal.chain`.
    """

    sequence: int
    position: int
    run: RunInfo
    recorded_at: datetime
    event: Event
    hash: str
