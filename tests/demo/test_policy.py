"""The desk's policy: whom it stops, whom it leaves alone, and that it is the one the guards follow."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from rescind.demo.bystanders import GLOBEX_AGENT, REPORTING_AGENT
from rescind.demo.desk import open_desk
from rescind.demo.folder import demo_folder, forget_switch, name_switch
from rescind.demo.mailroom import ROGUE
from rescind.demo.policy import RULE, policy_text
from rescind.model.scope import Scope
from rescind.model.signal import Severity, Signal, SignalKind
from rescind.model.step import RunInfo
from rescind.triggers.policy import Decision
from rescind.triggers.policy_file import load_policy, read_policy


def decided(agent: str, *, shadow: bool = False) -> Decision:
    """What the policy does about a run of this agent that goes too fast."""
    name, version = agent.split("@")
    signal = Signal(
        signal_id="sig_1",
        kind=SignalKind.BLAST_RADIUS,
        rule="records_per_minute",
        severity=Severity.HIGH,
        scope=Scope.parse("run:run_1"),
        detail="one record more",
        noticed_at=datetime(2026, 9, 11, tzinfo=UTC),
    )
    run = RunInfo(run_id="run_1", agent_name=name, agent_version=version, tenant="acme", workflow="inbox")
    policy = read_policy(policy_text(shadow=shadow).encode(), name="rescind.yaml")
    return policy.decide(signal, run, "customer.charge")


@pytest.mark.parametrize("agent", [ROGUE, "subscriptions-agent@2.4.1", "somebody-else@0.1.0"])
def test_every_release_that_is_new_starts_slowly_and_none_is_named(agent: str) -> None:
    decision = decided(agent)
    assert (decision.rule_name, decision.words) == (RULE, ("paused on agent@version", "incident"))
    assert not decision.shadow
    assert agent not in policy_text(shadow=False)


@pytest.mark.parametrize("agent", [GLOBEX_AGENT, REPORTING_AGENT])
def test_who_has_proven_itself_is_reported_and_goes_on(agent: str) -> None:
    assert decided(agent).words == ("report",)


def test_in_shadow_nothing_is_done_and_everything_is_said() -> None:
    decision = decided(ROGUE, shadow=True)
    assert decision.shadow
    assert decision.rule_name == RULE


def test_the_policy_outlives_the_switch_that_is_named_beside_it(tmp_path: Path) -> None:
    with demo_folder(tmp_path) as folder:
        config = folder / "rescind.yaml"
        rules = [rule.name for rule in load_policy(config).rules]
        name_switch(folder, "http://127.0.0.1:7443")
        assert "\nswitch:\n" in config.read_text()
        assert [rule.name for rule in load_policy(config).rules] == rules
        forget_switch(folder)
        assert "\nswitch:\n" not in config.read_text()
        assert "--port 7443" in config.read_text()
        assert [rule.name for rule in load_policy(config).rules] == rules
        assert RULE in rules


def test_the_desk_follows_the_policy_of_its_folder(tmp_path: Path) -> None:
    with demo_folder(tmp_path, shadow=True) as folder:
        desk = open_desk(folder)
        assert desk.guard.watching is not None
        assert desk.guard.watching.policy == load_policy(folder / "rescind.yaml")
    assert open_desk(tmp_path / "elsewhere").guard.watching is None
