"""Everything else goes through Apprise: as plain text, within its time, and without a word about the URL."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from builders import an_order
from rescind.clock import SystemClock
from rescind.errors import UsageError
from rescind.switch.alerts import (
    Alert,
    Alerts,
    AppriseChannel,
    Retries,
    Undelivered,
    WebhookChannel,
    alert_of_order,
    channels_of,
    new_webhook_secret,
)
from switch.alerts.receivers import PATIENCE_S, a_bad_receiver, a_receiver, eventually, hangs, read_request, trickles

# PGP for Python imports it, and Apprise that.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

ALERT = alert_of_order(an_order("ord-1", "agent:billing-agent"), "sw-1")


@pytest.fixture(autouse=True)
def _apprise_logs_as_before() -> Iterator[None]:
    """The channel quiets the loggers of a whole process; other tests are in the same one."""
    loggers = [logging.getLogger(name) for name in ("apprise", "urllib3")]
    before = [(logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (level, propagate) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate


def another_alert(**fields: object) -> Alert:
    order = msgspec.structs.replace(an_order("ord-2"), **fields)
    return alert_of_order(order, "sw-1")


def refused(channel: AppriseChannel, alert: Alert = ALERT, timeout_s: float = 5.0) -> Undelivered:
    with pytest.raises(Undelivered) as caught:
        channel.send(alert, timeout_s=timeout_s)
    return caught.value


def test_an_alert_reaches_a_service_of_apprise() -> None:
    with a_receiver((200, {})) as receiver:
        AppriseChannel(f"json://127.0.0.1:{receiver.port}/").send(ALERT, timeout_s=10)
    message = json.loads(receiver.requests[0][1])

    assert (message["title"], message["message"], message["type"]) == (ALERT.title, ALERT.body, "failure")


def test_text_is_not_markup_and_calls_nobody_up() -> None:
    reason = "<b>*bold*</b> \\n & <!channel> @everyone\nby: nobody"
    with a_receiver((200, {})) as receiver:
        AppriseChannel(f"json://127.0.0.1:{receiver.port}/").send(another_alert(reason=reason), timeout_s=10)
        html = f"json://127.0.0.1:{receiver.port}/?format=html"
        AppriseChannel(html).send(another_alert(reason="<b>bold</b>"), timeout_s=10)
    plain, marked_up = (json.loads(body)["message"] for _, body in receiver.requests)

    assert plain.splitlines()[0] == r"reason: <b>*bold*</b> \n & < !channel> @ everyone\nby: nobody"
    assert "<b>" not in marked_up.replace("&lt;b&gt;", "")


def test_what_the_service_says_is_passed_on_without_the_url(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), a_receiver((403, {})) as receiver:
        channel = AppriseChannel(f"json://user:hunter2@127.0.0.1:{receiver.port}/tokens/hunter2?-x=hunter2")
        problem = refused(channel)
        closed = AppriseChannel(f"json://user:hunter2@127.0.0.1:{receiver.port}/tokens/hunter2")
    unreachable = refused(closed)

    assert "403" in str(problem)
    assert problem.again
    assert "127.0.0.1" not in f"{problem} {unreachable}"
    assert "hunter2" not in f"{problem} {unreachable} {channel!r} {channel.name} {caplog.text}"


@pytest.mark.parametrize("url", ["nonsense://hunter2", "slack://hunter2", "pagerduty://hunter2"])
def test_a_url_that_apprise_does_not_understand_is_found_out_before_the_first_alert(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    channel = AppriseChannel(url)
    with caplog.at_level(logging.DEBUG), pytest.raises(Undelivered, match="does not understand") as caught:
        channel.prepare()

    assert not caught.value.again
    assert "hunter2" not in f"{caught.value} {caplog.text}"


def test_a_service_that_hangs_is_left_in_time_and_not_called_twice_for_one_alert() -> None:
    with a_bad_receiver(trickles) as receiver:
        channel = AppriseChannel(f"json://127.0.0.1:{receiver.port}/")
        channel.prepare()
        begun = time.monotonic()
        first, second = refused(channel, timeout_s=0.3), refused(channel, timeout_s=0.3)
        other = refused(channel, another_alert(), timeout_s=0.3)
        took_s = time.monotonic() - begun
        assert receiver.accepted == 1

    assert str(first) == str(second) == "no answer within 0.3 s"
    assert str(other) == "an earlier alert still hangs in the service"
    assert took_s < 8


def test_a_service_that_answers_late_has_delivered() -> None:
    enough = threading.Event()

    def late(connection: socket.socket, _closed: threading.Event) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Slow: ")
        while not enough.wait(0.02):
            connection.sendall(b"x")
        connection.sendall(b"\r\n\r\n")

    with a_bad_receiver(late) as receiver:
        channel = AppriseChannel(f"json://127.0.0.1:{receiver.port}/")
        assert refused(channel, timeout_s=0.3).again
        enough.set()
        channel.send(ALERT, timeout_s=10)
        assert receiver.accepted == 1


def test_a_hung_service_delays_neither_a_webhook_nor_the_end_of_the_switch() -> None:
    with a_bad_receiver(hangs) as slack, a_receiver() as good:
        urls = [f"json://127.0.0.1:{slack.port}/", f"http://127.0.0.1:{good.port}/"]
        channels = channels_of(urls, new_webhook_secret())
        alerts = Alerts(channels, clock=SystemClock(), retries=Retries(timeout_s=60))
        alerts.start()
        alerts.put(ALERT)
        assert eventually(lambda: slack.accepted == 1)
        assert eventually(lambda: alerts.health()[1].delivered == 1)
        begun = time.monotonic()
        alerts.close(0.1)
        assert time.monotonic() - begun < 5
        assert alerts.health()[0].pending == 1


WITHOUT_APPRISE = """
import sys
sys.modules["apprise"] = None  # what an import finds that is blocked
from rescind.clock import SystemClock
from rescind.switch.alerts import Alerts, channels_of
import time
alerts = Alerts(channels_of(["slack://a/b/c"]), clock=SystemClock())
alerts.start()
while alerts.health()[0].failing_since is None:
    time.sleep(0.01)
print(alerts.health()[0].last_problem)
alerts.close(1)
"""


def test_without_the_extra_the_channel_names_it() -> None:
    command = [sys.executable, "-c", WITHOUT_APPRISE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S * 3)

    assert "pip install 'rescind[alerts]'" in done.stdout


def test_nothing_of_apprise_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from rescind.switch.alerts import channels_of; channels_of(['slack://a/b/c']);"
        "print([name for name in ('apprise', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)

    assert done.stdout.strip() == "[]"


def test_urls_become_channels_with_names_that_tell_them_apart_and_tell_nothing_else() -> None:
    urls = [
        "https://hooks.example/hunter2",
        "slack://hunter2/b/c",
        "https://hooks.example/other?hunter2",
        "SLACK://hunter2/b/d",
        "mailtos://alice:hunter2@example.com",
    ]
    channels = channels_of(urls, new_webhook_secret())

    assert [channel.name for channel in channels] == [
        "webhook https://hooks.example",
        "slack",
        "webhook https://hooks.example #2",
        "slack #2",
        "mailtos",
    ]
    assert isinstance(channels[0], WebhookChannel)
    assert isinstance(channels[1], AppriseChannel)
    assert "hunter2" not in repr(channels)


@pytest.mark.parametrize(
    "url", ["", "hunter2", "slack:/hunter2", "slack://", "slack://a hunter2", "https://u:hunter2@h/"]
)
def test_a_bad_url_is_named_by_its_place(url: str) -> None:
    with pytest.raises(UsageError, match=r"alert URL 2: .*(write|leave them out)") as caught:
        channels_of(["slack://a/b/c", url], new_webhook_secret())
    assert "hunter2" not in str(caught.value)


def test_a_webhook_without_a_secret_says_how_to_make_one() -> None:
    with pytest.raises(UsageError, match="make one with: python -c"):
        channels_of(["https://hooks.example/"])
