"""The laws that hold for every detector, D1 to D5 of `rescind.triggers.detector`, whoever has written it."""

import functools
import gc
import random
import re
import sys
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from builders import a_run, at_once, switching_every
from rescind.model.outcome import Completed, Failed, Outcome, Unknown
from rescind.model.signal import Finding
from rescind.model.step import RunInfo, Target
from rescind.triggers.detector import Detector, Watch
from rescind.triggers.facts import Call, End, ToolReport
from rescind.triggers.known import config_type, detector_names, make_detector

STRICT: dict[str, dict[str, Any]] = {
    "policy_violation": {
        "actions": ["good.*"],
        "targets": ["erp/invoice/*"],
        "tenant_arguments": ["tenant"],
        "amounts": {"amount": {"call_max": 100, "run_max": 1_000}},
    },
    "blast_radius": {
        "records_per_run": 5,
        "records_per_minute": 3,
        "tenants_per_run": 1,
        "systems_per_run": 1,
        "children_per_run": 2,
        "children_per_minute": 1,
    },
    "budget": {"max_steps": 3, "max_tool_calls": 5, "max_seconds": 10, "max_usd": 1},
    "tool_uncertainty": {"receipts": ["*"]},
    "cross_system_inconsistency": {"failures_min": 1},
    "rates": {"breakers_max": 50},
}
"""Limits that a run of hostile calls passes; detectors that are not named have their defaults."""

SIMPLE = (
    "policy_violation",
    "blast_radius",
    "budget",
    "verification_failure",
    "tool_uncertainty",
    "lost_identity",
    "cross_system_inconsistency",
)

HUGE = "x" * 1_000_000


def a_detector(name: str, *, strict: bool = True) -> Detector:
    return make_detector(name, msgspec.convert(STRICT.get(name, {}) if strict else {}, config_type(name)))


def a_watch(name: str, run: RunInfo | None = None, *, strict: bool = True) -> Watch:
    watch = a_detector(name, strict=strict).watch(run or a_run())
    assert watch is not None
    return watch


def hostile_facts(seed: int, number: int, *, run: RunInfo | None = None) -> Iterator[End]:
    """Calls of a run that does all that it should not, with values that nobody would expect."""
    dice, run, at_s = random.Random(seed), run or a_run(), 0.0
    texts = ("", "a", "\ud800", "\x00\x1b[2J", "naïve\n", "x" * 5_000, "../..", "$redacted")
    values: tuple[Any, ...] = (
        None, True, -1, 0, 10**400, 1e308, float("nan"), float("-inf"), "NaN", "1e999999", "5", [], [None],
        {"a": {"b": []}}, {"$redacted": True}, "\ud800",
    )  # fmt: skip
    outcomes: tuple[Outcome, ...] = (Completed(), Completed(HUGE), Failed(""), Unknown("\ud800" * 9), Unknown(HUGE))
    for index in range(number):
        text = dice.choice((*texts, f"made-up-{index}"))
        at_s += dice.choice((0.0, 0.1, 5.0, 100.0, -3.0))
        report = ToolReport(
            confidence={dice.choice(("record", "tenant", "parse", text)): dice.choice(values)},
            receipt=dice.choice((None, "", "r-1", text)),
            failed_parts=dice.choice(((), (text,), (HUGE,) * 50)),
            usd=dice.choice(values),
        )
        call = Call(
            run=run,
            action=dice.choice(("good.one", "good.two", text)),
            writes=dice.random() < 0.7,
            at_s=dice.choice((at_s, at_s, at_s, float("nan"))),
            arguments={dice.choice(("amount", "tenant", text)): dice.choice(values)},
            target=dice.choice((None, Target(text, text, text), Target("erp", "invoice", str(index)), Target("crm"))),
            repeats=dice.choice(("", "same", str(index))),
            tenant=dice.choice(("", "acme", text)),
            step_id=str(index),
            spawns=dice.random() < 0.1,
        )
        yield End(
            call=call,
            at_s=at_s,
            outcome=dice.choice(outcomes),
            verified=dice.choice((None, True, False)),
            report=dice.choice((None, report)),
            problem=dice.choice(("", text, HUGE)),
            approved_differs=dice.choice(("", "", "", text)),
        )


def told(watch: Watch, ends: Iterator[End]) -> list[Finding]:
    found: list[Finding | None] = []
    for end in ends:
        found += (watch.asked(end.call), watch.ended(end))
    return [finding for finding in found if finding is not None]


@pytest.mark.parametrize("name", detector_names())
@pytest.mark.parametrize("seed", range(3))
def test_the_same_facts_give_the_same_findings(name: str, seed: int) -> None:  # D1
    first, second = (told(a_watch(name), hostile_facts(seed, 500)) for _ in range(2))

    assert msgspec.json.encode(first) == msgspec.json.encode(second)


@pytest.mark.parametrize("name", detector_names())
def test_no_fact_makes_it_raise_and_what_it_finds_can_be_written_down_and_read(name: str) -> None:
    found = told(a_watch(name), hostile_facts(7, 2_000))

    for finding in found:
        assert re.fullmatch("[a-z_]+", finding.rule)
        assert finding.detail.isprintable()
        assert 0 < len(finding.detail) <= 500
        assert len(msgspec.json.encode(finding.facts)) < 2_000
        assert msgspec.json.decode(msgspec.json.encode(finding), type=Finding).rule == finding.rule


@pytest.mark.parametrize("name", SIMPLE)
def test_calls_as_hostile_as_these_are_found(name: str) -> None:
    # Or the two tests above would pass for detectors that look at nothing.
    assert told(a_watch(name), hostile_facts(7, 2_000))


@pytest.mark.parametrize("name", detector_names())
def test_a_run_that_is_wrong_in_all_ways_makes_few_signals(name: str) -> None:  # D5
    found = told(a_watch(name), hostile_facts(11, 2_000))

    # Of 4,000 that could be. It is news by doublings, and minutes and actions are not all the same.
    assert sum(not finding.again for finding in found) <= (200 if name == "rates" else 90)  # which are of many scopes


@pytest.mark.parametrize("name", detector_names())
def test_its_memory_of_one_run_is_bounded_whatever_the_run_does(name: str) -> None:  # D4
    watch = a_watch(name, strict=name in ("budget", "rates"))
    tracemalloc.start()
    try:
        told(watch, hostile_facts(1, 2_000))
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        told(watch, hostile_facts(2, 8_000))
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert before < 256 * 1024
    assert after - before < 16 * 1024


def idle_bytes(name: str) -> float:
    """What a run costs that has not made a call, its own facts left out."""
    detector = a_detector(name)
    runs = [a_run(f"run-{number}") for number in range(1_001)]
    for run in runs:
        _ = run.agent
    warm = detector.watch(runs.pop())
    gc.collect()
    tracemalloc.start()
    try:
        watches = [None] * len(runs) + [warm]
        watches[:] = [detector.watch(run) for run in runs]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (held - sys.getsizeof(watches)) / len(runs)


def test_watches_of_an_idle_run_are_small() -> None:  # D4
    held = {name: idle_bytes(name) for name in detector_names()}

    assert sum(held[name] for name in SIMPLE) < 1_536, held
    assert sum(held.values()) < 4_096, held


@pytest.mark.parametrize("name", detector_names())
def test_calls_that_overlap_in_threads_do_not_make_it_raise(name: str) -> None:  # D3
    watch = a_watch(name)
    errors: list[Exception] = []

    def in_thread(seed: int) -> None:
        try:
            told(watch, hostile_facts(seed, 300))
        except Exception as error:  # noqa: BLE001  # whatever it is, the test says so
            errors.append(error)

    with switching_every(1e-5):
        at_once(functools.partial(in_thread, seed) for seed in range(4))

    assert errors == []


@pytest.mark.parametrize("name", [name for name in detector_names() if name != "budget"])  # it has no limits at first
def test_a_healthy_run_is_left_alone_by_the_defaults(name: str) -> None:
    run, watch = a_run(), a_watch(name, strict=False)

    for number in range(40):
        call = Call(
            run=run,
            action=("invoice.read", "invoice.update", "note.add")[number % 3],
            writes=number % 3 != 0,
            at_s=number * 2.0,
            arguments={"number": number},
            target=Target("erp", "invoice", str(number // 3)),
            repeats=str(number),
            step_id=str(number),
        )
        assert watch.asked(call) is None
        assert watch.ended(End(call=call, at_s=call.at_s + 0.1, outcome=Completed("ok"), verified=True)) is None


def test_an_unknown_field_is_refused_by_every_detectors_settings() -> None:
    for name in detector_names():
        with pytest.raises(msgspec.ValidationError, match="unknown field `no_such_limit`"):
            msgspec.convert({"no_such_limit": 1}, config_type(name))
