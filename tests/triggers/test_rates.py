"""Breakers that all runs share: what trips, what is spared (RT1 to RT4), and what is said of it."""

import functools
import gc
import itertools
import os
import tracemalloc
from typing import Any

import msgspec
import pytest

from builders import a_call, a_run, at_once
from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.model.scope import Scope
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.triggers.evidence import Rule
from rescind.triggers.facts import End
from rescind.triggers.probing import ProbeRule
from rescind.triggers.rates import RatesConfig, RatesDetector, Recorded, baselines_of, marks_of
from rescind.triggers.window import ANOMALOUS, FAILED, SLOW

LOST = Unknown("no reply in 30 s")
REFUSED = Failed("no such invoice")


class World:
    """Runs that call, on a clock that moves a second with each call."""

    def __init__(self, **fields: Any) -> None:
        self.detector = RatesDetector(RatesConfig(**fields))
        self.now_s = 1_000.0
        self.findings: list[Finding] = []

    def call(
        self, outcome: Outcome | None = None, *, action: str = "invoice.void", took_s: float = 0.1, **run: Any
    ) -> None:
        """One call of one run; what follows from it goes to `findings`."""
        end_fields = {name: run.pop(name) for name in ("verified", "problem") if name in run}
        info = a_run(**({"workflow": "refunds"} | run))
        self.now_s += 1.0
        call = a_call(action, run=info, at_s=self.now_s - took_s)
        end = End(call=call, at_s=self.now_s, outcome=outcome or Completed(), **end_fields)
        watch = self.detector.watch(info)
        watch.asked(call)
        if (finding := watch.ended(end)) is not None:
            self.findings.append(finding)

    def calls(self, times: int, outcome: Outcome | None = None, **fields: Any) -> list[Finding]:
        """So many calls; the findings that they made."""
        before = len(self.findings)
        for _ in range(times):
            self.call(outcome, **fields)
        return self.findings[before:]

    def is_tripped(self, scope: str) -> bool:
        return self.detector.is_tripped(Scope.parse(scope), self.now_s)


def the_only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


# --- what trips ---


def test_a_total_failure_trips_within_seven_calls_and_says_so_with_numbers() -> None:
    world = World()
    world.calls(200)

    finding = the_only(world.calls(7, REFUSED))

    assert (finding.kind, finding.rule, finding.severity) == (SignalKind.ERROR_RATE, "change", Severity.HIGH)
    assert str(finding.scope) == "action:invoice.void+agent:billing-agent@2.4.0"
    assert finding.detail == (
        "6 of the last 6 calls of action:invoice.void+agent:billing-agent@2.4.0 failed; 15.0% is tolerated"
    )
    assert finding.facts["since_bad"] == 6
    assert finding.facts["calls"] == 206
    assert finding.facts["evidence"] >= 1e4
    msgspec.json.encode(finding)


def test_a_healthy_agent_with_some_failures_never_trips() -> None:
    world = World()
    for number in range(5_000):
        world.call(REFUSED if number % 20 == 0 else None)
    assert world.findings == []


def test_an_action_that_fails_every_second_time_trips() -> None:
    world = World()
    for number in range(40):
        world.call(LOST if number % 2 else None)
    assert world.findings


@pytest.mark.parametrize(
    "fields",
    [{"outcome": LOST}, {"verified": False}, {"problem": "total is no number"}, {"took_s": 40.0}],
)
def test_what_is_odd_is_an_anomaly(fields: dict[str, Any]) -> None:
    world = World()
    assert the_only(world.calls(6, **fields)).kind is SignalKind.ANOMALY_RATE


def test_slow_calls_are_a_warning_of_their_own() -> None:
    finding = the_only(World(anomaly_rate_pct=None).calls(20, took_s=40.0))
    assert (finding.kind, finding.severity) == (SignalKind.SLOW_RATE, Severity.WARNING)


def test_marks_say_everything_that_is_wrong_with_a_call() -> None:
    def marks(outcome: Outcome, took_s: float = 0.0, **fields: Any) -> int:
        return marks_of(End(call=a_call(at_s=10.0), at_s=10.0 + took_s, outcome=outcome, **fields), 30.0)

    assert marks(Completed()) == 0
    assert marks(Completed(), verified=True) == 0
    assert marks(REFUSED) == FAILED
    assert marks(LOST) == FAILED | ANOMALOUS
    assert marks(REFUSED, verified=False) == FAILED | ANOMALOUS
    assert marks(Completed(), took_s=30.0) == SLOW | ANOMALOUS


def test_the_classic_window_trips_at_its_share_and_not_before_its_minimum() -> None:
    world = World(rule="window", anomaly_rate_pct=None)
    assert world.calls(19, REFUSED) == []

    finding = the_only(world.calls(1, REFUSED))
    assert (finding.rule, finding.facts["rate_pct"]) == ("window", 100.0)
    assert "within 300 s" in finding.detail

    world = World(rule="window")
    world.calls(17)
    assert world.calls(2, REFUSED) == []  # of 19
    assert the_only(world.calls(1, REFUSED)).facts["rate_pct"] == 15.0


def test_what_lies_outside_of_the_window_is_forgotten() -> None:
    world = World(rule="window")
    world.calls(15, REFUSED)
    world.now_s += 301
    assert world.calls(15) == []
    assert world.calls(2, REFUSED) == []


def test_a_rate_that_is_null_is_not_asked() -> None:
    world = World(error_rate_pct=None, anomaly_rate_pct=None, slow_rate_pct=None)
    assert world.calls(100, LOST, took_s=99.0) == []


# --- volume ---


def test_a_spike_is_three_times_what_is_usual() -> None:
    world = World()
    for _ in range(10):  # ten windows of 30 calls
        world.calls(30)
        world.now_s += 270
    assert world.calls(90) == []

    finding = the_only(world.calls(1))
    assert (finding.kind, finding.rule, finding.severity) == (SignalKind.VOLUME_RATE, "spike", Severity.WARNING)
    assert finding.facts["bound"] == 90
    assert "91 calls" in finding.detail


def test_nothing_is_a_spike_before_it_has_learned_what_is_usual() -> None:
    world = World()
    for _ in range(4):
        world.calls(2)
        world.now_s += 298
    assert world.calls(250) == []


def test_a_few_calls_are_never_a_spike() -> None:
    world = World()
    for _ in range(10):
        world.calls(1)
        world.now_s += 299
    assert world.calls(29) == []


def test_nights_do_not_make_a_spike_of_every_morning() -> None:
    world = World()
    for _ in range(8):
        world.calls(60)
        world.now_s += 8 * 3600  # and nobody calls
    assert world.calls(170) == []


def test_a_spike_does_not_become_usual_by_happening_once() -> None:
    world = World()
    for _ in range(10):
        world.calls(30)
        world.now_s += 270
    world.calls(290)
    world.now_s += 900
    assert the_only(world.calls(91)).kind is SignalKind.VOLUME_RATE


# --- what is spared ---


def test_rt1_only_the_agent_that_fails_on_the_action_trips_and_the_rest_goes_on() -> None:
    world = World()
    for _ in range(50):
        world.call(agent_name="good")
        world.call(action="mail.send")
        world.call(LOST)

    assert {str(finding.scope) for finding in world.findings} == {"action:invoice.void+agent:billing-agent@2.4.0"}
    for scope in ("action:invoice.void", "agent:billing-agent@2.4.0", "workflow:refunds", "tenant:acme"):
        assert not world.is_tripped(scope)


def test_rt1_an_action_on_which_everybody_fails_trips_as_a_whole() -> None:
    world = World()
    for number in range(40):
        world.call(LOST, agent_name=f"agent-{number % 8}")

    assert str(world.findings[0].scope) == "action:invoice.void"
    assert not any("agent" in str(finding.scope) for finding in world.findings)


def test_rt1_an_agent_that_fails_on_many_actions_trips_as_a_whole() -> None:
    world = World()
    for number in range(12):
        world.call(LOST, action=f"action-{number}")
    assert [str(finding.scope) for finding in world.findings] == ["agent:billing-agent@2.4.0"]


def test_a_tenant_takes_more_evidence_than_an_agent() -> None:
    world = World(limit=1e4, limit_wide=1e6)
    for number in range(12):
        world.call(LOST, action=f"action-{number}", agent_name=f"agent-{number}", workflow="")
    assert [str(finding.scope) for finding in world.findings] == ["tenant:acme"]
    assert world.findings[0].facts["since_bad"] == 7


def test_rt2_calls_of_a_tripped_breaker_are_no_evidence_against_others() -> None:
    world = World()
    world.calls(6, LOST)
    assert world.is_tripped("action:invoice.void+agent:billing-agent@2.4.0")

    world.calls(1_000, LOST)
    assert {len(finding.scope.terms) for finding in world.findings} == {2}


def test_rt3_it_speaks_again_when_twice_the_evidence_has_come_and_stops_speaking() -> None:
    world = World(cooldown_seconds=86_400)
    world.calls(20_000, LOST)

    said = [finding.facts["since_bad"] for finding in world.findings]
    assert [finding.facts["strikes"] for finding in world.findings] == [0, 1, 2, 3, 4, 5]
    assert all(later > 1.7 * earlier for earlier, later in itertools.pairwise(said))


def test_rt3_after_its_cooldown_it_is_as_it_was_at_first() -> None:
    world = World()
    world.calls(6, LOST)
    world.now_s += 600
    assert not world.is_tripped("action:invoice.void+agent:billing-agent@2.4.0")
    assert the_only(world.calls(6, LOST)).facts["strikes"] == 0


def test_a_breaker_whose_trip_was_lifted_early_goes_on_to_watch() -> None:
    world = World()
    world.calls(6, LOST)
    assert the_only(world.calls(15, LOST)).facts["strikes"] == 1  # without having been told
    world.detector.reset(Scope.parse("action:invoice.void"))
    assert the_only(world.calls(6, LOST)).facts["strikes"] == 0


# --- what is shared, and what it costs ---


def test_runs_share_their_breakers() -> None:
    world = World()
    for number in range(6):
        world.call(LOST, run_id=f"run-{number}")
    assert len(world.findings) == 1


def test_rt4_there_are_never_more_breakers_than_that_and_the_latest_are_kept() -> None:
    world = World(breakers_max=20)
    for number in range(500):
        world.call(action=f"action-{number}")
        world.now_s += 30
        if number % 3 == 0:
            world.call(action="often")
        assert len(world.detector) <= 20
    for number in range(5):
        world.call(LOST, action="often")
        world.calls(3, action=f"other-{number}")
    assert [str(finding.scope) for finding in world.findings] == ["action:often+agent:billing-agent@2.4.0"]


def test_rt4_a_tripped_breaker_is_forgotten_last() -> None:
    world = World(breakers_max=20, cooldown_seconds=86_400)
    world.calls(6, LOST, action="broken")
    for number in range(100):
        world.call(action=f"action-{number}", agent_name=f"agent-{number}")
        world.now_s += 30
    assert world.is_tripped("action:broken+agent:billing-agent@2.4.0")


def test_what_no_scope_can_name_is_passed_over() -> None:
    world = World()
    world.calls(50, LOST, action="a+b")  # the agent can be named, and trips
    assert {str(finding.scope) for finding in world.findings} == {"agent:billing-agent@2.4.0"}


def test_a_watch_is_small_and_a_breaker_is_below_two_kilobytes() -> None:
    detector = RatesDetector()
    watch = detector.watch(a_run())
    end = End(call=a_call(at_s=5.0), at_s=5.0, outcome=LOST)
    watch.ended(end)
    gc.collect()
    tracemalloc.start()
    watches = [detector.watch(a_run()) for _ in range(1_000)]
    of_watches = tracemalloc.get_traced_memory()[0]
    for number in range(200):
        run = a_run(agent_name=f"agent-{number}", tenant="")
        detector.watch(run).ended(End(call=a_call(run=run, at_s=5.0), at_s=5.0, outcome=LOST))
    of_breakers = tracemalloc.get_traced_memory()[0] - of_watches
    tracemalloc.stop()

    assert of_watches / len(watches) < 600  # run and agent's name included
    assert of_breakers / (2 * 200) < 2_500  # with evidence of all kinds in it


def test_threads_neither_fail_nor_lose_a_trip() -> None:
    detector, found, run = RatesDetector(), [], a_run()

    def calls(name: str) -> None:
        watch = detector.watch(run)
        for number in range(300):
            call = a_call(f"{name}-{number}", run=run, at_s=5.0 + number)
            end = End(call=call, at_s=5.0 + number, outcome=Completed())
            assert watch.ended(end) is None
        for _ in range(50):
            finding = watch.ended(End(call=a_call("invoice.void", run=run, at_s=400.0), at_s=400.0, outcome=LOST))
            if finding is not None:
                found.append(finding)

    at_once(functools.partial(calls, f"thread-{number}") for number in range(6))
    assert [finding.facts["strikes"] for finding in found].count(0) == 1


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # threads; no harm here
def test_a_fork_in_the_middle_of_a_call_does_not_hang_the_child() -> None:
    world = World()
    with getattr(world.detector, "_lock"):  # noqa: B009  # as another thread would hold it
        child = os.fork()
        if child == 0:
            world.call(LOST)
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- what is configured ---


def test_a_recorded_baseline_says_what_is_tolerated() -> None:
    record = World()
    ends = [
        End(call=a_call("flaky.call", at_s=5.0), at_s=5.0, outcome=REFUSED if number % 4 == 0 else Completed())
        for number in range(2_000)
    ]
    baselines = baselines_of(ends)
    assert baselines["action:flaky.call"] == Recorded(calls=2_000, failed=500)
    assert set(baselines) == {
        "action:flaky.call",
        "action:flaky.call+agent:billing-agent@2.4.0",
        "agent:billing-agent@2.4.0",
        "tenant:acme",
    }

    without = [record.calls(4, REFUSED if each == 0 else None, action="flaky.call") for each in (0, 1, 1, 1) * 20]
    assert any(without)
    healthy = World(baselines=baselines)
    for number in range(4_000):
        healthy.call(REFUSED if number % 4 == 0 else None, action="flaky.call", workflow="")
    assert healthy.findings == []
    assert healthy.calls(20, REFUSED, action="flaky.call", workflow="")


def test_the_probe_rule_is_that_of_the_configuration() -> None:
    config = RatesConfig(cooldown_seconds=60, probes=2, probe_timeout_seconds=10)
    assert config.probe_rule == ProbeRule(60_000_000, 2, 10_000_000)


def test_the_defaults_are_strict() -> None:
    config = RatesConfig()
    assert (config.error_rate_pct, config.anomaly_rate_pct, config.volume_spike_factor) == (15, 10, 3.0)
    assert (config.window_seconds, config.cooldown_seconds, config.rule) == (300, 600, Rule.CHANGE)
    assert config.bounds(Scope.parse("tenant:acme")).limit == 1e6
    assert config.bounds(Scope.parse("action:a")).limit == 1e4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"error_rate_pct": 0}, "error_rate_pct is 0; it must be from 0.01 to 94"),
        ({"anomaly_rate_pct": 95}, "anomaly_rate_pct is 95; it must be from 0.01 to 94"),
        ({"volume_spike_factor": 1.0}, "volume_spike_factor is 1; it must be from 1.1 to 1000"),
        ({"probes": 0}, "probes is 0; it must be from 1 to 1000"),
        ({"window_seconds": float("nan")}, "window_seconds is nan"),
        ({"limit": 1e12}, "limit is 1e[+]12; it must be from 10 to 1e[+]08"),
        ({"baselines": {"galaxy:x": {"calls": 1}}}, "baselines: unknown kind of scope"),
        ({"baselines": {"action:x": {"calls": 1, "failed": 2}}}, "failed is 2; it must be from 0 to the 1 calls"),
        ({"baselines": {"action:x": {"calls": 0}}}, "calls is 0"),
        ({"rule": "guess"}, "Invalid enum value 'guess'"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_its_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(fields, RatesConfig)
