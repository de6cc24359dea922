"""The built-in channel: a signed CloudEvent, POSTed. `docs/alerts.md` shows how a receiver verifies it."""

import email.utils
import http.client
import ssl
from datetime import UTC
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from rescind.clock import Clock, SystemClock, from_us
from rescind.errors import UsageError
from rescind.switch.alerts.alert import Alert
from rescind.switch.alerts.channel import Undelivered
from rescind.switch.alerts.post import Address, Answer, post
from rescind.switch.alerts.signature import keys_of, sign
from rescind.switch.alerts.text import line_of

CONTENT_TYPE = "application/cloudevents+json"

_LATER = frozenset({408, 425, 429})
"""4xx that speak of the moment and not of the request."""

_GONE = 410

_THEIR_OWN_FORMAT = {
    "hooks.slack.com": "slack://TokenA/TokenB/TokenC",
    "discord.com": "discord://WebhookID/WebhookToken",
    "discordapp.com": "discord://WebhookID/WebhookToken",
}
"""Hosts that take only what they define themselves, and refuse a CloudEvent. Apprise knows how to speak to them."""


class WebhookChannel:
    """POSTs alerts to one URL, as CloudEvents 1.0 in JSON, signed by the Standard Webhooks convention."""

    def __init__(
        self, url: str, secret: str, *, name: str = "", clock: Clock | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """A channel to the URL.

        Args:
            url: `https://HOST…`, or `http://HOST…` where nobody else listens.
            secret: `whsec_…`; several, separated by blanks, sign each alert as often.
            name: What people call it; the default is the URL without what could be secret.
            clock: For time stamps and deadlines.
            tls: Whom to believe; by default the system's authorities, or those of the variable SSL_CERT_FILE.

        Raises: UsageError, without the secrets, if URL or secret cannot be used.
        """
        self._address = _address_of(url)
        self._keys = keys_of(secret)
        self.name = name or f"webhook {self._address.origin}"
        self._clock = clock or SystemClock()
        self._tls = tls

    def __repr__(self) -> str:
        return f"WebhookChannel({self.name})"

    def prepare(self) -> None:
        """See `Channel`: reads the authorities."""
        if self._tls is None and self._address.secure:
            self._tls = ssl.create_default_context()

    def send(self, alert: Alert, *, timeout_s: float) -> None:
        """See `Channel`. 2xx is delivered; 410 ends the channel; 408, 425, 429 and 5xx are tried again."""
        self.prepare()
        body = cloud_event(alert)
        timestamp_s = self._clock.now_us() // 1_000_000
        headers = {
            "Content-Type": CONTENT_TYPE,
            "User-Agent": "rescind-switch",
            "webhook-id": alert.alert_id,
            "webhook-timestamp": str(timestamp_s),
            "webhook-signature": sign(self._keys, message_id=alert.alert_id, timestamp_s=timestamp_s, body=body),
        }
        try:
            answer = post(self._address, body, headers, timeout_s=timeout_s, clock=self._clock, tls=self._tls)
        except (OSError, http.client.HTTPException) as error:
            # Not chained: an exception of the library may quote what it was given.
            raise Undelivered(_problem(error, timeout_s), again=True) from None
        self._judge(answer)

    def _judge(self, answer: Answer) -> None:
        status = answer.status
        if 200 <= status < 300:
            return
        said = f"the receiver answered {_status(status)}"
        if status == _GONE:
            remedy = (
                "nothing more is sent to it; take it out of the switch's alerts, or restart the switch to try again"
            )
            raise Undelivered(f"{said}: {remedy}", again=False, gone=True)
        if status in _LATER or status >= 500:
            after_s = _seconds(answer.retry_after, self._clock)
            asks = "" if after_s is None else f", and asks to be left alone for {after_s:.0f} s"
            raise Undelivered(said + asks, again=True, after_s=after_s)
        if 300 <= status < 400:
            raise Undelivered(f"{said}; redirects are not followed, so give the switch the final URL", again=False)
        raise Undelivered(f"{said} and will not take this alert; it was not sent again", again=False)


def cloud_event(alert: Alert) -> bytes:
    """The alert as a CloudEvent 1.0 in structured mode. The same bytes at every attempt."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": alert.alert_id,
        "source": alert.source or f"/rescind/switch/{quote(alert.switch_id, safe='', errors='backslashreplace')}",
        "type": f"dev.rescind.{alert.kind}.v1",
        "subject": alert.subject,
        "time": alert.at.astimezone(UTC),
        "datacontenttype": "application/json",
        "data": {"severity": alert.severity, "title": alert.title, "body": alert.body, **alert.data},
    }
    return msgspec.json.encode(event)


def _address_of(url: str) -> Address:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as the look-up will; it refuses empty and overlong parts
    except ValueError:
        raise UsageError("an alert's webhook URL is malformed; write https://HOST[:PORT]/PATH") from None
    secure = parts.scheme == "https"
    address = Address(
        secure=secure,
        host=host,
        port=port or (443 if secure else 80),
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError("an alert's webhook URL is malformed; write https://HOST[:PORT]/PATH, in ASCII and no blanks")
    if "@" in parts.netloc:
        raise UsageError(
            f"the webhook URL of {address.origin} holds a user or a password; leave them out: "
            "receivers know the switch by the signature"
        )
    if host in _THEIR_OWN_FORMAT:
        raise UsageError(f"{host} refuses CloudEvents; write {_THEIR_OWN_FORMAT[host]}, which goes through Apprise")
    return address


def _problem(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not to be trusted: {line_of(error.verify_message, 200)}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {line_of(error.reason or 'the connection was cut', 200)}"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it closed the connection without an answer"
    if isinstance(error, OSError):
        return f"it cannot be reached: {line_of(error.strerror or type(error).__name__, 200)}"
    return "its answer is not HTTP"


def _status(status: int) -> str:
    known = http.client.responses.get(status)
    return f"{status} {known}" if known else str(status)


def _seconds(retry_after: str, clock: Clock) -> float | None:
    """The seconds of a Retry-After, at least 0; None if there is none that can be understood."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        until = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - from_us(clock.now_us())).total_seconds())
