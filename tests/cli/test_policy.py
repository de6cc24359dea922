"""`rescind policy`: what it shows, tries and explains, as a person sees it."""

import json
import sqlite3
from pathlib import Path

import pytest
import yaml

import rescind as library
from cli.conftest import Rescind
from rescind.model.signal import SignalKind
from rescind.triggers.policy import Policy
from rescind.triggers.policy_file import load_policy

LIMITED = """\
store: store
policy:
  detect:
    blast_radius: {records_per_run: 5, records_per_minute: 1000}
    policy_violation: {actions: ["note.*"]}
"""

TRIED = """\
detect:
  blast_radius: {records_per_run: 3, records_per_minute: 1000}
respond:
  - name: too-wide
    signal: blast_radius
    then: [read_only on agent@version, incident]
"""

SHADOW = TRIED.replace("    then:", "    mode: shadow\n    then:")


@pytest.fixture
def office(folder: Path) -> Path:
    """A folder whose guard has watched three runs: two small ones, and one that was contained at its sixth record."""
    (folder / "rescind.yaml").write_text(LIMITED)
    guard = library.Guard.from_config()

    @guard.write("note.put", target=lambda name: ("notes", "note", name), irreversible="a test")
    def put(name: str) -> None:
        pass

    @guard.write("mail.send", irreversible="a test")
    def send(text: str) -> None:
        pass

    for run_id, names in (("run-small", "abcd"), ("run-large", "abcdefgh"), ("run-other", "ab")):
        with guard.run("clerk@1.0" if run_id != "run-other" else "poet@2.0", run_id=run_id):
            for name in names:
                try:
                    put(name)
                except library.CallDenied:
                    break
            if run_id == "run-other":
                with pytest.raises(library.CallDenied):
                    send("no action of its policy")
    guard.close()
    return folder


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


# --- test ---


def test_a_policy_is_tried_on_what_has_happened(rescind: Rescind, office: Path) -> None:
    answer = rescind("policy", "test", write("p.yaml", TRIED), "--against", "store", "--json")

    assert answer.status == 0
    tried = answer.json
    assert (tried["runs"], tried["writes"], tried["runs_noticed"], tried["runs_contained"]) == (3, 11, 2, 2)
    # The fourth record of run-small stops its agent's whole version: the rest of run-large would not have been written.
    assert tried["writes_refused"] == 1 + 5
    (rule,) = tried["rules"]
    assert (rule["rule"], rule["origin"], rule["signals"], rule["runs"]) == ("too-wide", "p.yaml, line 4", 2, 2)
    assert rule["responses"] == ["read_only on agent@version", "incident"]
    assert (rule["shadow"], rule["recoverable"]) == (False, False)
    first = rule["examples"][0]
    assert (first["run_id"], first["step_id"], first["signal"]) == ("run-small", "4", "blast_radius.records_per_run")
    assert [example["already_refused"] for example in rule["examples"]] == [False, True]


def test_people_read_the_same_and_what_a_journal_cannot_show(rescind: Rescind, office: Path) -> None:
    answer = rescind("policy", "test", write("p.yaml", TRIED))

    assert answer.status == 0
    assert "p.yaml over 3 runs with 11 writes:" in answer.out
    assert "2 would have been noticed, 2 contained (66.7 %); 6 writes refused (54.5 %)" in answer.out
    assert "too-wide  2 signals in 2 runs" in answer.out
    assert "contains: read_only on agent@version, incident  (p.yaml, line 4)" in answer.out
    assert "run-small/4" in answer.out
    assert "no reads" in answer.err


def test_in_shadow_nothing_would_have_been_refused(rescind: Rescind, office: Path) -> None:
    answer = rescind("policy", "test", write("p.yaml", SHADOW), "--json").json

    assert (answer["runs_noticed"], answer["runs_contained"], answer["writes_refused"]) == (2, 0, 0)
    assert "in shadow, would read_only" in rescind("policy", "test", "p.yaml").out


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        (("--agent", "poet"), 1),
        (("--agent", "clerk@1.0"), 2),
        (("--until", "2020-01-01T00:00:00Z"), 0),
        (("--since", "2020-01-01T00:00:00Z"), 3),
    ],
)
def test_the_history_can_be_narrowed(rescind: Rescind, office: Path, options: tuple[str, ...], runs: int) -> None:
    assert rescind("policy", "test", write("p.yaml", TRIED), *options, "--json").json["runs"] == runs


def test_the_history_may_be_a_journal_anywhere(rescind: Rescind, office: Path) -> None:
    (office / "store" / "journal.db").rename(office / "copy.db")

    answer = rescind("policy", "test", write("p.yaml", TRIED), "--against", "copy.db", "--json")
    assert answer.json["runs"] == 3


def test_trying_writes_nothing(rescind: Rescind, office: Path) -> None:
    def entries() -> int:
        connection = sqlite3.connect(office / "store" / "journal.db")
        try:
            return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
        finally:
            connection.close()

    before = entries()
    rescind("policy", "test", write("p.yaml", TRIED))
    assert entries() == before


def test_without_a_file_it_is_the_policy_in_force_that_is_tried(rescind: Rescind, office: Path) -> None:
    (office / "rescind.yaml").write_text(LIMITED.replace("records_per_run: 5", "records_per_run: 4"))
    answer = rescind("policy", "test", "--json").json

    assert answer["source"] == "rescind.yaml"
    assert [rule["rule"] for rule in answer["rules"]] == ["built-in blast_radius"]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (("test", "p.yaml", "--against", "nowhere"), "nowhere"),
        (("test", "p.yaml", "--against", "empty.db"), "empty"),
        (("test", "p.yaml", "--against", "p.yaml"), "p.yaml"),
        (("test", "p.yaml", "--since", "never"), "--since"),
        (("test", "none.yaml"), "none.yaml cannot be read"),
        (("test", "bad.yaml"), "bad.yaml, line 2: unknown key 'detect.blast_radus'; did you mean 'blast_radius'"),
        (("check", "bad.yaml"), "bad.yaml, line 2"),
        (("show", "bad.yaml"), "bad.yaml, line 2"),
        (("explain", "run-smell"), "did you mean 'run-small'"),
        (("explain", "run-small/99"), "has no step '99'"),
    ],
)
def test_what_cannot_be_used_is_refused_with_status_2(
    rescind: Rescind, office: Path, argv: tuple[str, ...], problem: str
) -> None:
    write("p.yaml", TRIED)
    write("bad.yaml", "detect:\n  blast_radus: off\n")
    write("empty.db", "")

    answer = rescind("policy", *argv)
    assert (answer.status, answer.out) == (2, "")
    assert problem in answer.err
    assert json.loads(rescind("policy", *argv, "--json").out)["error"]["message"]


def test_a_hostile_name_reaches_no_terminal(rescind: Rescind, folder: Path) -> None:
    (folder / "rescind.yaml").write_text(LIMITED)
    guard = library.Guard.from_config()

    @guard.write("note.put", target=lambda name: ("notes", "note", name), irreversible="a test")
    def put(name: str) -> None:
        pass

    with guard.run("clerk@1.0", run_id="run-1"):
        for number in range(5):
            put(f"\x1b[2J{number}")
        with pytest.raises(library.CallDenied):
            put("\x1b[2Jx")
    guard.close()

    for argv in (("test", write("p.yaml", TRIED)), ("explain", "run-1"), ("show",)):
        answer = rescind("policy", *argv)
        assert answer.status == 0
        assert "\x1b" not in answer.out + answer.err


# --- show and check ---


def test_what_is_shown_is_a_policy_that_decides_the_same(rescind: Rescind, folder: Path) -> None:
    write(
        "p.yaml",
        TRIED + "  - {signal: '*', severity: high, scope: 'agent:é\U0001f600', times: 2, then: paused for 90s}\n"
        "require_approval: ['pay.*']\noutage: {runs_min: 4}\n"
        "fleet: {stop_share_pct: 12.5}\n",
    )
    shown = rescind("policy", "show", "p.yaml").out
    Path("shown.yaml").write_text(shown)

    def meaning(policy: Policy) -> object:
        rules = [(r.name, r.signal, r.severity, r.scope, r.times, r.mode, r.then) for r in policy.rules]
        return rules, policy.limits, policy.mode, policy.require_approval, policy.fleet, policy.outage

    assert meaning(load_policy("shown.yaml")) == meaning(load_policy("p.yaml"))
    assert "# p.yaml, line 4" in shown


def test_the_built_in_policy_is_shown_to_its_last_line(rescind: Rescind, folder: Path) -> None:
    shown = rescind("policy", "show").out

    assert yaml.safe_load(shown)["respond"] is None
    for kind in SignalKind:
        assert f"# - {{signal: {kind.value}" in shown
    assert "    # records_per_run: 100" in shown


def test_the_whole_policy_is_shown_as_json_with_each_origin(rescind: Rescind, office: Path) -> None:
    answer = rescind("policy", "show", "--json").json

    assert answer["detect"]["blast_radius"]["records_per_run"] == 5
    assert answer["written"]["blast_radius"] == ["records_per_minute", "records_per_run"]
    assert answer["respond"][0]["origin"].startswith("built-in policy, line ")


def test_a_good_policy_is_said_to_be_one_and_what_has_no_effect_is_told(rescind: Rescind, folder: Path) -> None:
    write(
        "p.yaml",
        "mode: shadow\ndetect: {behaviour: off}\nrespond:\n"
        "- {signal: budget, then: deny}\n- {signal: budget.max_usd, severity: high, then: report}\n"
        "- {signal: '*', then: report}\nfleet: {evidence_guards: 5}\n",
    )
    answer = rescind("policy", "check", "p.yaml", "--json")

    assert answer.status == 0
    remarks = " | ".join(answer.json["remarks"])
    assert "mode is shadow" in remarks
    assert "p.yaml, line 5: never reached, since the rule of p.yaml, line 4" in remarks
    assert "behaviour is off" in remarks
    assert "before all built-in rules" in remarks
    assert "fleet is for switches" in remarks
    assert "3 rules, own limits for behaviour" in rescind("policy", "check", "p.yaml").out


def test_a_rule_that_acts_on_limits_nobody_has_written_is_told(rescind: Rescind, folder: Path) -> None:
    def remarks(policy: str) -> list[str]:
        write("p.yaml", policy)
        found: list[str] = rescind("policy", "check", "p.yaml", "--json").json["remarks"]
        return found

    limit = "detect: {blast_radius: {records_per_run: 25}}\nrespond:\n"
    (told,) = remarks(limit + "- {signal: blast_radius, then: paused}\n")

    assert "p.yaml, line 3: acts on built-in limits too" in told
    assert "records_per_minute, tenants_per_run" in told
    assert "records_per_run" not in told
    for fine in ("blast_radius.records_per_run, then: paused", "blast_radius, mode: if_limited, then: paused"):
        assert remarks(f"{limit}- {{signal: {fine}}}\n") == []
    assert remarks("respond:\n- {signal: blast_radius, then: report}\n- {signal: budget, then: deny}\n") == []


def test_a_narrow_rule_before_a_wide_one_is_no_mistake(rescind: Rescind, folder: Path) -> None:
    write(
        "p.yaml",
        "respond:\n- {signal: budget, scope: 'agent:a', then: report}\n- {signal: budget, times: 2, then: report}\n"
        "- {signal: budget, then: deny}\n",
    )
    assert rescind("policy", "check", "p.yaml", "--json").json["remarks"] == []


# --- explain ---


def test_a_refusal_is_explained_by_rule_signal_order_and_what_lifts_it(rescind: Rescind, office: Path) -> None:
    (refusal,) = rescind("policy", "explain", "run-large", "--json").json["refusals"]

    assert (refusal["action"], refusal["level"]) == ("note.put", "read_only")
    assert refusal["rule"] == "built-in blast_radius"
    assert refusal["origin"].startswith("built-in policy, line ")
    (signal,) = refusal["signals"]
    assert signal["facts"] == {"limit": 5, "asked": 6}
    (order,) = refusal["orders"]
    assert refusal["lifted_by"] == [f'rescind resume {order["order_id"]} --reason "…"']

    text = rescind("policy", "explain", "run-large").out
    assert "note.put was refused at level read_only" in text
    assert "limit=5, asked=6" in text
    assert "rule      built-in blast_radius" in text
    assert f"lifted by rescind resume {order['order_id']}" in text


def test_the_way_out_that_is_shown_works_and_is_then_not_shown_any_more(rescind: Rescind, office: Path) -> None:
    (way,) = rescind("policy", "explain", "run-large", "--json").json["refusals"][0]["lifted_by"]

    assert rescind(*way.replace("'…'", "checked").split()[1:]).status == 0
    (way,) = rescind("policy", "explain", "run-large", "--json").json["refusals"][0]["lifted_by"]
    assert "has been lifted" in way


def test_a_single_call_that_was_refused_needs_no_lift(rescind: Rescind, office: Path) -> None:
    (refusal,) = rescind("policy", "explain", "run-other", "--json").json["refusals"]

    assert (refusal["action"], refusal["orders"]) == ("mail.send", [])
    assert refusal["rule"] == "built-in policy_violation #3"
    assert refusal["signals"][0]["signal"] == "policy_violation.action"
    assert "the next one is judged anew" in refusal["lifted_by"][0]


def test_what_a_process_holds_for_a_while_needs_no_lift_either(rescind: Rescind, folder: Path) -> None:
    (folder / "rescind.yaml").write_text(
        LIMITED + "  respond: [{name: slow-down, signal: blast_radius, then: read_only for 1h}]\n"
    )
    guard = library.Guard.from_config()

    @guard.write("note.put", target=lambda name: ("notes", "note", name), irreversible="a test")
    def put(name: str) -> None:
        pass

    with guard.run("clerk@1.0", run_id="run-1"):
        for name in "abcde":
            put(name)
        with pytest.raises(library.CallDenied):
            put("f")
    guard.close()

    (refusal,) = rescind("policy", "explain", "run-1", "--json").json["refusals"]
    assert (refusal["level"], refusal["rule"], refusal["orders"]) == ("read_only", "slow-down", [])
    assert refusal["signals"][0]["signal"] == "blast_radius.records_per_run"
    assert "itself, in time" in refusal["lifted_by"][0]
    assert "read_only on run for 1h" in refusal["lifted_by"][0]


def test_a_step_is_explained_by_what_was_refused_after_it(rescind: Rescind, office: Path) -> None:
    assert len(rescind("policy", "explain", "run-large/5", "--json").json["refusals"]) == 1
    assert rescind("policy", "explain", "run-large/1", "--json").json["refusals"] == []
    assert "nothing of run-large/1 was refused" in rescind("policy", "explain", "run-large/1").out


def test_a_refusal_by_a_persons_order_names_no_rule(rescind: Rescind, office: Path) -> None:
    guard = library.Guard.from_config()

    @guard.write("note.put", irreversible="a test")
    def put(name: str) -> None:
        pass

    with guard.run("poet@2.0", run_id="run-poem"):
        put("a")
        rescind("stop", "agent:poet", "--level", "read_only", "--reason", "the poems are bad")
        with pytest.raises(library.CallDenied):
            put("b")
    guard.close()

    (refusal,) = rescind("policy", "explain", "run-poem", "--json").json["refusals"]
    assert (refusal["rule"], refusal["origin"], refusal["signals"]) == ("", "", [])
    assert refusal["orders"][0]["reason"] == "the poems are bad"
    assert "rescind resume" in refusal["lifted_by"][0]


def test_a_run_may_be_named_by_its_beginning_and_one_without_refusals_says_so(rescind: Rescind, office: Path) -> None:
    assert rescind("policy", "explain", "run-s", "--json").json == {
        "run_id": "run-small",
        "step_id": "",
        "refusals": [],
    }


def test_a_policy_that_cannot_be_read_now_does_not_stand_in_the_way_of_an_explanation(
    rescind: Rescind, office: Path
) -> None:
    (office / "rescind.yaml").write_text("store: store\npolicy: {moed: x}\n")

    (refusal,) = rescind("policy", "explain", "run-large", "--json").json["refusals"]
    assert refusal["origin"] == "of a policy that cannot be read now"


def test_orders_that_are_gone_are_an_error_and_not_no_order(rescind: Rescind, office: Path) -> None:
    for rest in (office / "store").glob("orders.db*"):
        rest.unlink()

    explained = rescind("policy", "explain", "run-large")

    assert explained.status == 1
    assert "orders may be lost" in explained.err
    assert "lifted by" not in explained.out
