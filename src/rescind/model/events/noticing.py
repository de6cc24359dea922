"""What was noticed and what came of it: signals, the state of a contained run, incidents and their stages."""

from typing import Any

import msgspec

from rescind.model.signal import Signal


class Signalled(msgspec.Struct, frozen=True, gc=False, tag="signalled"):
    """A detector has noticed something. `responses` are what the policy did about it, for people.

    In shadow mode nothing was done, and `responses` say what would have been.
    """

    signal: Signal
    responses: tuple[str, ...] = ()
    shadow: bool = False


class RunSnapshot(msgspec.Struct, frozen=True, gc=False, tag="run_snapshot", kw_only=True):
    """The state of a run at the moment when it was contained, as its own process saw it.

    Attributes:
        order_id: The order that contained it.
        level: The level it was held at from then on.
        calls, steps: How many it had made.
        in_flight: Steps that were running.
        children: Runs that it had open.
        facts: What detectors knew of it, as JSON values.
    """

    order_id: str
    level: str
    calls: int
    steps: int
    in_flight: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    facts: dict[str, Any] = {}


class IncidentOpened(msgspec.Struct, frozen=True, gc=False, tag="incident_opened", kw_only=True):
    """An incident began. In the incident's own run. `cause` is what further signals are grouped by."""

    incident_id: str
    cause: str
    scope: str
    title: str
    severity: str


class IncidentNoted(msgspec.Struct, frozen=True, gc=False, tag="incident_noted", kw_only=True):
    """Something belongs to the incident's timeline.

    `what` is `signal`, `order`, `lift`, `snapshot`, `alert` or `note`; `ref` the id of the thing, the same thing is
    noted once.
    """

    incident_id: str
    what: str
    ref: str
    detail: str
    actor: str = ""
    facts: dict[str, Any] = {}


class IncidentClosed(msgspec.Struct, frozen=True, gc=False, tag="incident_closed", kw_only=True):
    """A person closed the incident."""

    incident_id: str
    actor: str
    note: str = ""


class StageEnded(msgspec.Struct, frozen=True, gc=False, tag="stage_ended", kw_only=True):
    """A stage of an incident's course came to its end. In the incident's own run.

    Attributes:
        stage: `contain`, `snapshot`, `classify`, `compensate`, `reconcile` or `resume`.
        how: `done`, or `failed`: what stands against it is in `detail`, and it is done again.
        detail: For people.
        actor: Who drove it.
        facts: What it found, as JSON values.
    """

    incident_id: str
    stage: str
    how: str
    detail: str
    actor: str = ""
    facts: dict[str, Any] = {}


class StageApproved(msgspec.Struct, frozen=True, gc=False, tag="stage_approved", kw_only=True):
    """A person, or a policy that may, let a stage begin. `subject` is what was approved: a plan's digest."""

    incident_id: str
    stage: str
    subject: str
    actor: str
    note: str = ""
