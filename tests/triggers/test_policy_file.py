"""Policies from files: as a whole or not at all, with the line, and read again while they are in force."""

import os
import re
import threading
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rescind.config import load_settings
from rescind.errors import ConfigError
from rescind.model.signal import SignalKind
from rescind.triggers.baseline import Baseline, save
from rescind.triggers.known import config_type, detector_names
from rescind.triggers.marked import TEXT_BYTES_MAX
from rescind.triggers.policy import Mode, Policy
from rescind.triggers.policy_file import (
    LOOK_EVERY_S,
    PolicyFile,
    default_policy,
    default_text,
    load_policy,
    policy_in_force,
    read_policy,
)
from rescind.triggers.rates import RatesDetector, Recorded

WHOLE = """\
mode: shadow
detect:
  blast_radius: {records_per_run: 25}
  behaviour: off
  rates:
    window_seconds: 60
respond:
  - signal: blast_radius.records_per_run
    severity: warning
    scope: agent:billing-agent
    times: 2
    mode: enforce
    then: [read_only on agent@version, incident]
  - {name: all-else, signal: "*", then: report}
require_approval: ["payment.*"]
fleet: {evidence_guards: 3, stop_share_pct: 25}
outage: {runs_min: 5, share_pct: 80, window_seconds: 30}
"""


def read(text: str) -> Policy:
    return read_policy(text.encode(), name="p.yaml")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


def test_everything_that_a_policy_may_say_is_read() -> None:
    policy = read(WHOLE)

    first, second = policy.rules
    assert policy.mode is Mode.SHADOW
    assert (first.signal, str(first.scope), first.times, first.severity.label) == (
        "blast_radius.records_per_run",
        "agent:billing-agent",
        2,
        "warning",
    )
    assert list(map(str, first.then)) == ["read_only on agent@version", "incident"]
    assert (first.name, first.origin) == ("blast_radius.records_per_run", "p.yaml, line 8")
    assert (second.name, second.origin) == ("all-else", "p.yaml, line 14")
    assert policy.limits["behaviour"].config is None
    assert policy.limits["blast_radius"].written == {"records_per_run"}
    assert policy.require_approval == ("payment.*",)
    assert (policy.fleet.evidence_guards, policy.fleet.stop_share_pct) == (3, 25)
    assert (policy.outage.runs_min, policy.outage.share_pct, policy.outage.window_seconds) == (5, 80, 30)


def test_limits_replace_the_built_in_ones_one_by_one() -> None:
    limits = read("detect: {behaviour: {steps_max: 7}}").limits["behaviour"]

    assert limits.config == config_type("behaviour")(steps_max=7)


def test_every_detector_can_be_switched_off_and_left_as_it_is() -> None:
    for name in detector_names():
        assert read(f"detect: {{{name}: off}}").limits[name].config is None
        assert read(f"detect: {{{name}: 'off'}}").limits[name].config is None
        for said in ("on", "{}", ""):
            limits = read(f"detect:\n  {name}: {said}\n").limits[name]
            assert limits == default_policy().limits[name]


def test_one_response_need_not_be_a_list() -> None:
    assert read("respond: [{signal: budget, then: deny}]").rules == (
        read("respond: [{signal: budget, then: [deny]}]").rules
    )


def test_rules_of_one_signal_have_names_of_their_own() -> None:
    rule = "- {signal: budget, then: deny}"
    policy = read(f"respond:\n{rule}\n- {{signal: budget, name: 'budget #2', then: report}}\n{rule}\n")

    assert [each.name for each in policy.rules] == ["budget", "budget #2", "budget #3"]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}", "detect:\nrespond:\n", "store: s\n", "policy:\n"])
def test_a_file_that_says_nothing_leaves_the_built_in_policy(text: str) -> None:
    policy = read(text)

    assert policy.rules == ()
    assert (policy.defaults, policy.limits, policy.mode) == (
        default_policy().defaults,
        default_policy().limits,
        Mode.ENFORCE,
    )


REFUSED = [
    ("detcet: {}", 1, "did you mean 'detect'"),
    ("\n\nmode: shadwo", 3, "did you mean 'shadow'"),
    ("mode: if_limited", 1, "only a rule can be"),
    ("mode: [shadow]", 1, "must be one value"),
    ("detect:\n  blast_radius:\n    records_per_rn: 5", 3, "did you mean 'records_per_run'"),
    ("detect:\n  blast_radius:\n    tenants_per_run: 2\n    records_per_run: -1", 4, "records_per_run is -1"),
    ("detect:\n  blast_radius:\n    tenants_per_run: 2\n    records_per_run: many", 4, "expected `int`, got `str`"),
    ("detect:\n  blast_radius:\n    records_per_run: .inf", 3, "no number"),
    ("outage:\n  window_seconds: " + "9" * 400, 2, "no number"),
    ("detect:\n  blast_radius:\n    records_per_run: 1e400", 3, ""),
    ("detect:\n  blast_radius:\n    records_per_run: true", 3, "expected `int`"),
    ("detect:\n  blast_radius: of", 2, "write `off`"),
    ("detect:\n  blast_radius: [1]", 2, "must hold keys and values"),
    ("detect:\n  error_rate: {}", 2, "its limits are those of 'rates'"),
    ("detect:\n  blastradius: off", 2, "did you mean 'blast_radius'"),
    ("detect:\n  rates:\n    baselines: {'agnet:x': {calls: 5}}", 3, "did you mean 'agent'"),
    ("respond:\n- signal: blast_raduis\n  then: deny", 2, "did you mean 'blast_radius'"),
    ("respond:\n- signal: blast_radius.record_per_run\n  then: deny", 2, "did you mean 'records_per_run'"),
    ("respond:\n- signal: rates\n  then: deny", 2, "error_rate"),
    ("respond:\n- signal: verdict. x\n  then: deny", 2, "names no rule"),
    ("respond:\n- then: deny", 2, "no 'signal'"),
    ("respond:\n- signal: '*'", 2, "no 'then'"),
    ("respond:\n- signal: '*'\n  then: []", 3, "write `report`"),
    ("respond:\n- signal: '*'\n  then:\n  - deny\n  - halted on agent", 5, "nothing wider"),
    ("respond:\n- signal: '*'\n  then: deyn", 3, "did you mean 'deny'"),
    ("respond:\n- signal: '*'\n  then: read_only on tennant", 3, "did you mean 'tenant'"),
    ("respond:\n- signal: '*'\n  then: deny\n  severity: hihg", 4, "critical"),
    ("respond:\n- signal: '*'\n  then: deny\n  scope: agnet:x", 4, "did you mean 'agent'"),
    ("respond:\n- signal: '*'\n  then: deny\n  times: 0", 4, "from 1 to 1000"),
    ("respond:\n- signal: '*'\n  then: deny\n  times: true", 4, "from 1 to 1000"),
    ("respond:\n- signal: '*'\n  then: deny\n  when: now", 4, "unknown key"),
    ("respond:\n- signal: '*'\n  then: deny\n  name: built-in x", 4, "built in"),
    ("respond:\n- signal: '*'\n  then: deny\n  name: 'a+b'", 4, "without `+`"),
    ("respond:\n- {signal: '*', then: deny, name: a}\n- {signal: '*', then: deny, name: a}", 3, "used twice"),
    ("respond:\n- signal: '*'\n  then: deny\n  then: report", 4, "first in line 3"),
    ("respond: deny", 1, "must be a list"),
    ("respond:\n" + "- {signal: '*', then: deny}\n" * 201, 2, "at most 200"),
    ("require_approval: payment.*", 1, "must be a list"),
    ("require_approval:\n- 'a b'", 2, "no pattern"),
    ("fleet: {stop_share_pct: 0}", 1, "stop_share_pct is 0"),
    ("outage:\n  share_pct: 101", 2, "share_pct is 101"),
    ("outage:\n  runs: 3", 2, "runs_min"),
    ("store: s\nrespond: []", 2, "belongs under `policy:`"),
    ("policy: {}\nfalback: x", 2, "did you mean 'fallback'"),
    ("policy:\n  respnd: []", 2, "did you mean 'respond'"),
    ("policy: [1]", 1, "must hold keys and values"),
    ("- 1", 1, "must hold keys and values"),
    ("a: b: c", 1, "not YAML"),
    ("mode: shadow\nmode: shadow", 2, "twice"),
    ("a: 1\n---\nb: 2", 2, "not YAML"),
    ("mode: !!python/object:os.system x", 1, "could not determine a constructor"),
    ("mode: !!int x", 1, "cannot be read"),
    ("mode: 2026-99-99", 1, ""),
    ("? [a]\n: b", 1, "must be one value"),
    ("1: 2", 1, "put it in quotes"),
    ("a: \x07", 1, "not YAML"),
    ("x: &a [1]\ndetect:\n  <<: *a", 1, "unknown key"),
    ("detect:\n  <<: {rates: off}", 2, "write its keys out"),
    ("mode: '" + "x" * 500 + "'", 1, "500 characters"),
]


@pytest.mark.parametrize(("text", "line", "problem"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_policy_that_cannot_be_used_is_refused_as_a_whole_at_its_line(text: str, line: int, problem: str) -> None:
    said = refusal(text)

    assert said.startswith(f"p.yaml, line {line}: ")
    assert problem in said


def test_what_is_no_text_is_refused_at_its_line() -> None:
    with pytest.raises(ConfigError, match=r"p.yaml, line 3: this is no UTF-8"):
        read_policy(b"mode: shadow\n\nx: \xff\n", name="p.yaml")


def bomb(levels: int) -> str:
    lines = ["detect:", "  rates:", "    baselines:", "      a0: &a0 {x: [0, 0, 0, 0, 0, 0, 0, 0, 0]}"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"      a{level}: &a{level} {{x: [{aliases}]}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (bomb(9), "aliases written out"),
        ("detect: {rates: {baselines: &a {x: *a}}}", "holds itself"),
        ("[" * 100_000, "nested too deep"),
        ("detect: {rates: {baselines: " + "{a: " * 50 + "1" + "}" * 50 + "}}", "nested deeper"),
        ("# " + "x" * TEXT_BYTES_MAX, "longer than 256 KiB"),
    ],
    ids=["aliases", "itself", "brackets", "depth", "length"],
)
def test_a_hostile_file_is_refused_and_does_not_hang(text: str, problem: str) -> None:
    said = refusal(text)

    assert problem in said
    assert re.match(r"p\.yaml, line \d+: ", said)


def test_a_pipe_and_a_folder_are_no_policies_and_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=str(path)):
            load_policy(path)


# --- the built-in policy, and rescind.yaml ---


def test_the_built_in_text_is_a_policy_and_says_why_of_every_block() -> None:
    assert read(default_text()).rules
    blocks = default_text().split("respond:\n")[1].split("\n\n")
    assert all(block.strip().startswith("#") or 'signal: "*"' in block for block in blocks)


def test_a_rescind_yaml_holds_a_policy_and_its_other_readers_do_not_mind(tmp_path: Path) -> None:
    file = tmp_path / "rescind.yaml"
    file.write_text("store: elsewhere\npolicy:\n  mode: shadow\n  respond:\n  - {signal: budget, then: deny}\n")

    assert load_settings(file).store == tmp_path / "elsewhere"
    assert load_policy(file).mode is Mode.SHADOW
    assert load_policy(file).rules[0].origin == f"{file}, line 5"


def test_settings_know_the_word_policy_where_it_is_misspelt(tmp_path: Path) -> None:
    file = tmp_path / "rescind.yaml"
    file.write_text("polcy: {}\n")

    with pytest.raises(ConfigError, match="did you mean 'policy'"):
        load_settings(file)


def test_a_stop_does_not_read_the_policy(tmp_path: Path) -> None:
    file = tmp_path / "rescind.yaml"
    file.write_text("policy: {detect: {nonsense: 1}}\n")

    assert load_settings(file).source == file
    with pytest.raises(ConfigError):
        load_policy(file)


def test_the_policy_in_force_is_that_of_the_nearest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rescind.yaml").write_text("policy: {mode: shadow}\n")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")

    assert policy_in_force().mode is Mode.SHADOW
    assert policy_in_force(tmp_path / "rescind.yaml").mode is Mode.SHADOW


# --- read again ---


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("detect: {behaviour: {steps_max: 7}}\n")
    return path


def replace(file: Path, text: str) -> None:
    """As an editor does it: another file of the same name."""
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)


def test_a_changed_file_is_in_force_within_a_second_and_looked_at_no_oftener(file: Path) -> None:
    policies = PolicyFile(file)
    before = policies.current(100.0)
    replace(file, "mode: shadow\n")

    assert policies.current() is before
    assert policies.current(100.0 + LOOK_EVERY_S / 2) is before
    assert policies.current(100.0 + LOOK_EVERY_S).mode is Mode.SHADOW


def test_a_file_that_has_not_changed_is_not_read_again(file: Path) -> None:
    policies = PolicyFile(file)
    before = policies.current(0.0)

    assert policies.current(10.0) is before


def test_a_bad_file_leaves_the_policy_in_force_and_says_so_until_it_is_mended(file: Path) -> None:
    policies = PolicyFile(file)
    before = policies.current(0.0)
    replace(file, "mode: shadow\nmoed: x\n")

    assert policies.current(2.0) is before
    assert "line 2" in policies.fault
    assert "stays in force" in policies.fault
    file.unlink()
    assert policies.current(4.0) is before
    assert "cannot be read" in policies.fault
    replace(file, "mode: shadow\n")
    assert policies.current(6.0).mode is Mode.SHADOW
    assert policies.fault == ""


def test_a_guard_does_not_begin_under_a_bad_policy(file: Path) -> None:
    file.write_text("moed: x\n")

    with pytest.raises(ConfigError, match="line 1"):
        PolicyFile(file)


def test_a_detector_whose_limits_are_the_same_goes_on_counting(file: Path) -> None:
    policies = PolicyFile(file)
    before = dict(zip(policies.current(0.0).limits, policies.current(0.0).detectors(), strict=True))
    replace(file, "detect: {behaviour: {steps_max: 8}, blast_radius: {records_per_run: 100}}\nmode: shadow\n")
    after = dict(zip(policies.current(2.0).limits, policies.current(2.0).detectors(), strict=True))

    assert {name for name in before if before[name] is not after[name]} == {"behaviour"}
    # Written out and equal to what was built in: the limits are the same.
    assert policies.current().limits["blast_radius"].written


def test_a_detector_that_was_switched_off_begins_anew_when_it_comes_back(file: Path) -> None:
    policies = PolicyFile(file)
    before = policies.current(0.0).detectors()
    replace(file, "detect: {behaviour: off}\n")
    assert len(policies.current(2.0).detectors()) == len(before) - 1
    replace(file, "detect: {behaviour: {steps_max: 7}}\n")

    again = policies.current(4.0).detectors()
    assert len(again) == len(before)
    assert sum(one is other for one, other in zip(before, again, strict=True)) == len(before) - 1


def test_without_a_file_the_built_in_policy_is_in_force_for_good() -> None:
    policies = PolicyFile(None)

    assert policies.current(0.0) is policies.current(100.0)
    assert policies.path is None


def test_many_threads_may_ask_while_the_file_changes(file: Path) -> None:
    policies = PolicyFile(file)
    seen: list[Policy] = []

    def ask() -> None:
        seen.extend(policies.current(float(moment)) for moment in range(0, 200, 2))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        replace(file, f"detect: {{behaviour: {{steps_max: {number + 1}}}}}\n")
    for thread in threads:
        thread.join()

    assert len(seen) == 400
    assert policies.fault == ""


# --- fuzz ---

RESPONSES = ["deny", "read_only on run", "halted on", "trip", "paused for 5m", "report"]
SYNTAX = [
    "[]",
    "{}",
    "&a x",
    "*a",
    "<<",
    "!!int",
    "- ",
    ": ",
    "\t",
    "'",
    '"',
    "|",
    ">",
    "@",
    "?",
    "---",
    "...",
    "%YAML 2.0",
]
VALUES = ["off", "on", "*", "null", "~", "1e999", "-1", "0x", "2026-13-01", ".nan", "1:30", "="]
ODD = ["\u2028", "\ufeff", "\x00", "é", "\U0001f600"]
WORDS = st.sampled_from([*detector_names(), *(kind.value for kind in SignalKind), *RESPONSES, *SYNTAX, *VALUES, *ODD])
JUNK = st.one_of(WORDS, st.text(max_size=8), st.integers().map(str), st.floats().map(str))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The whole example, the built-in policy or nothing, with pieces cut out, put in and doubled."""
    text = draw(st.sampled_from([WHOLE, default_text(), "policy:\n  " + WHOLE.replace("\n", "\n  "), ""]))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 30)))
        text = text[:start] + draw(st.one_of(JUNK, st.just(text[start:end] * 2), st.just(""))) + text[end:]
    data = text.encode(errors="surrogatepass")
    if draw(st.booleans()):
        place = draw(st.integers(0, len(data)))
        data = data[:place] + draw(st.binary(max_size=3)) + data[place:]
    return data


def told(data: bytes) -> None:
    """The policy is used, or refused with a line that the file has."""
    problem = ""
    try:
        policy = read_policy(data, name="p.yaml")
        assert len(policy.detectors()) <= len(detector_names())
    except ConfigError as error:
        problem = str(error)
    if problem:
        found = re.match(r"p\.yaml, line ([1-9]\d*): \S", problem)
        assert found, problem
        assert int(found[1]) <= len(data.decode(errors="replace").splitlines()) + 1
        assert len(problem) < 3_000


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_whatever_becomes_of_a_policy_it_is_used_or_refused_with_its_line(data: bytes) -> None:
    told(data)


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), WORDS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def trees(draw: st.DrawFn) -> bytes:
    """A policy of the right sections that hold anything."""
    detect = {
        name: draw(
            st.one_of(TREES, st.dictionaries(st.sampled_from(config_type(name).__struct_fields__), TREES, max_size=3))
        )
        for name in draw(st.lists(st.sampled_from(detector_names()), max_size=3, unique=True))
    }
    fields = st.sampled_from(["name", "signal", "severity", "scope", "times", "mode", "then"])
    rules = draw(st.lists(st.dictionaries(fields, TREES, max_size=5), max_size=2))
    sections = {"detect": detect, "respond": rules} | draw(
        st.dictionaries(st.sampled_from(["mode", "fleet", "outage", "require_approval"]), TREES, max_size=2)
    )
    return yaml.safe_dump(sections, allow_unicode=True).encode(errors="surrogatepass")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees())
def test_whatever_the_sections_hold_it_is_used_or_refused_with_its_line(data: bytes) -> None:
    told(data)


def a_baseline(path: Path, *, failed: int = 5) -> None:
    save(Baseline(key=b"k" * 16, rates={"action:shelf.put": Recorded(calls=100, failed=failed)}), path)


def test_a_policy_names_a_baseline_which_stands_relative_to_it_and_what_is_written_comes_first(tmp_path: Path) -> None:
    a_baseline(tmp_path / "learned.json")
    path = tmp_path / "rescind.yaml"
    path.write_text("policy:\n  baseline: learned.json\n  detect:\n    rates: {baselines: {'agent:a': {calls: 9}}}\n")
    policy = load_policy(path)
    rates = next(each for each in policy.detectors() if isinstance(each, RatesDetector))
    assert set(rates.config.baselines) == {"action:shelf.put", "agent:a"}


@pytest.mark.parametrize("content", [None, b"{}", b"\xff"])
def test_a_baseline_that_cannot_be_used_refuses_the_policy_with_its_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "learned.json").write_bytes(content)
    path = tmp_path / "rescind.yaml"
    path.write_text("policy:\n  mode: shadow\n  baseline: learned.json\n")
    with pytest.raises(ConfigError, match=r"line 3: baseline: .*learned\.json"):
        load_policy(path)


def test_a_baseline_that_is_learned_anew_is_taken_up_without_a_restart(tmp_path: Path) -> None:
    a_baseline(tmp_path / "learned.json")
    path = tmp_path / "rescind.yaml"
    path.write_text("policy:\n  baseline: learned.json\n")
    file = PolicyFile(path)
    before = file.current(0.0)
    detectors = before.detectors()
    a_baseline(tmp_path / "learned.json", failed=50)
    after = file.current(10.0)
    assert after is not before
    assert after.baseline is not None
    assert after.baseline.rates["action:shelf.put"].failed == 50
    kept = {type(new).__name__ for new in after.detectors() if any(new is old for old in detectors)}
    assert "BlastDetector" in kept
    assert not kept & {"RatesDetector", "BehaviourDetector"}


def naming(baseline: str) -> str:
    return f"policy:\n  baseline: {baseline}\n"


def failed_of(policy: Policy) -> int:
    assert policy.baseline is not None
    return policy.baseline.rates["action:shelf.put"].failed


def test_an_edit_that_names_another_baseline_is_read_once_and_the_new_one_is_looked_at_from_then_on(file: Path) -> None:
    a_baseline(file.with_name("old.json"))
    a_baseline(file.with_name("other.json"), failed=20)
    file.write_text(naming("old.json"))
    policies = PolicyFile(file)
    replace(file, naming("other.json"))

    after = policies.current(2.0)
    assert failed_of(after) == 20
    assert policies.current(4.0) is after
    a_baseline(file.with_name("old.json"), failed=30)
    assert policies.current(6.0) is after
    a_baseline(file.with_name("other.json"), failed=40)
    assert failed_of(policies.current(8.0)) == 40


@pytest.mark.parametrize("content", [None, b"{}", b"\xff"])
def test_a_baseline_that_is_mended_later_is_taken_up_though_nobody_touches_the_policy(
    file: Path, content: bytes | None
) -> None:
    policies = PolicyFile(file)
    before = policies.current(0.0)
    if content is not None:
        file.with_name("learned.json").write_bytes(content)
    replace(file, naming("learned.json"))

    assert policies.current(2.0) is before
    assert "learned.json" in policies.fault
    a_baseline(file.with_name("learned.json"), failed=50)
    after = policies.current(4.0)
    assert failed_of(after) == 50
    assert policies.fault == ""
    assert policies.current(6.0) is after


def test_while_a_policy_cannot_be_used_the_baseline_of_the_one_in_force_may_go_and_come(file: Path) -> None:
    a_baseline(file.with_name("old.json"))
    file.write_text(naming("old.json"))
    policies = PolicyFile(file)
    before = policies.current(0.0)
    replace(file, naming("missing.json"))
    assert policies.current(2.0) is before

    file.with_name("old.json").unlink()
    assert policies.current(4.0) is before
    assert "missing.json" in policies.fault
    a_baseline(file.with_name("old.json"), failed=20)
    replace(file, naming("old.json"))
    assert failed_of(policies.current(6.0)) == 20
    assert policies.fault == ""


def test_a_baseline_whose_name_no_file_can_have_is_a_fault_and_fails_no_call(file: Path) -> None:
    policies = PolicyFile(file)
    before = policies.current(0.0)
    replace(file, naming(r'"a\0b"'))

    assert policies.current(2.0) is before
    assert "line 2: baseline" in policies.fault
    assert policies.current(4.0) is before
    replace(file, "mode: shadow\n")
    assert policies.current(6.0).mode is Mode.SHADOW
    assert policies.fault == ""


def test_where_a_baseline_is_named_is_told_before_it_is_read(tmp_path: Path) -> None:
    told: list[Path] = []

    def learn(path: Path) -> None:
        told.append(path)
        a_baseline(path)

    policy = read_policy(b"baseline: learned.json", name=str(tmp_path / "p.yaml"), before_reading=learn)

    assert told == [tmp_path / "learned.json"]
    assert failed_of(policy) == 5
    assert policy.baseline_path == str(told[0])


def test_only_what_cannot_be_argued_with_may_start_an_undo_by_itself() -> None:
    policy = read("compensate_on: [blast_radius, lost_identity]")
    assert policy.compensate_on == {SignalKind.BLAST_RADIUS, SignalKind.LOST_IDENTITY}
    assert read("mode: enforce").compensate_on == frozenset()
    assert "p.yaml, line 1" in refusal("compensate_on: [behaviour]")
    assert "'behaviour' never starts an undo by itself; these may: policy_violation" in refusal(
        "compensate_on: [behaviour]"
    )
