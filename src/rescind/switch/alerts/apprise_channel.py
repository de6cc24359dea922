"""Slack, PagerDuty, e-mail and a hundred others, through Apprise: the extra `rescind[alerts]`.

Apprise is imported when the outbox's thread starts: reading its hundred services takes a quarter of a second, which
nobody should pay in the middle of a stop. Its own log is kept to ourselves, since at its finer levels it quotes the
URLs that it calls; what it says of a failure is shown without any part of the channel's URL.
"""

import importlib
import inspect
import logging
import queue
import re
import threading
from typing import Any
from urllib.parse import unquote

from rescind.errors import UsageError
from rescind.switch.alerts.alert import Alert, Severity
from rescind.switch.alerts.channel import Undelivered
from rescind.switch.alerts.text import ELLIPSIS, line_of, without_mentions

_LOGGER = "apprise"
_LINES_MAX = 5
_SECRET_LENGTH_MIN = 3

_KINDS: dict[Severity, str] = {"critical": "failure", "warning": "warning", "info": "info"}

_URL = re.compile(r"([a-z][a-z0-9+.-]{1,31})://\S+", re.IGNORECASE)
_SEPARATORS = re.compile(r"[/:@?&=#,\s]+")


class AppriseChannel:
    """Sends alerts to one service of Apprise, as plain text."""

    def __init__(self, url: str, *, name: str = "") -> None:
        """A channel to the service of an Apprise URL, such as `slack://TokenA/TokenB/TokenC` or `pagerduty://KEY@KEY`.

        Args:
            url: See https://github.com/caronc/apprise/wiki. Whether Apprise understands it shows at `prepare`.
            name: What people call it; the default is the URL's scheme.

        Raises: UsageError, without the URL, if it is none.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise UsageError("an alert's URL is malformed; write SERVICE://…, such as slack://TokenA/TokenB/TokenC")
        self.name = name or match.group(1).lower()
        self._url = url
        self._service: Any = None
        self._left: _Attempt | None = None

    def __repr__(self) -> str:
        return f"AppriseChannel({self.name})"

    def prepare(self) -> None:
        """See `Channel`: imports Apprise, and has it read the URL."""
        if self._service is not None:
            return
        apprise = _apprise()
        with _Overheard() as overheard:
            service = apprise.Apprise.instantiate(self._url, asset=_asset(apprise))
        if service is None:
            said = overheard.said(self._url) or "it knows no such service"
            raise Undelivered(f"Apprise does not understand the URL of this channel: {said}", again=False)
        self._service = apprise.Apprise(asset=_asset(apprise))
        self._service.add(service)

    def send(self, alert: Alert, *, timeout_s: float) -> None:
        """See `Channel`. What Apprise's services count as failed is tried again: they do not say whether that helps."""
        self.prepare()
        attempt, self._left = self._attempt(alert, timeout_s), None
        try:
            problem = attempt.problem(timeout_s)
        except queue.Empty:
            # Apprise bounds single reads only, and some services not even those. The thread ends when they let it;
            # until then it is the only one that this channel leaves behind.
            self._left = attempt
            raise Undelivered(f"no answer within {timeout_s:g} s", again=True) from None
        if problem is not None:
            raise Undelivered(problem, again=True)

    def _attempt(self, alert: Alert, timeout_s: float) -> "_Attempt":
        left = self._left
        if left is not None and left.alert_id == alert.alert_id:
            return left  # it may succeed yet, and a second one would then tell people twice
        if left is not None and left.runs():
            try:
                left.problem(timeout_s)
            except queue.Empty:
                raise Undelivered("an earlier alert still hangs in the service", again=True) from None
        for part in self._service:
            part.socket_connect_timeout = min(part.socket_connect_timeout, timeout_s)
            part.socket_read_timeout = min(part.socket_read_timeout, timeout_s)
        return _Attempt(self._service, alert, self._url)


class _Attempt:
    """One notification, in a thread that nobody has to wait for."""

    def __init__(self, service: Any, alert: Alert, url: str) -> None:
        self.alert_id = alert.alert_id
        self._service, self._alert, self._url = service, alert, url
        self._ended: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # A daemon, so that a hung service does not keep the switch from ending.
        self._thread = threading.Thread(target=self._run, name="rescind-alert-apprise", daemon=True)
        self._thread.start()

    def runs(self) -> bool:
        return self._thread.is_alive()

    def problem(self, timeout_s: float) -> str | None:
        """What went wrong; None if nothing did. Raises: queue.Empty, if that is not known in time."""
        return self._ended.get(timeout=timeout_s)

    def _run(self) -> None:
        with _Overheard() as overheard:
            try:
                delivered = self._service.notify(
                    body=without_mentions(self._alert.body),
                    title=without_mentions(self._alert.title),
                    notify_type=_KINDS[self._alert.severity],
                    body_format="text",
                    interpret_escapes=False,
                )
            except Exception as error:  # noqa: BLE001  # a hundred services, of which any may raise anything
                self._ended.put(f"the service failed with {type(error).__name__}")
                return
        self._ended.put(None if delivered else overheard.said(self._url) or "the service did not take it")


class _Overheard(logging.Handler):
    """What Apprise logs in this thread, at the levels that are for people."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._thread_id = threading.get_ident()
        self._lines: list[str] = []

    def __enter__(self) -> "_Overheard":
        logging.getLogger(_LOGGER).addHandler(self)
        return self

    def __exit__(self, *_error: object) -> None:
        logging.getLogger(_LOGGER).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread_id and len(self._lines) < _LINES_MAX:
            self._lines.append(record.getMessage())

    def said(self, url: str) -> str:
        """All of it in one line, without any part of the URL."""
        return line_of(_without_parts(url, "; ".join(self._lines)), 300)


def _without_parts(url: str, text: str) -> str:
    scheme, _, rest = url.partition("://")
    parts = {part for whole in (rest, unquote(rest)) for part in (whole, *_SEPARATORS.split(whole))}
    secret = (part for part in parts if len(part) >= _SECRET_LENGTH_MIN and part.lower() != scheme.lower())
    for part in sorted(secret, key=len, reverse=True):
        text = text.replace(part, ELLIPSIS)
    return text


def _apprise() -> Any:
    try:
        apprise = importlib.import_module("apprise")
    except ImportError:
        raise Undelivered(
            "this channel needs Apprise, which is not installed; run: pip install 'rescind[alerts]', "
            "then restart the switch",
            again=False,
        ) from None
    log = logging.getLogger(_LOGGER)
    log.propagate = False
    log.setLevel(logging.WARNING)
    # It logs the path of each request when debugged, and of each malformed answer; a path is where Slack has its token.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    return apprise


def _asset(apprise: Any) -> Any:
    known = inspect.signature(apprise.AppriseAsset.__init__).parameters
    # Newer versions would call the service in a pool, whose threads the interpreter waits for at its end.
    inline = {"service_timeout": 0} if "service_timeout" in known else {}
    return apprise.AppriseAsset(async_mode=False, **inline)
