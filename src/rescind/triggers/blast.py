"""How far a run's writes reach: records, tenants, systems, and the runs that it starts.

All of it is found before the call, so that with a limit of 25 records exactly 25 are touched, also if calls overlap.
A record of a call that was refused is not counted, except where two calls meet at the limit: then both may be refused.
A call that is beyond one limit and goes on all the same, since that limit is in shadow, counts for the others.
"""

from itertools import count

import msgspec

from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.bounds import about_run, check_whole, shown
from rescind.triggers.detector import together
from rescind.triggers.distinct import WINDOW_S, CountLately, Distinct, DistinctLately, target_key
from rescind.triggers.facts import Call, End

_RANGES = {
    "records_per_run": (1, 1_000_000),  # about 130 bytes each in a run that reaches it
    "records_per_minute": (1, 10_000),  # at the limit, all of them are looked through once a second: 1 ms
    "tenants_per_run": (1, 10_000),
    "systems_per_run": (1, 10_000),
    "children_per_run": (0, 1_000_000),
    "children_per_minute": (0, 10_000),
}


class BlastConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much one run may touch.

    A record is a target. A write that names none touches a record of its own for each set of arguments: who sends 300
    mails has touched 300 of something.

    Attributes:
        records_per_run, records_per_minute: Different records that it writes to, ever and within a minute.
        tenants_per_run: Different tenants whose data it writes to, its own included.
        systems_per_run: Different systems that it writes to.
        children_per_run, children_per_minute: Runs that it starts.
    """

    records_per_run: int = 100
    records_per_minute: int = 60
    tenants_per_run: int = 3
    systems_per_run: int = 10
    children_per_run: int = 20
    children_per_minute: int = 10

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            check_whole(name, getattr(self, name), least, most)


class BlastDetector:
    """Finds runs that reach too far."""

    def __init__(self, config: BlastConfig) -> None:
        """A detector with these limits."""
        self.config = config

    def watch(self, run: RunInfo) -> "BlastWatch":
        """Begin to watch a run."""
        return BlastWatch(self.config, run)


class BlastWatch:
    """One run, and what it has touched."""

    __slots__ = (
        "_children",
        "_children_lately",
        "_config",
        "_found_at_s",
        "_lately",
        "_passed",
        "_records",
        "_run",
        "_systems",
        "_tenants",
    )

    def __init__(self, config: BlastConfig, run: RunInfo) -> None:
        """Nothing has been touched yet."""
        self._config, self._run = config, run
        self._records: Distinct | None = None
        self._lately: DistinctLately | None = None
        self._tenants: Distinct | None = None
        self._systems: Distinct | None = None
        self._children: count[int] | None = None
        self._children_lately: CountLately | None = None
        self._found_at_s: dict[str, float] | None = None
        self._passed = False  # whether a write was ever beyond a limit

    def asked(self, call: Call) -> Finding | None:
        """Whether this call would reach further than allowed."""
        children = self._started(call.at_s) if call.spawns else ()
        return together((*children, *(self._touched(call) if call.writes else ())))

    def ended(self, end: End) -> None:
        """A write that was beyond a limit was made all the same: it has touched its record."""
        if self._passed and end.call.writes and self._records is not None and self._lately is not None:
            record = _record_of(end.call)
            self._lately.admits(record, end.call.at_s)
            self._records.admits(record)

    def spawned(self, at_s: float) -> Finding | None:
        """A child run is about to be opened, in another way than by a call with `spawns`."""
        return together(self._started(at_s))

    def _started(self, at_s: float) -> list[Finding]:
        if self._children is None or self._children_lately is None:
            self._children_lately = CountLately(self._config.children_per_minute)
            self._children = count()
        found: list[Finding] = []
        if not self._children_lately.admits(at_s):
            found.append(self._found("children_per_minute", "run", "started in this minute", at_s))
        # Nobody says whether it was started after all, so each that is asked for counts for the run.
        if next(self._children) >= self._config.children_per_run:
            found.append(self._found("children_per_run", "run", "started by this run", at_s))
        return found

    def _touched(self, call: Call) -> list[Finding]:
        if self._records is None or self._lately is None or self._tenants is None:
            self._lately = DistinctLately(self._config.records_per_minute)
            self._tenants = Distinct(self._config.tenants_per_run)
            self._systems = Distinct(self._config.systems_per_run)
            self._records = Distinct(self._config.records_per_run)
        target, tenant, record = call.target, call.tenant or self._run.tenant, _record_of(call)
        found: list[Finding] = []
        if tenant and not self._tenants.admits(hash(tenant)):
            found.append(self._found("tenants_per_run", "tenant", f"in this run: {shown(tenant)}", call.at_s))
        if target is not None and self._systems is not None and not self._systems.admits(hash(target.system)):
            found.append(self._found("systems_per_run", "system", f"in this run: {shown(target.system)}", call.at_s))
        # The minute before the run: what is refused for this minute may come in the next one, and is not counted.
        if not (self._lately.has_room_for(record, call.at_s) if found else self._lately.admits(record, call.at_s)):
            found.append(self._found("records_per_minute", "record", f"in this minute: {_name_of(call)}", call.at_s))
        if not (self._records.has_room_for(record) if found else self._records.admits(record)):
            found.append(self._found("records_per_run", "record", f"in this run: {_name_of(call)}", call.at_s))
        if found:
            self._passed = True
        return found

    def _found(self, rule: str, what: str, which: str, at_s: float) -> Finding:
        limit: int = getattr(self._config, rule)
        found_at_s = self._found_at_s = self._found_at_s or {}
        last_s = found_at_s.get(rule)
        found_at_s[rule] = at_s
        # A rate that was kept for a minute and is passed again is news; what is passed for good is said once.
        quiet = last_s is None or (rule.endswith("_minute") and at_s - last_s >= WINDOW_S)
        return Finding(
            kind=SignalKind.BLAST_RADIUS,
            rule=rule,
            severity=Severity.CRITICAL if rule == "tenants_per_run" else Severity.HIGH,
            scope=about_run(self._run.run_id),
            detail=f"one {what} more than the {limit} allowed {which}",
            facts={"limit": limit, "asked": limit + 1},
            again=not quiet,
        )


def _record_of(call: Call) -> int:
    if call.target is not None:
        return target_key(call.target)
    if call.repeats:
        return hash((call.action, call.repeats))
    return hash((call.action, call.step_id, str(call.at_s)))


def _name_of(call: Call) -> str:
    return shown(call.target) if call.target is not None else f"{shown(call.action)}, which names no target"
