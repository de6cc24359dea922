"""Verdicts on the command line: to switches with a token, and without any into the journal of the store."""

import json
import shlex
from pathlib import Path
from types import ModuleType

import pytest

import rescind as product
from cli.conftest import Rescind
from rescind.cli.judging import VERDICT_AGENT
from rescind.containment.incident import list_incidents
from rescind.journal.port import Query
from rescind.journal.sqlite import SqliteJournal
from rescind.model.entry import Signalled
from rescind.model.step import RunInfo
from switch.client.scripted import Asked, Script, answer, problem, saying, serving
from switch.http.service import running

BAD = ("--bad", "--reason", "the invoice has another amount")


def signalled(store: Path) -> list[tuple[RunInfo, Signalled]]:
    journal = SqliteJournal(store / "journal.db")
    found = [(entry.run, entry.event) for entry in journal.entries(Query()) if isinstance(entry.event, Signalled)]
    journal.close()
    return found


# --- without a switch ---


@pytest.mark.usefixtures("shop")
class TestInTheStore:
    def test_a_bad_step_holds_its_run_as_the_policy_says_and_is_in_the_run_s_own_chain(
        self, rescind: Rescind, folder: Path
    ) -> None:
        done = rescind("verdict", "run-1/2", *BAD, "--source", "amounts", "--fact", "expected=12", "--fact", "why=odd")

        assert done.status == 0
        assert "bad (high): run-1/2" in done.out
        ((run, event),) = signalled(folder / "store")
        assert run.run_id == "run-1"
        assert (event.signal.kind, event.signal.rule, event.signal.source) == ("verdict", "bad", "amounts")
        assert event.signal.facts == {"expected": 12, "why": "odd", "holds": False}
        assert event.responses == ("read_only on run", "incident")
        (order,) = rescind("status", "--json").json["orders"]
        assert (order["scope"], order["level"], order["cause"]) == ("run:run-1", "read_only", event.signal.signal_id)
        (lift,) = [line.partition("lift    ")[2] for line in done.out.splitlines() if "lift    rescind" in line]
        assert rescind(*shlex.split(lift)[1:]).status == 0

    def test_the_run_s_guard_obeys_it(self, rescind: Rescind, shop: ModuleType) -> None:
        with shop.guard.run("shop-agent@1.2.0", run_id="run-2", tenant="acme"):
            shop.set_price("a", 5)
            rescind("verdict", "run-2", *BAD)
            with pytest.raises(product.CallDenied):
                shop.set_price("a", 6)

    def test_it_opens_an_incident_that_names_the_order(self, rescind: Rescind, folder: Path) -> None:
        answered = rescind("verdict", "run-1", "--severity", "critical", "--reason", "nonsense", "--json").json

        journal = SqliteJournal(folder / "store" / "journal.db")
        (incident,) = list_incidents(journal)
        journal.close()
        assert incident.incident_id == answered["incident_id"]
        assert incident.scope == "agent:shop-agent@1.2.0"
        assert {line.ref for line in incident.of("order")} == {order["order_id"] for order in answered["orders"]}
        assert answered["orders"][0]["measure"] == "quarantine"

    def test_the_same_id_twice_is_one_verdict(self, rescind: Rescind, folder: Path) -> None:
        for what in ("run-1", "agent:shop-agent"):
            first = rescind("verdict", what, *BAD, "--id", "check-17", "--json").json
            again = rescind("verdict", what, *BAD, "--id", "check-17", "--json").json
            assert (first["known_before"], again["known_before"]) == (False, True)
        assert len(signalled(folder / "store")) == 2
        assert len(rescind("status", "--json").json["orders"]) == 1

    def test_a_critical_verdict_on_a_scope_holds_its_writes_and_has_a_run_of_its_own(
        self, rescind: Rescind, folder: Path
    ) -> None:
        rescind("verdict", "agent:shop-agent", "--severity", "critical", "--reason", "12 of 20 are wrong")

        ((run, _),) = signalled(folder / "store")
        assert run.agent_name == VERDICT_AGENT
        (order,) = rescind("status", "--json").json["orders"]
        assert (order["scope"], order["level"], order["trigger"]) == ("agent:shop-agent", "read_only", "verdict")

    def test_a_good_one_and_a_mild_one_are_recorded_and_hold_nobody(self, rescind: Rescind, folder: Path) -> None:
        assert "good: run-1" in rescind("verdict", "run-1", "--good", "--reason", "all totals agree").out
        rescind("verdict", "agent:shop-agent", "--severity", "warning", "--reason", "hm")
        assert len(signalled(folder / "store")) == 2
        assert rescind("status", "--json").json["orders"] == []

    def test_a_policy_of_one_s_own_decides(self, rescind: Rescind, folder: Path) -> None:
        rule = "{signal: verdict, then: paused on agent}"
        (folder / "rescind.yaml").write_text(f"store: store\npolicy:\n  respond:\n    - {rule}\n")
        rescind("verdict", "run-1", *BAD)
        (order,) = rescind("status", "--json").json["orders"]
        assert (order["scope"], order["level"]) == ("agent:shop-agent", "paused")

    def test_a_rule_is_one_word_up_to_the_length_that_a_switch_takes(self, rescind: Rescind, folder: Path) -> None:
        assert rescind("verdict", "run-1", *BAD, "--rule", "x" * 64).status == 0
        assert signalled(folder / "store")[0][1].signal.rule == "x" * 64

    def test_in_shadow_it_says_what_it_would_have_done(self, rescind: Rescind, folder: Path) -> None:
        (folder / "rescind.yaml").write_text("store: store\npolicy:\n  mode: shadow\n")
        done = rescind("verdict", "run-1", *BAD)
        assert "would have: read_only on run, incident" in done.out
        assert rescind("status", "--json").json["orders"] == []
        assert signalled(folder / "store")[0][1].shadow

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("run-9", *BAD), "did you mean 'run-1'"),
            (("run-1/99", *BAD), "no step 'run-1/99'"),
            (("agnet:x", *BAD), "did you mean 'agent'"),
            (("/2", *BAD), "the run is empty"),
            (("run-1", "--reason", "x"), "say --bad or --good"),
            (("run-1", "--bad", "--reason", " "), "--reason says what was checked"),
            (("run-1", "--bad"), "--reason"),
            (("run-1", "--bad", "--good", "--reason", "x"), "contradict each other"),
            (("run-1", "--good", "--severity", "high", "--reason", "x"), "contradict each other"),
            (("run-1", "--bad", "--severity", "info", "--reason", "x"), "contradict each other"),
            (("run-1", "--severity", "awful", "--reason", "x"), "unknown severity 'awful'"),
            (("run-1", *BAD, "--fact", "odd"), "write NAME=VALUE"),
            (("run-1", *BAD, "--fact", f"log={'x' * 9_000}"), "8,192 bytes"),
            (("run-1", *BAD, "--rule", "Two Words"), "no word of lower-case"),
            (("run-1", *BAD, "--rule", "x" * 65), "at most 64 of them"),
            (("run-1", *BAD, "--id", "../x"), "--id is of letters"),
            (("run-1", *BAD, "--id", "x" * 101), "at most 100 of them"),
        ],
    )
    def test_a_slip_is_refused_with_a_remedy_and_records_nothing(
        self, rescind: Rescind, folder: Path, words: tuple[str, ...], says: str
    ) -> None:
        refused = rescind("verdict", *words)
        assert refused.status == 2
        assert says in refused.err
        assert signalled(folder / "store") == []


# --- to switches ---


def taking(asked: Asked) -> bytes:
    doc = json.loads(asked[3])
    said = {"switch_id": "sw_1", "signal_id": doc["verdict_id"], "placed": ["ord_p1"], "outcome": "held \x1b[2J"}
    return answer(201, said)


@pytest.mark.usefixtures("folder")
def test_every_switch_is_told_and_says_what_became_of_it(rescind: Rescind) -> None:
    with serving(saying(taking)) as one, serving(saying(taking)) as two:
        done = rescind("verdict", "run-1/7", *BAD, "--switch", one.url, "--switch", two.url, "--id", "check-1")
        assert done.status == 0
        for switch in (one, two):
            (body,) = switch.bodies()
            assert (body["verdict_id"], body["run_id"], body["step_id"], body["severity"]) == (
                "check-1",
                "run-1",
                "7",
                "high",
            )
        assert done.out.count("rescind resume ord_p1") == 1
        assert "\x1b" not in done.out


REFUSING: Script = saying(lambda _: problem(403, "a token of role viewer may not do this; it takes verifier"))


@pytest.mark.usefixtures("folder")
def test_a_switch_that_has_it_not_is_named_and_without_any_it_is_a_failure(rescind: Rescind) -> None:
    with serving(saying(taking)) as good, serving(REFUSING) as bad:
        done = rescind("verdict", "agent:a", *BAD, "--switch", good.url, "--switch", bad.url)
        assert done.status == 0
        assert f"lacks   {bad.url}" in done.out
        failed = rescind("verdict", "agent:a", *BAD, "--switch", bad.url)
    assert failed.status == 1
    assert "no switch has this verdict" in failed.err
    assert "it takes verifier" in failed.err


@pytest.mark.usefixtures("folder")
def test_a_verifier_s_token_signs_it_at_a_real_switch_and_the_scope_is_held(rescind: Rescind, tmp_path: Path) -> None:
    with running(tmp_path, roles=("verifier", "viewer")) as switch:
        (tmp_path / "token").write_text(switch.tokens["verifier"])
        words = ("--switch", switch.url, "--token-file", str(tmp_path / "token"))
        told = rescind("verdict", "agent:a", "--severity", "critical", "--reason", "12 of 20", *words, "--json").json

        (noticed,) = switch.look("/v1/signals")["signals"]
        assert noticed["signal"]["source"] == "verifier-name"
        (order,) = switch.look("/v1/orders")["orders"]
        assert told["placed"] == [order["order_id"]]
        assert (order["scope"], order["level"], order["actor"]) == ("agent:a", "read_only", "policy")
        (line,) = switch.look("/v1/audit?limit=1000")[-1:]
        assert (line["what"], line["person"]) == ("order.placed", "verifier-name")
