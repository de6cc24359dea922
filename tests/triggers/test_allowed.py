"""What a run may do: actions, tenants, targets, amounts."""

import sys
import threading
from types import FrameType
from typing import Any

import msgspec
import pytest

from builders import a_call, a_run, at_once
from rescind.model.signal import Finding, Severity, SignalKind
from rescind.model.step import RunInfo, Target
from rescind.triggers.allowed import (
    AllowedConfig,
    AllowedDetector,
    AllowedFor,
    AllowedWatch,
    AmountLimit,
    revoked_lease,
)
from rescind.triggers.amounts import add


def a_watch(run: RunInfo | None = None, **fields: Any) -> AllowedWatch:
    watch = AllowedDetector(AllowedConfig(**fields)).watch(run or a_run())
    assert watch is not None
    return watch


def rule_of(finding: Finding | None) -> str:
    return "" if finding is None else finding.rule


def test_an_action_outside_of_the_allowlist_is_found_before_the_call_read_or_write() -> None:
    watch = a_watch(actions=("invoice.*",))

    assert watch.asked(a_call("invoice.void")) is None
    assert rule_of(watch.asked(a_call("customer.delete"))) == "action"
    assert rule_of(watch.asked(a_call("customer.read", writes=False))) == "action"


def test_an_empty_allowlist_allows_nothing() -> None:
    assert rule_of(a_watch(actions=()).asked(a_call("invoice.void"))) == "action"


def test_an_allowlist_of_writes_leaves_reads_alone() -> None:
    watch = a_watch(writes=("invoice.*",))

    assert watch.asked(a_call("customer.read", writes=False)) is None
    assert rule_of(watch.asked(a_call("customer.delete"))) == "action"


def test_a_further_entry_only_takes_away_and_only_from_the_runs_it_is_about() -> None:
    only = (
        AllowedFor(agent="billing-agent", actions=("invoice.*", "payment.*")),
        AllowedFor(agent="billing-agent@2.*", workflow="refunds", actions=("invoice.*",)),
    )
    detector = AllowedDetector(AllowedConfig(tenant_boundary=False, actions=("invoice.*", "mail.*"), only=only))

    def allowed(action: str, **fields: Any) -> bool:
        watch = detector.watch(a_run(**fields))
        return watch is None or watch.asked(a_call(action)) is None

    assert allowed("mail.send", agent_name="mail-agent")
    assert not allowed("mail.send")
    assert not allowed("payment.send")
    assert allowed("invoice.void", workflow="refunds")
    refunds = AllowedDetector(AllowedConfig(tenant_boundary=False, only=only)).watch(a_run(workflow="refunds"))
    assert refunds is not None
    assert rule_of(refunds.asked(a_call("payment.send"))) == "action"


def test_a_run_that_nothing_is_forbidden_to_is_not_watched() -> None:
    assert AllowedDetector(AllowedConfig()).watch(a_run(tenant="")) is None
    assert AllowedDetector(AllowedConfig(tenant_boundary=False)).watch(a_run()) is None


@pytest.mark.parametrize("writes", [True, False])
def test_a_call_on_another_tenants_data_is_critical(writes: bool) -> None:
    finding = a_watch().asked(a_call(tenant="globex", writes=writes))

    assert finding is not None
    assert (finding.kind, finding.rule, finding.severity) == (
        SignalKind.POLICY_VIOLATION,
        "tenant",
        Severity.CRITICAL,
    )
    assert finding.detail == "invoice.status.update on data of tenant globex, in a run of tenant acme"
    assert a_watch().asked(a_call(tenant="acme")) is None
    assert a_watch().asked(a_call()) is None


@pytest.mark.parametrize(
    ("arguments", "outside"),
    [
        ({}, False),
        ({"tenant": "acme"}, False),
        ({"tenant": "globex"}, True),
        ({"tenant": "ACME"}, True),
        ({"tenant": None}, True),
        ({"tenant": ["acme", "acme"]}, False),
        ({"tenant": ["acme", "globex"]}, True),
        ({"filter": {"tenant": "globex"}}, True),
        ({"filter": [{"tenant": "acme"}, {"tenant": "globex"}]}, True),
        ({"filter": "tenant = 'globex'"}, True),
    ],
)
def test_an_argument_that_names_another_tenant_is_outside(arguments: dict[str, Any], outside: bool) -> None:
    watch = a_watch(tenant_arguments=("tenant", "filter.tenant"))

    assert (watch.asked(a_call(arguments=arguments)) is not None) is outside


def test_a_tenant_that_is_a_number_may_be_written_as_one() -> None:
    watch = a_watch(a_run(tenant="1"), tenant_arguments=("tenant",))

    assert watch.asked(a_call(arguments={"tenant": 1})) is None
    assert rule_of(watch.asked(a_call(arguments={"tenant": True}))) == "tenant"


def test_a_write_outside_of_the_targets_is_found_and_so_is_one_that_names_none() -> None:
    watch = a_watch(targets=("erp/invoice/*",))

    assert watch.asked(a_call(target=Target("erp", "invoice", "inv_1"))) is None
    assert rule_of(watch.asked(a_call(target=Target("erp", "customer", "7")))) == "target"
    assert rule_of(watch.asked(a_call(target=None))) == "target"
    assert watch.asked(a_call("customer.read", writes=False, target=Target("erp", "customer", "7"))) is None


@pytest.mark.parametrize("amount", [500.01, -501, "500.01", True, None, "much", float("nan"), {"$redacted": True}])
def test_an_amount_over_the_limit_or_unreadable_is_found(amount: Any) -> None:
    watch = a_watch(amounts={"amount": AmountLimit(call_max=500)})

    assert rule_of(watch.asked(a_call(arguments={"amount": amount}))) == "amount"
    assert watch.asked(a_call(arguments={"amount": "500.00"})) is None


def test_an_action_that_must_have_an_amount_is_found_without_one_and_others_are_not() -> None:
    watch = a_watch(amounts={"amount": AmountLimit(call_max=500, actions=("payment.*",))})

    assert rule_of(watch.asked(a_call("payment.send", arguments={"sum": 900}))) == "amount"
    assert watch.asked(a_call("note.add", arguments={"text": "hello"})) is None
    assert watch.asked(a_call("meter.read", arguments={"amount": 900})) is None


def test_amounts_of_a_run_add_up_to_the_limit_exactly_and_no_further() -> None:
    watch = a_watch(amounts={"amount": AmountLimit(run_max=1)})

    admitted = [watch.asked(a_call(arguments={"amount": 0.1})) is None for _ in range(12)]

    assert admitted == [True] * 10 + [False] * 2


def test_what_was_refused_does_not_count_and_taking_back_makes_no_room() -> None:
    watch = a_watch(amounts={"amount": AmountLimit(run_max=100)})

    assert watch.asked(a_call(arguments={"amount": 60})) is None
    assert rule_of(watch.asked(a_call(arguments={"amount": 60}))) == "amount_per_run"
    assert watch.asked(a_call(arguments={"amount": -40})) is None
    assert rule_of(watch.asked(a_call(arguments={"amount": 1}))) == "amount_per_run"


def test_amounts_that_are_asked_for_at_the_same_time_do_not_share_what_is_left() -> None:
    watch = a_watch(amounts={"amount": AmountLimit(run_max=1_000)})
    admitted: list[int] = []

    def in_thread() -> None:
        admitted.append(sum(watch.asked(a_call(arguments={"amount": 1})) is None for _ in range(400)))

    at_once(in_thread for _ in range(4))

    assert sum(admitted) == 1_000


def test_a_signals_handler_in_the_middle_of_a_sum_neither_hangs_nor_shares_what_is_left() -> None:
    watch = a_watch(amounts={"amount": AmountLimit(run_max=100)})
    rules: list[str] = []

    def ask(amount: int) -> None:
        rules.append(rule_of(watch.asked(a_call(arguments={"amount": amount}))))

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        # Python calls this on its way into `add`, as it calls the handler of a signal that has come just then.
        if event == "call" and frame.f_code is add.__code__:
            sys.setprofile(None)
            ask(60)

    def interrupted() -> None:
        for amount in (60, 40):
            sys.setprofile(interrupt)
            ask(amount)

    thread = threading.Thread(target=interrupted, daemon=True)
    thread.start()
    thread.join(30)

    assert not thread.is_alive()
    # The handler has the first 60, so the 60 that it interrupted are over; its next 60 are too, and the 40 fit.
    assert rules == ["", "amount_per_run", "amount_per_run", ""]


def test_it_is_said_once_of_each_action_and_found_at_each_call() -> None:
    watch = a_watch(actions=("invoice.*",))

    found = [watch.asked(a_call(action)) for action in ("a", "a", "b", "a")]

    assert [finding is not None and finding.again for finding in found] == [False, True, False, True]


def test_a_run_that_makes_up_actions_is_refused_each_and_told_of_a_few_times() -> None:
    watch = a_watch(actions=("invoice.*",))

    found = [watch.asked(a_call(f"made.up.{number}")) for number in range(1_000)]

    assert all(found)
    assert sum(finding is not None and not finding.again for finding in found) == 16


def test_a_revoked_lease_is_a_violation_that_names_its_orders() -> None:
    finding = revoked_lease(a_run(), "invoice.void", order_ids=["ord-1"])

    assert (finding.rule, finding.severity, finding.facts["order_ids"]) == (
        "revoked_lease",
        Severity.CRITICAL,
        ["ord-1"],
    )
    assert str(finding.scope) == "run:run-1"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"actions": ["x", ""]}, "without blanks"),
        ({"actions": [" x"]}, "without blanks"),
        ({"actions": ["x" * 1_001]}, "1 to 1000 characters"),
        ({"targets": ["x"] * 1_001}, "at most 1000"),
        ({"only": [{"agent": ""}]}, "agent holds ''"),
        ({"only": [{}] * 101}, "at most 100"),
        ({"amounts": {"amount": {}}}, "limits nothing"),
        ({"amounts": {"amount": {"call_max": -1}}}, "call_max is -1.* it must be a number from 0"),
        ({"amounts": {"amount": {"call_max": 1e16}}}, "from 0 to 1e\\+15"),
        ({"amounts": {"amount": {"call_max": float("nan")}}}, "from 0"),
        ({"amounts": {"": {"call_max": 1}}}, "amounts holds ''"),
        ({"action": ["x"]}, "unknown field"),
        ({"only": [{"agents": "x"}]}, "unknown field"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert(fields, AllowedConfig)


def test_one_text_instead_of_a_list_is_refused() -> None:
    with pytest.raises(ValueError, match="actions is 'invoice'; it must be a list of texts"):
        AllowedConfig(actions="invoice")  # type: ignore[arg-type]


def test_d6_what_is_only_reported_of_one_call_hides_no_sum_of_the_run() -> None:
    watch = a_watch(amounts={"amount": AmountLimit(call_max=10, run_max=30)})
    found = [watch.asked(a_call(arguments={"amount": 20})) for _ in range(2)]
    assert found[1] is not None
    assert [found[1].rule, *(each.rule for each in found[1].besides)] == ["amount", "amount_per_run"]
