"""Policies as values: responses in words (laws R1 to R3), rules in order (laws Q1 to Q3), and what detectors keep."""

import ast
from importlib.resources import files

import pytest

from builders import NOON, a_run
from rescind.model.level import Level
from rescind.model.order import Measure
from rescind.model.outcome import Completed, Failed
from rescind.model.scope import Scope
from rescind.model.signal import Finding, Severity, Signal, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.deciding import decide_at
from rescind.triggers.facts import Call, End
from rescind.triggers.known import config_type, detector_names, detector_of, limits_of, rules_of
from rescind.triggers.outage import OutageConfig, Outages
from rescind.triggers.policy import Limits, Mode, Policy, Rule, Tally
from rescind.triggers.policy_file import default_policy
from rescind.triggers.response import HOLD_MAX_S, Response, Verb

RUN = a_run("run-1", workflow="refunds")


def a_signal(kind: SignalKind = SignalKind.BLAST_RADIUS, rule: str = "records_per_run", **fields: object) -> Signal:
    defaults: dict[str, object] = {
        "severity": Severity.HIGH,
        "scope": Scope.parse("run:run-1"),
        "detail": "26 records, 25 are allowed",
        "noticed_at": NOON,
        "run_id": "run-1",
    }
    return Signal(signal_id="sig_1", kind=kind, rule=rule, **(defaults | fields))  # type: ignore[arg-type]


def a_rule(name: str = "r", then: str = "deny", **fields: object) -> Rule:
    return Rule(name=name, then=(Response.parse(then),), **fields)  # type: ignore[arg-type]


def decide(policy: Policy, signal: Signal, run: RunInfo = RUN, action: str = "invoice.void", times: int = 1) -> str:
    return ", ".join(policy.decide(signal, run, action, times=times).words)


# --- responses ---


@pytest.mark.parametrize(
    ("text", "said", "recoverable"),
    [
        ("deny", "deny", True),
        ("report", "report", True),
        ("incident", "incident", True),
        ("retry", "retry", True),
        ("fallback", "fallback", True),
        ("supervised for 90s", "supervised on run for 90s", True),
        ("read-only for 5m", "read_only on run for 5m", True),
        ("paused on tree for 500ms", "paused on tree for 500ms", True),
        ("read_only", "read_only on run", False),
        ("halted on tree", "halted on tree", False),
        ("trip", "trip on signal", False),
        ("isolate", "isolate on tree", False),
        ("block_fan_out", "block_fan_out on tree", False),
        ("pause_queue on tenant+workflow", "pause_queue on tenant+workflow", False),
        ("revoke on agent:a+tenant:b", "revoke on agent:a+tenant:b", False),
    ],
)
def test_a_response_is_read_and_said_again(text: str, said: str, recoverable: bool) -> None:
    response = Response.parse(text)

    assert str(response) == said
    assert Response.parse(said) == response
    assert response.is_containment is not recoverable


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("hlated", "did you mean 'halted'"),
        ("normal", "only tightens"),  # law R1
        ("halted on agent", "nothing wider"),  # law R2
        ("quarantine on tenant:acme", "nothing wider"),
        ("isolate on everything", "nothing wider"),
        ("read_only on tennant", "did you mean 'tenant'"),
        ("read_only on tenat:acme", "unknown kind of scope 'tenat'"),
        ("read_only on signal+run", "not joined"),
        ("read_only at run", "at 'at'"),
        ("read_only on", "ends after 'on'"),
        ("read_only on run on run", "twice"),
        ("read_only for soon", "cannot read the time"),
        ("read_only for 0s", "from 1ms to 24h"),
        ("read_only for 25h", "from 1ms to 24h"),
        ("halted for 60s", "takes no 'for'"),
        ("trip for 60s", "takes no 'for'"),
        ("deny on run", "takes no 'on'"),
        ("deny for 60s", "takes no 'for'"),
    ],
)
def test_a_response_that_means_nothing_is_refused_with_its_remedy(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Response.parse(text)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("read_only on run", "run:run-1"),
        ("read_only on tree", "tree:run-1"),
        ("read_only on agent", "agent:billing-agent"),
        ("read_only on agent@version", "agent:billing-agent@2.4.0"),
        ("read_only on tenant", "tenant:acme"),
        ("read_only on workflow", "workflow:refunds"),
        ("read_only on action", "action:invoice.void"),
        ("trip on agent+action", "action:invoice.void+agent:billing-agent"),
        ("read_only on signal", "agent:x"),
        ("read_only on workflow:w+tenant", "tenant:acme+workflow:w"),
        ("read_only on everything", "everything"),
    ],
)
def test_where_is_resolved_by_the_run_and_its_call(text: str, scope: str) -> None:
    signal = a_signal(scope=Scope.parse("agent:x"))

    assert str(Response.parse(text).scope_for(signal, RUN, "invoice.void")) == scope


@pytest.mark.parametrize(
    ("ancestors", "root"), [((), "run-1"), (("router",), "router"), (("aide", "router"), "router")]
)
def test_root_is_the_tree_of_the_run_that_has_started_all(ancestors: tuple[str, ...], root: str) -> None:
    response = Response.parse("isolate on root")
    scope = response.scope_for(a_signal(), a_run("run-1", ancestors=ancestors), "invoice.void")
    assert scope == Scope.parse(f"tree:{root}")


@pytest.mark.parametrize(
    ("text", "run", "action"),
    [
        ("read_only on tenant", a_run("run-1", tenant=""), "a"),
        ("read_only on workflow", a_run("run-1", workflow=""), "a"),
        ("read_only on agent@version", a_run("run-1", agent_version=""), "a"),
        ("read_only on agent+action", a_run("run-1"), ""),
        ("read_only on tenant+agent", a_run("run-1", tenant=""), "a"),
        ("read_only on tenant", a_run("run-1", tenant="a+b"), "a"),  # what no scope can name
    ],
)
def test_r3_a_place_that_cannot_be_resolved_is_the_run_and_never_more(text: str, run: RunInfo, action: str) -> None:
    assert str(Response.parse(text).scope_for(a_signal(), run, action)) == "run:run-1"


def test_r3_a_signal_about_everything_is_answered_on_its_run() -> None:
    assert str(Response.parse("trip").scope_for(a_signal(scope=Scope()), RUN, "a")) == "run:run-1"


def test_r2_a_wide_signal_does_not_make_a_halt_wide() -> None:
    wide = a_signal(scope=Scope.parse("agent:billing-agent"))

    assert str(Response.parse("halted on signal").scope_for(wide, RUN, "a")) == "run:run-1"
    assert str(Response.parse("paused on signal").scope_for(wide, RUN, "a")) == "agent:billing-agent"


def test_a_verdict_about_no_run_is_answered_where_it_points() -> None:
    verdict = a_signal(SignalKind.VERDICT, "wrong", scope=Scope.parse("agent:x"))

    assert (
        str(Response.parse("read_only on run").scope_for(verdict, RunInfo(run_id="", agent_name="x"), "")) == "agent:x"
    )


def test_isolating_is_quarantine_without_fan_out_and_no_order_holds_less_than_its_measure() -> None:
    assert [measure for measure, _ in Response.parse("isolate").measures] == [Measure.QUARANTINE, Measure.BLOCK_FAN_OUT]
    for verb in Verb:
        for measure, level in Response.parse(verb.value).measures:
            assert level >= measure.level or measure is Measure.LEVEL
    assert Response.parse("supervised").measures == ((Measure.LEVEL, Level.SUPERVISED),)
    assert Response.parse("supervised for 1s").measures == ()


def test_a_day_is_the_longest_that_a_process_holds_by_itself() -> None:
    assert Response.parse("paused for 24h").for_s == HOLD_MAX_S


# --- rules ---


def test_q1_the_first_rule_that_matches_decides() -> None:
    policy = Policy(
        rules=(
            a_rule("a", "retry", signal="budget"),
            a_rule("b", "deny", signal="blast_radius"),
            a_rule("c", "fallback"),
        ),
        defaults=(a_rule("d", "report"),),
    )

    assert policy.decide(a_signal(), RUN, "x").rule_name == "b"
    assert policy.decide(a_signal(SignalKind.VERDICT, "any"), RUN, "x").rule_name == "c"


def test_q1_after_the_rules_of_the_file_come_the_built_in_ones_and_then_a_report() -> None:
    policy = Policy(rules=(a_rule("a", signal="budget"),), defaults=(a_rule("d", "deny", signal="blast_radius"),))

    assert policy.decide(a_signal(), RUN, "x").rule_name == "d"
    assert policy.decide(a_signal(SignalKind.VERDICT, "any"), RUN, "x").words == ("report",)


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        ({"signal": "blast_radius"}, True),
        ({"signal": "blast_radius.records_per_run"}, True),
        ({"signal": "blast_radius.tenants_per_run"}, False),
        ({"signal": "budget"}, False),
        ({"severity": Severity.HIGH}, True),
        ({"severity": Severity.CRITICAL}, False),
        ({"scope": Scope.parse("agent:billing-agent+tenant:acme")}, True),
        ({"scope": Scope.parse("agent:billing-agent@2.4.1")}, False),
        ({"scope": Scope.parse("action:invoice.void")}, True),
        ({"scope": Scope.parse("action:invoice.send")}, False),
        ({"times": 2}, True),
        ({"times": 3}, False),
    ],
)
def test_a_rule_answers_what_it_names(fields: dict[str, object], matches: bool) -> None:
    decision = Policy(rules=(a_rule("r", "deny", **fields),)).decide(a_signal(), RUN, "invoice.void", times=2)

    assert (decision.rule_name, decision.words) == (("r", ("deny",)) if matches else ("report", ("report",)))


def test_q2_in_shadow_nothing_is_refused_and_no_incident_opened() -> None:
    quiet = Policy(rules=(a_rule(then="read_only on agent"),), mode=Mode.SHADOW)
    loud = Policy(rules=(a_rule(then="deny"),))

    decision = quiet.decide(a_signal(), RUN, "x")
    assert decision.shadow
    assert decision.words == ("read_only on agent",)
    assert not decision.refuses_call
    assert not decision.opens_incident
    assert loud.decide(a_signal(), RUN, "x").refuses_call


def test_a_containment_opens_an_incident_and_a_refusal_of_one_call_does_not() -> None:
    assert Policy(rules=(a_rule(then="read_only"),)).decide(a_signal(), RUN, "x").opens_incident
    assert not Policy(rules=(a_rule(then="deny"),)).decide(a_signal(), RUN, "x").opens_incident
    assert Policy(rules=(a_rule(then="incident"),)).decide(a_signal(), RUN, "x").recoverable


def test_a_limit_that_somebody_wrote_is_enforced_and_its_neighbours_stay_in_shadow() -> None:
    rule = a_rule(signal="blast_radius", mode=Mode.IF_LIMITED)
    config = config_type("blast_radius")()
    policy = Policy(
        rules=(rule,), limits={"blast_radius": Limits(config=config, written=frozenset({"records_per_run"}))}
    )

    assert not policy.decide(a_signal(), RUN, "x").shadow
    assert policy.decide(a_signal(rule="tenants_per_run"), RUN, "x").shadow
    assert Policy(rules=(rule,)).decide(a_signal(), RUN, "x").shadow


def test_every_rule_that_waits_for_a_limit_waits_for_one_that_can_be_written() -> None:
    for rule in default_policy().defaults:
        if rule.mode is Mode.IF_LIMITED:
            kind, _, name = rule.signal.partition(".")
            fields = set(config_type(detector_of(SignalKind(kind))).__struct_fields__)
            assert limits_of(SignalKind(kind), name) <= fields
    assert limits_of(SignalKind.BEHAVIOUR, "unlike_baseline") == {"false_stops_per_1000"}
    assert limits_of(SignalKind.BEHAVIOUR, "mutations") == {"mutations_max"}
    assert limits_of(SignalKind.VERDICT, "any") == frozenset()


def test_a_tally_counts_what_is_new_and_stays_small() -> None:
    fresh = Tally()
    finding = Finding(kind=SignalKind.BUDGET, rule="steps", severity=Severity.HIGH, scope=Scope(), detail="")
    again = Finding(kind=SignalKind.BUDGET, rule="steps", severity=Severity.HIGH, scope=Scope(), detail="", again=True)

    assert [fresh.count(each) for each in (finding, again, finding, again)] == [1, 1, 2, 2]
    for number in range(1_000):
        fresh.count(a_signal(SignalKind.VERDICT, f"rule-{number}"))
    assert fresh.count(finding) == 3


# --- the built-in policy ---

STRICT = {
    (SignalKind.ERROR_RATE, "change"): "trip on signal",
    (SignalKind.ANOMALY_RATE, "window"): "trip on signal",
    (SignalKind.POLICY_VIOLATION, "action"): "deny",
    (SignalKind.VERIFICATION_FAILURE, "postcondition"): "read_only on run, incident",
    (SignalKind.BEHAVIOUR, "repeated_call"): "deny",
    (SignalKind.BEHAVIOUR, "retries"): "deny, retry",
    (SignalKind.LOST_IDENTITY, "target"): "deny, incident",
    (SignalKind.BUDGET, "max_steps"): "deny",
    (SignalKind.INCONSISTENCY, "sequence"): "read_only on run, incident",
    (SignalKind.DETECTOR_FAILURE, "raised"): "read_only on run, incident",
}


@pytest.mark.parametrize(("what", "then"), STRICT.items(), ids=lambda value: str(value))
def test_the_built_in_policy_is_strict(what: tuple[SignalKind, str], then: str) -> None:
    assert decide(default_policy(), a_signal(*what)) == then
    assert not default_policy().decide(a_signal(*what), RUN, "x").shadow


@pytest.mark.parametrize("kind", [SignalKind.POLICY_VIOLATION, SignalKind.LOST_IDENTITY])
def test_a_third_time_holds_the_run(kind: SignalKind) -> None:
    assert decide(default_policy(), a_signal(kind, "target"), times=3) == "deny, read_only on run, incident"


@pytest.mark.parametrize("rule", ["repeated_call", "retries"])
def test_a_loop_that_goes_on_is_held_the_second_time(rule: str) -> None:
    assert decide(default_policy(), a_signal(SignalKind.BEHAVIOUR, rule), times=2) == "deny, read_only on run, incident"


@pytest.mark.parametrize(
    "what", [(SignalKind.BLAST_RADIUS, "records_per_run"), (SignalKind.BEHAVIOUR, "unlike_baseline")]
)
def test_what_nobody_has_set_a_limit_for_is_in_shadow(what: tuple[SignalKind, str]) -> None:
    assert default_policy().decide(a_signal(*what), RUN, "x").shadow


@pytest.mark.parametrize(
    ("severity", "then"),
    [
        (Severity.CRITICAL, "quarantine on run, incident"),
        (Severity.HIGH, "read_only on run, incident"),
        (Severity.WARNING, "supervised on run"),
        (Severity.INFO, "report"),
    ],
)
def test_a_verdict_is_answered_by_its_severity(severity: Severity, then: str) -> None:
    assert decide(default_policy(), a_signal(SignalKind.VERDICT, "fraud", severity=severity)) == then


def test_no_built_in_rule_halts_or_holds_more_than_a_run_but_for_a_breaker() -> None:
    for rule in default_policy().defaults:
        for response in rule.then:
            assert response.level is not Level.HALTED
            assert not response.is_containment or response.verb is Verb.TRIP or response.where == "run"


def test_every_kind_of_signal_has_a_built_in_answer_and_no_rule_is_out_of_reach() -> None:
    policy = default_policy()

    for kind in SignalKind:
        assert policy.decide(a_signal(kind, "any"), RUN, "x").rule_name.startswith("built-in ")
    for index, rule in enumerate(policy.defaults):
        assert not any(earlier.covers(rule) for earlier in policy.defaults[:index]), rule


# --- what there is to name ---

SOURCES = {
    "rates": ("rates", "evidence"),
    "behaviour": ("behaviour", "unlike"),
    "blast_radius": ("blast",),
    "budget": ("budgets",),
    "policy_violation": ("allowed",),
    "verification_failure": ("verification",),
    "tool_uncertainty": ("certainty",),
    "lost_identity": ("identity",),
    "cross_system_inconsistency": ("consistency",),
}


def literals(name: str) -> tuple[set[str], set[str]]:
    """Of a detector's source: every text in it, and those that are given to a finding as its rule."""
    every: set[str] = set()
    said: set[str] = set()
    for module in SOURCES[name]:
        source = files("rescind.triggers").joinpath(f"{module}.py").read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                every.add(node.value)
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                rules = [each.value for each in node.keywords if each.arg == "rule"]
                if called in ("_finding", "_found"):
                    rules += node.args[:1]
                said |= {each.value for each in rules if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    return every, said


def test_the_rules_that_a_policy_may_name_are_those_that_detectors_say() -> None:
    for name in detector_names():
        known = {rule for kind in SignalKind if detector_of(kind) == name for rule in rules_of(kind)}
        every, said = literals(name)
        assert known, name
        assert known <= every, name
        assert said <= known, name


# --- detectors ---


def test_two_policies_have_detectors_of_their_own_and_one_always_the_same() -> None:
    one, two = default_policy(), default_policy()

    assert [*map(id, one.detectors())] == [*map(id, one.detectors())]
    assert not set(map(id, one.detectors())) & set(map(id, two.detectors()))


def test_a_detector_that_is_off_is_not_asked() -> None:
    limits = dict(default_policy().limits) | {"behaviour": Limits(config=None)}

    assert len(Policy(limits=limits).detectors()) == len(detector_names()) - 1


# --- outages ---


def an_end(run: RunInfo, *, good: bool) -> End:
    call = Call(run=run, action="pay", writes=True, at_s=0.0)
    return End(call=call, at_s=1.0, outcome=Completed(None) if good else Failed("down"))


def test_a_run_is_not_contained_for_an_error_that_all_runs_have() -> None:
    policy = Policy(rules=(Rule(name="r", then=tuple(map(Response.parse, ("deny", "read_only on run", "incident")))),))
    runs = [a_run(f"run-{number}", agent_name=f"agent-{number}") for number in range(4)]
    down, up = Outages(OutageConfig()), Outages(OutageConfig())
    for number, run in enumerate(runs):
        down.ended(an_end(run, good=False))
        up.ended(an_end(run, good=number > 0))
    call = Call(run=runs[0], action="pay", writes=True, at_s=2.0)
    signal = a_signal(SignalKind.BEHAVIOUR, "retries")

    spared = decide_at(policy, down, signal, call)
    assert spared.words == ("deny", "incident")
    assert spared.recoverable
    assert spared.rule_name == "r, an outage of pay"
    assert not decide_at(policy, up, signal, call).recoverable
    # How far a run reaches has nothing to do with a tool that is down.
    assert not decide_at(policy, down, a_signal(), call).recoverable
