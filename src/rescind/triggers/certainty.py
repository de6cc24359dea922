"""What a tool itself is not certain of: what it read, what it returned, which parts it did, whether it did anything."""

import msgspec

from rescind.model.outcome import Completed, Unknown
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.bounds import about_run, check_number, check_texts, is_news, ratio_of, shown
from rescind.triggers.detector import Moment
from rescind.triggers.facts import Call, End
from rescind.triggers.patterns import names_matching

_SEVERITIES = {
    "partial_failure": Severity.HIGH,
    "no_receipt": Severity.HIGH,
    "unknown_outcome": Severity.WARNING,
    "schema_drift": Severity.WARNING,
    "low_parse": Severity.WARNING,
}


class CertaintyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How certain a tool must be.

    Attributes:
        parse_min: The least confidence in what it has parsed, where it reports one.
        receipts: Patterns of actions whose completed calls must report a receipt.
        schema_drift: Whether results must have their declared shape.
        partial_failures: Whether reported parts must all have happened.
        unknown_outcomes: Whether outcomes must be known.
    """

    parse_min: float = 0.8
    receipts: tuple[str, ...] = ()
    schema_drift: bool = True
    partial_failures: bool = True
    unknown_outcomes: bool = True

    def __post_init__(self) -> None:
        check_number("parse_min", self.parse_min, 0, 1)
        check_texts("receipts", self.receipts)


class CertaintyDetector:
    """Finds calls whose tool was not certain."""

    def __init__(self, config: CertaintyConfig) -> None:
        """A detector with these limits."""
        self.config = config
        self.needs_receipt = names_matching(config.receipts) if config.receipts else None

    def watch(self, run: RunInfo) -> "CertaintyWatch":
        """Begin to watch a run."""
        return CertaintyWatch(self, run)


class CertaintyWatch:
    """One run. Says the first of a kind, and again when there are twice as many."""

    __slots__ = ("_detector", "_run_id", "_said", "_times")

    def __init__(self, detector: CertaintyDetector, run: RunInfo) -> None:
        """Nothing has happened yet."""
        self._detector, self._run_id = detector, run.run_id
        self._times: dict[str, int] | None = None  # by rule
        self._said: dict[int, float] | None = None

    @property
    def skips(self) -> frozenset[Moment]:
        """See `Watch`: a plain end has no receipt, and that matters where one is needed."""
        return frozenset({Moment.ASKED} | ({Moment.PLAIN_END} if self._detector.needs_receipt is None else set()))

    def asked(self, call: Call) -> Finding | None:
        """Nothing: nobody knows yet."""

    def ended(self, end: End) -> Finding | None:
        """What the tool was not certain of. Of several things the gravest that is news; the others wait their turn."""
        detector, report = self._detector, end.report
        if report is None and not end.problem and detector.needs_receipt is None and type(end.outcome) is Completed:
            return None
        doubts = self._doubts(end)
        if not doubts:
            return None
        times = self._times = self._times or {}
        for rule, _ in doubts:
            times[rule] = times.get(rule, 0) + 1
        said = self._said = self._said or {}
        for rule, detail in doubts:
            if is_news(said, rule, times[rule]):
                return self._finding(rule, detail, times[rule], end)
        return None

    def _doubts(self, end: End) -> list[tuple[str, str]]:
        """The rules that find something, and what; the gravest first."""
        config, report = self._detector.config, end.report
        doubts: list[tuple[str, str]] = []
        if config.partial_failures and report is not None and report.failed_parts:
            parts = ", ".join(shown(part, 40) for part in report.failed_parts[:5])
            doubts.append(("partial_failure", f"{len(report.failed_parts)} of its parts did not happen: {parts}"))
        if self._lacks_receipt(end):
            doubts.append(("no_receipt", "it completed, and reported no receipt"))
        if config.unknown_outcomes and type(end.outcome) is Unknown and not end.was_refused:
            doubts.append(("unknown_outcome", f"nobody knows whether it happened: {shown(end.outcome.reason)}"))
        if config.schema_drift and end.problem:
            doubts.append(("schema_drift", f"its result is not as declared: {shown(end.problem, 200)}"))
        if report is not None and "parse" in report.confidence:
            confidence = ratio_of(report.confidence["parse"])
            if confidence < config.parse_min:
                doubts.append(
                    ("low_parse", f"confidence {confidence:g} in what it read, {config.parse_min:g} is asked")
                )
        return doubts

    def _lacks_receipt(self, end: End) -> bool:
        needs = self._detector.needs_receipt
        if needs is None or type(end.outcome) is not Completed or (end.report is not None and end.report.receipt):
            return False
        return needs(end.call.action)

    def _finding(self, rule: str, detail: str, times: int, end: End) -> Finding:
        action = shown(end.call.action)
        severity = _SEVERITIES[rule]
        return Finding(
            kind=SignalKind.TOOL_UNCERTAINTY,
            rule=rule,
            # A doubt about what was written weighs more when it comes again and again.
            severity=Severity.HIGH if times >= 8 and end.call.writes else severity,
            scope=about_run(self._run_id),
            detail=f"{action}: {detail}{f', for the {times}. time in this run' if times > 1 else ''}",
            facts={"action": action, "times": times},
        )
