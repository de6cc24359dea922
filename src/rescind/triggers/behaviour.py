"""A run that behaves as no healthy one does: it retries, turns in circles, goes on and on, or does what others do not.

The first four rules need nothing learned. Each has a bound; what is beyond it is found at each call, and makes a signal
when the bound is passed and each time the count has doubled (law D5). `unlike_baseline` judges by what was learned, and
without a baseline it says nothing.

A call may be too much in several ways, and each of them is found (law D6): one may be in shadow while another refuses.
"""

import msgspec

from rescind.model.outcome import Completed
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.baseline import Baseline
from rescind.triggers.bounds import about_run, check_whole, shown
from rescind.triggers.detector import together
from rescind.triggers.facts import Call, End
from rescind.triggers.unlike import NewWorkflowWatch, Unlike, UnlikeWatch

BOUND_MAX = 1_000_000
"""The largest bound that a limit may have. It is there to catch a slip of the key."""

REMEMBERED_MAX = 16
"""Calls that one generation of a run's memory holds. A circle of up to so many different calls is always seen; longer
ones meet `steps_max`. There are two generations, so a run's memory is below 3 KiB."""

RETRY_AFTER_S = 30.0
"""How long an action rests that has failed too often in a row. Then one more try is in order, or a tool that is well
again would stay refused to a run for ever."""


class BehaviourConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for what one run does.

    Attributes:
        retries_max: Failures of one action in a row after which it is asked for once more, within `RETRY_AFTER_S` after
            the last of them.
        repeats_max: How often a run may make one and the same call: same action, same arguments.
        steps_max: Calls in a run, reads included.
        mutations_max: Writes in a run.
        false_stops_per_1000: Of 1,000 healthy runs, how many may be taken for unhealthy ones by what was learned.
    """

    retries_max: int = 5
    repeats_max: int = 10
    steps_max: int = 500
    mutations_max: int = 200
    false_stops_per_1000: int = 40

    def __post_init__(self) -> None:
        for name in ("retries_max", "repeats_max", "steps_max", "mutations_max"):
            check_whole(name, getattr(self, name), 1, BOUND_MAX)
        check_whole("false_stops_per_1000", self.false_stops_per_1000, 1, 500)


class BehaviourDetector:
    """Watches each run for what it does too often, and for what healthy runs do not do."""

    def __init__(self, config: BehaviourConfig, baseline: Baseline | None = None) -> None:
        """A detector with these limits; without a baseline, `unlike_baseline` says nothing."""
        self.config = config
        self.unlike = Unlike(baseline, config.false_stops_per_1000) if baseline is not None else None

    def watch(self, run: RunInfo) -> "BehaviourWatch":
        """Begin to watch a run."""
        return BehaviourWatch(self, run)


class BehaviourWatch:
    """One run. Counts may be off by one where its calls overlap in threads (law D3)."""

    __slots__ = (
        "_detector",
        "_failures",
        "_older",
        "_recent",
        "_run_id",
        "_unlike",
        "mutations",
        "steps",
    )

    def __init__(self, detector: BehaviourDetector, run: RunInfo) -> None:
        """Nothing has been seen yet."""
        self._detector, self._run_id = detector, run.run_id
        self.steps = self.mutations = 0
        unlike = detector.unlike
        self._unlike: UnlikeWatch | NewWorkflowWatch | None = unlike.watch(run) if unlike is not None else None
        self._recent: dict[int, int] | None = None
        self._older: dict[int, int] | None = None
        self._failures: dict[str, _Failures] | None = None  # by action

    def asked(self, call: Call) -> Finding | None:
        """Whether this call makes it too much."""
        steps = self._count_step()
        mutations = self._count_mutation() if call.writes else None
        repeats = self._count_repeats(call) if call.repeats else None
        retries = self._look_at_failures(call) if self._failures else None
        unlike = self._unlike.asked(call) if self._unlike is not None else None
        if steps is None and mutations is None and repeats is None and retries is None:
            return unlike
        return together([each for each in (retries, repeats, mutations, steps, unlike) if each is not None])

    def ended(self, end: End) -> None:
        """Remember whether it failed; what follows from that is said when it is asked for again."""
        action, failures = end.call.action, self._failures
        if type(end.outcome) is Completed:
            if failures:
                failures.pop(action, None)
            return
        if end.was_refused:
            return
        if failures is None:
            failures = self._failures = {}
        known = failures.get(action)
        if known is not None:
            known.in_a_row += 1
            known.last_s = end.at_s
        elif len(failures) < REMEMBERED_MAX:
            failures[action] = _Failures(self._detector.config.retries_max, end.at_s)

    def _count_repeats(self, call: Call) -> Finding | None:
        # The digest's hash, for a digest kept alive takes four times the room; in 64 bits, two of them never meet.
        key, recent, older = hash(call.repeats), self._recent, self._older
        if recent is None:
            recent = self._recent = {}
        count = recent.get(key) or (older.get(key, 0) if older else 0)
        if key not in recent and len(recent) >= REMEMBERED_MAX:
            self._older, self._recent = recent, {}
            recent = self._recent
        recent[key] = count = count + 1
        bound = self._detector.config.repeats_max
        if count <= bound:
            return None
        what = shown(f"{call.action} on {call.target}" if call.target else call.action)
        detail = f"{what}: the same call {count} times in this run, {bound} are allowed"
        again = not _has_doubled(count - 1, bound)
        return self._finding("repeated_call", call.writes, detail, count, bound, again=again, action=call.action)

    def _look_at_failures(self, call: Call) -> Finding | None:
        known = self._failures.get(call.action) if self._failures else None
        bound = self._detector.config.retries_max
        if known is None or known.in_a_row < bound or call.at_s - known.last_s >= RETRY_AFTER_S:
            return None
        count, again = known.in_a_row, known.in_a_row < known.said_at
        if not again:
            known.said_at = 2 * count
        detail = f"{shown(call.action)} is asked for again after {count} failures in a row, {bound} are the limit"
        return self._finding("retries", call.writes, detail, count, bound, again=again, action=call.action)

    def _count_mutation(self) -> Finding | None:
        self.mutations = count = self.mutations + 1
        bound = self._detector.config.mutations_max
        if count <= bound:
            return None
        detail = f"{count} writes in this run, {bound} are allowed"
        return self._finding("mutations", True, detail, count, bound, again=not _has_doubled(count - 1, bound))

    def _count_step(self) -> Finding | None:
        self.steps = count = self.steps + 1
        bound = self._detector.config.steps_max
        if count <= bound:
            return None
        detail = f"{count} calls in this run, {bound} are allowed"
        return self._finding("steps", False, detail, count, bound, again=not _has_doubled(count - 1, bound))

    def _finding(
        self, rule: str, writes: bool, detail: str, count: int, bound: int, *, again: bool, action: str = ""
    ) -> Finding:
        facts: dict[str, object] = {"count": count, "bound": bound}
        if action:
            facts["action"] = shown(action)
        return Finding(
            kind=SignalKind.BEHAVIOUR,
            rule=rule,
            severity=Severity.HIGH if writes else Severity.WARNING,
            scope=about_run(self._run_id),
            detail=detail,
            facts=facts,
            again=again,
        )


class _Failures:
    """Failures of one action in a row, at how many of them it is said next, and when the last one was."""

    __slots__ = ("in_a_row", "last_s", "said_at")

    def __init__(self, said_at: int, at_s: float) -> None:
        self.in_a_row, self.said_at, self.last_s = 1, said_at, at_s


def _has_doubled(count: int, bound: int) -> bool:
    """Whether the count is the bound, or twice, four times, eight times… the bound (law D5)."""
    times, rest = divmod(count, bound)
    return rest == 0 and times > 0 and times & (times - 1) == 0
