"""What orders, silence and failures mean to a program. Pure."""

import signal

import pytest

from builders import a_run, an_order
from rescind.model.level import Level
from rescind.switch.supervisor.restart import DELAY_S_MAX, FAILURES_MAX, delay_s, exit_status, is_failure
from rescind.switch.supervisor.ruling import ends_on_silence, rule
from rescind.switch.wire import Ended

SUBJECT = a_run("run-1", workflow="refunds", ancestors=("run-0",)).subject  # billing-agent@2.4.0 for acme


@pytest.mark.parametrize(
    "scope",
    [
        "everything",
        "tenant:acme",
        "agent:billing-agent",
        "agent:billing-agent@2.4.0",
        "workflow:refunds",
        "run:run-1",
        "tree:run-1",
        "tree:run-0",
        "tenant:acme+agent:billing-agent",
    ],
)
def test_an_order_that_covers_the_program_ends_it(scope: str) -> None:
    assert [order.order_id for order in rule([an_order("o", scope)], SUBJECT, act_at=Level.HALTED).ending] == ["o"]


@pytest.mark.parametrize(
    "scope", ["tenant:globex", "agent:billing-agent@2.4.1", "run:run-0", "tenant:globex+agent:billing-agent"]
)
def test_an_order_for_a_neighbour_means_nothing(scope: str) -> None:
    ruling = rule([an_order("o", scope)], SUBJECT, act_at=Level.SUPERVISED)
    assert (ruling.ending, ruling.unheeded, ruling.level) == ((), (), Level.NORMAL)


def test_a_milder_order_is_unheeded_and_holds_nobody() -> None:
    ruling = rule([an_order("o", level=Level.PAUSED)], SUBJECT, act_at=Level.HALTED)
    assert [order.order_id for order in ruling.unheeded] == ["o"]
    assert (ruling.ending, ruling.level) == ((), Level.NORMAL)


def test_an_owner_may_have_it_ended_at_a_milder_level() -> None:
    orders = [an_order("mild", level=Level.READ_ONLY), an_order("hard", level=Level.HALTED)]
    ruling = rule(orders, SUBJECT, act_at=Level.READ_ONLY)
    assert [order.order_id for order in ruling.ending] == ["hard", "mild"]
    assert ruling.level is Level.HALTED


def test_an_order_for_single_actions_ends_nobody_and_is_unheeded() -> None:
    ruling = rule([an_order("o", "agent:billing-agent+action:mail.send")], SUBJECT, act_at=Level.HALTED)
    assert [order.order_id for order in ruling.unheeded] == ["o"]
    assert not ruling.ending


def test_an_order_that_several_switches_have_counts_once() -> None:
    assert len(rule([an_order(), an_order()], SUBJECT, act_at=Level.HALTED).ending) == 1


@pytest.mark.parametrize(
    ("choice", "on_silence", "act_at", "ends"),
    [
        ("as-configured", Level.READ_ONLY, Level.HALTED, False),
        ("as-configured", Level.HALTED, Level.HALTED, True),
        ("as-configured", Level.READ_ONLY, Level.READ_ONLY, True),
        ("kill", Level.READ_ONLY, Level.HALTED, True),
        ("keep", Level.HALTED, Level.HALTED, False),
    ],
)
def test_silence_is_an_order_at_the_configured_level(choice: str, on_silence: Level, act_at: Level, ends: bool) -> None:
    assert ends_on_silence(choice, on_silence=on_silence, act_at=act_at) == ends


@pytest.mark.parametrize(
    ("how", "status", "fails"),
    [
        ("exited", 1, True),
        ("exited", -signal.SIGSEGV, True),
        ("exited", 0, False),
        ("exited", -signal.SIGINT, False),  # Ctrl-C
        ("exited", 128 + signal.SIGINT, False),  # Ctrl-C, said by a shell
        ("terminated", 1, False),
        ("killed", -signal.SIGKILL, False),
    ],
)
def test_only_a_program_that_ended_badly_by_itself_has_failed(how: str, status: int, fails: bool) -> None:
    assert is_failure(Ended(pid=1, how=how, status=status)) == fails


def test_back_off_doubles_up_to_a_minute_and_gives_up_in_the_end() -> None:
    delays = [delay_s(failures) for failures in range(1, FAILURES_MAX + 1)]
    assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
    assert delays[-2:] == [DELAY_S_MAX, None]


@pytest.mark.parametrize(("status", "handed_on"), [(0, 0), (7, 7), (-signal.SIGKILL, 137), (-signal.SIGTERM, 143)])
def test_the_exit_status_is_what_a_shell_would_say(status: int, handed_on: int) -> None:
    assert exit_status(status) == handed_on


def test_an_order_for_others_under_the_id_of_a_stop_takes_nothing_of_it_away() -> None:
    stop, mild = an_order("o", "everything"), an_order("o", "agent:billing-agent", Level.SUPERVISED)
    assert rule([stop, mild], SUBJECT, act_at=Level.HALTED).ending == (stop,)
