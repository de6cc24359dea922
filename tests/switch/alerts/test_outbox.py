"""Laws A1 to A4 of the outbox: never in the way, bounded, and open about what it lost."""

import functools
import itertools
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from builders import NOON, an_order, at_once
from rescind.clock import SystemClock
from rescind.switch.alerts import (
    Alert,
    Alerts,
    Channel,
    ChannelHealth,
    Retries,
    Undelivered,
    WebhookChannel,
    alert_of_order,
    new_webhook_secret,
)
from rescind.testing import ManualClock
from switch.alerts.receivers import (
    PATIENCE_S,
    Held,
    Listed,
    a_bad_receiver,
    a_receiver,
    eventually,
    hangs,
    trickles,
    unavailable,
)

SECRET = new_webhook_secret()
IMPATIENT = Retries(attempts_max=3, within_s=60, first_s=0.01, longest_s=0.05, timeout_s=0.2)


def an_alert(number: int = 1) -> Alert:
    return alert_of_order(an_order(f"ord-{number}"), "sw-1")


@contextmanager
def sending(*channels: Channel, retries: Retries = IMPATIENT, queue_max: int = 1_000) -> Iterator[Alerts]:
    alerts = Alerts(channels, clock=SystemClock(), retries=retries, queue_max=queue_max)
    alerts.start()
    try:
        yield alerts
    finally:
        alerts.close(PATIENCE_S)


@contextmanager
def sending_by_hand(channel: Channel, retries: Retries, jitter: float = 0.0) -> Iterator[tuple[Alerts, ManualClock]]:
    """A clock that back-offs move, and no jitter unless told."""
    clock = ManualClock()
    alerts = Alerts([channel], clock=clock, retries=retries, pause=clock.sleep, jitter=lambda: jitter)
    alerts.start()
    try:
        yield alerts, clock
    finally:
        alerts.close(PATIENCE_S)


def idle(alerts: Alerts) -> bool:
    return eventually(lambda: all(health.pending == 0 for health in alerts.health()))


def test_alerts_arrive_in_the_order_in_which_they_were_put() -> None:  # A4
    channel = Listed(unavailable(), None, unavailable())
    with sending(channel) as alerts:
        for number in range(20):
            alerts.put(an_alert(number))
        assert idle(alerts)
        assert alerts.health() == (
            ChannelHealth(name="listed", delivered=20, last_problem="the receiver answered 503"),
        )

    assert channel.sent == [an_alert(number) for number in range(20)]


def test_what_was_put_before_the_start_is_sent_after_it() -> None:
    channel = Listed()
    alerts = Alerts([channel], clock=SystemClock())
    alerts.put(an_alert())
    assert alerts.health()[0].pending == 1

    alerts.start()
    assert idle(alerts)
    alerts.close(PATIENCE_S)
    assert channel.sent == [an_alert()]


def test_back_off_doubles_up_to_a_bound_and_ends() -> None:
    channel = Listed(*(unavailable() for _ in range(6)))
    retries = Retries(attempts_max=6, within_s=1000, first_s=1, longest_s=5)
    with sending_by_hand(channel, retries) as (alerts, clock):
        alerts.put(an_alert())
        assert idle(alerts)
        (health,) = alerts.health()

    assert clock.slept_s == [1, 2, 4, 5, 5]
    assert (health.given_up, health.delivered, channel.attempts) == (1, 0, 6)
    assert health.failing_since == NOON


def test_jitter_shortens_a_back_off_by_up_to_half() -> None:
    with sending_by_hand(Listed(unavailable()), Retries(first_s=8), jitter=1.0) as (alerts, clock):
        alerts.put(an_alert())
        assert idle(alerts)

    assert clock.slept_s == [4]


def test_a_receiver_is_left_alone_for_as_long_as_it_asks() -> None:
    channel = Listed(unavailable(after_s=30), unavailable(after_s=0.1))
    with sending_by_hand(channel, Retries(first_s=1)) as (alerts, clock):
        alerts.put(an_alert())
        assert idle(alerts)

    assert clock.slept_s == [30, 2]
    assert channel.sent == [an_alert()]


def test_a_receiver_that_asks_for_more_time_than_there_is_gets_no_second_attempt() -> None:
    channel = Listed(unavailable(after_s=3600))
    with sending_by_hand(channel, Retries(within_s=600)) as (alerts, clock):
        alerts.put(an_alert(1))
        alerts.put(an_alert(2))
        assert idle(alerts)
        assert alerts.health()[0].given_up == 1

    assert clock.slept_s == []
    assert channel.sent == [an_alert(2)]  # which has had its one attempt


def test_time_runs_from_the_put_so_a_backlog_does_not_wait_behind_old_alerts_for_ever() -> None:
    channel = Listed(*(unavailable() for _ in range(100)))
    retries = Retries(attempts_max=10, within_s=60, first_s=20, longest_s=20)
    with sending_by_hand(channel, retries) as (alerts, clock):
        for number in range(5):
            alerts.put(an_alert(number))
        assert idle(alerts)
        assert alerts.health()[0].given_up == 5

    assert sum(clock.slept_s) == 60
    assert channel.attempts == 4 + 4  # the first was tried four times, and each of the others once


def test_what_will_not_help_is_not_tried_again() -> None:
    channel = Listed(Undelivered("the receiver answered 400", again=False))
    with sending(channel) as alerts:
        alerts.put(an_alert(1))
        alerts.put(an_alert(2))
        assert idle(alerts)
        (health,) = alerts.health()

    assert (health.given_up, health.delivered, channel.attempts) == (1, 1, 2)
    assert (health.failing_since, health.last_problem) == (None, "the receiver answered 400")


def test_a_mistake_in_a_channel_costs_one_alert_and_not_the_channel() -> None:
    channel = Listed(KeyError("hunter2"))
    with sending(channel) as alerts:
        alerts.put(an_alert(1))
        alerts.put(an_alert(2))
        assert idle(alerts)
        (health,) = alerts.health()

    assert (health.given_up, health.delivered) == (1, 1)
    assert health.last_problem == "the channel failed with KeyError"


def test_a_channel_that_cannot_be_prepared_says_so_before_the_first_alert() -> None:
    class Unprepared(Listed):
        def prepare(self) -> None:
            raise Undelivered("this channel needs Apprise", again=False)

    with sending(Unprepared()) as alerts:
        assert eventually(lambda: alerts.health()[0].failing_since is not None)
        assert alerts.health()[0].last_problem == "this channel needs Apprise"


def test_gone_ends_the_channel_for_good() -> None:
    with a_receiver((410, {})) as receiver:
        with sending(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET)) as alerts:
            alerts.put(an_alert(1))
            assert eventually(lambda: alerts.health()[0].gone)
            alerts.put(an_alert(2))
            assert idle(alerts)
            (health,) = alerts.health()
        assert len(receiver.requests) == 1

    assert (health.given_up, health.dropped) == (1, 1)
    assert "410" in health.last_problem


def test_a_webhook_that_fails_once_is_delivered_to_once() -> None:
    with a_receiver((500, {}), (200, {})) as receiver:
        with sending(WebhookChannel(f"http://127.0.0.1:{receiver.port}/", SECRET)) as alerts:
            alerts.put(an_alert())
            assert eventually(lambda: alerts.health()[0].delivered == 1)
            assert alerts.health()[0].failing_since is None
        assert len(receiver.requests) == 2


def test_a_full_queue_drops_the_oldest_and_counts_them() -> None:  # A3
    channel = Held()
    with sending(channel, queue_max=10) as alerts:
        alerts.put(an_alert(0))
        assert channel.hanging.wait(PATIENCE_S)
        for number in range(1, 101):
            alerts.put(an_alert(number))
        (health,) = alerts.health()
        assert (health.dropped, health.pending) == (90, 11)
        channel.let_go.set()
        assert idle(alerts)

    assert channel.sent == [an_alert(0), *(an_alert(number) for number in range(91, 101))]


@pytest.mark.parametrize("behave", [hangs, trickles])
def test_a_channel_that_hangs_delays_no_other(behave: object) -> None:  # A2
    patient = Retries(attempts_max=3, timeout_s=60)
    with a_bad_receiver(behave) as bad, a_receiver() as good:  # type: ignore[arg-type]  # one of the two above
        channels = [WebhookChannel(f"http://127.0.0.1:{port}/", SECRET) for port in (bad.port, good.port)]
        alerts = Alerts(channels, clock=SystemClock(), retries=patient)
        alerts.start()
        alerts.put(an_alert(0))
        assert eventually(lambda: bad.accepted == 1)
        for number in range(1, 6):
            alerts.put(an_alert(number))
        assert eventually(lambda: alerts.health()[1].delivered == 6)
        hung = alerts.health()[0]
        alerts.close(0.1)

    assert (hung.delivered, hung.pending) == (0, 6)


def seconds_to_put(alerts: Alerts, count: int) -> float:
    alert = an_alert()
    begun = time.perf_counter()
    for _ in range(count):
        alerts.put(alert)
    return time.perf_counter() - begun


def test_putting_thousands_takes_no_longer_while_a_channel_hangs() -> None:  # A1
    held, well = Held(), Listed()
    with sending(held) as hung, sending(well) as healthy:
        hung.put(an_alert())
        assert held.hanging.wait(PATIENCE_S)
        # Interleaved, so that a busy machine slows both.
        rounds = [(seconds_to_put(hung, 1_000), seconds_to_put(healthy, 1_000)) for _ in range(5)]
        held.let_go.set()

    assert min(hung_s for hung_s, _ in rounds) < 10 * min(healthy_s for _, healthy_s in rounds) + 0.1


def test_many_threads_may_put_at_once_and_nothing_is_lost() -> None:
    channel = Listed()
    with sending(channel, queue_max=10_000) as alerts:

        def put_from(begin: int) -> None:
            for number in range(begin, begin + 200):
                alerts.put(an_alert(number))

        at_once(functools.partial(put_from, begin) for begin in range(0, 1_600, 200))
        assert idle(alerts)

    assert {alert.alert_id for alert in channel.sent} == {an_alert(n).alert_id for n in range(1_600)}


def test_closing_interrupts_a_back_off_with_one_last_attempt() -> None:
    channel = Listed(unavailable())
    with sending(channel, retries=Retries(first_s=3600, longest_s=3600, within_s=9999)) as alerts:
        alerts.put(an_alert())
        assert eventually(lambda: channel.attempts == 1)

    assert channel.sent == [an_alert()]


def test_closing_waits_no_longer_than_told_and_says_what_it_left(caplog: pytest.LogCaptureFixture) -> None:
    channel = Held()
    alerts = Alerts([channel], clock=SystemClock())
    alerts.start()
    for number in range(3):
        alerts.put(an_alert(number))
    assert channel.hanging.wait(PATIENCE_S)
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING):
        alerts.close(0.05)
    took_s = time.monotonic() - begun
    alerts.put(an_alert(4))
    (health,) = alerts.health()
    alerts.close(0.05)
    channel.let_go.set()

    assert took_s < 5
    assert (health.dropped, health.pending) == (3, 1)
    assert "2 were dropped" in caplog.text
    assert "while one is being sent" in caplog.text


def test_closing_tries_what_waits_even_if_it_was_never_tried() -> None:
    channel = Held()
    alerts = Alerts([channel], clock=SystemClock())
    alerts.start()
    for number in range(3):
        alerts.put(an_alert(number))
    assert channel.hanging.wait(PATIENCE_S)
    closing = threading.Thread(target=alerts.close, args=(PATIENCE_S,))
    closing.start()
    channel.let_go.set()
    closing.join()

    assert channel.sent == [an_alert(number) for number in range(3)]


def test_an_outbox_without_channels_does_nothing_and_has_no_threads() -> None:
    before = threading.active_count()
    alerts = Alerts([], clock=SystemClock())
    alerts.start()
    alerts.put(an_alert())
    assert threading.active_count() == before
    assert alerts.health() == ()
    alerts.close(1)


def test_a_failure_is_logged_when_it_begins_and_when_it_ends_and_not_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    channel = Listed(unavailable(), unavailable())
    with caplog.at_level(logging.INFO), sending(channel) as alerts:
        alerts.put(an_alert())
        assert idle(alerts)

    ours = [record.getMessage() for record in caplog.records if record.name.startswith("rescind")]
    assert ours == [
        "alerts by listed fail: the receiver answered 503",
        "alerts by listed are delivered again",
    ]


def test_no_secret_of_a_url_appears_in_repr_health_or_log(caplog: pytest.LogCaptureFixture) -> None:
    statuses = itertools.cycle([400, 503, 302, 410])
    with caplog.at_level(logging.DEBUG), a_receiver(*((next(statuses), {}) for _ in range(4))) as receiver:
        url = f"http://127.0.0.1:{receiver.port}/services/hunter2?token=hunter2"
        channel = WebhookChannel(url, SECRET)
        with sending(channel) as alerts:
            for number in range(4):
                alerts.put(an_alert(number))
            assert eventually(lambda: alerts.health()[0].gone)
            shown = f"{channel!r} {channel.name} {alerts.health()} {caplog.text}"
        threads = " ".join(thread.name for thread in threading.enumerate())

    assert "410" in shown
    for secret in ("hunter2", SECRET, SECRET.removeprefix("whsec_")):
        assert secret not in shown
        assert secret not in threads
