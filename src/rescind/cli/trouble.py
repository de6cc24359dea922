"""What to do about a switch that did not do what it was asked: one line for each kind of trouble."""

from collections.abc import Iterable
from typing import Any

from rescind.cli.safe import safe, short
from rescind.config import TOKEN_VARIABLE, URL_VARIABLE
from rescind.errors import RescindError
from rescind.switch.client.asking import Reply
from rescind.switch.client.http import Trouble

_DETAIL_WIDTH = 300
"""Of what a switch says of itself: enough for a sentence and a remedy, and no screen full of somebody's page."""

_REMEDIES = {
    Trouble.DOWN: "look whether the switch runs, and whether this machine may reach it",
    Trouble.NO_HOST: f"look for a typing error in switch.urls of rescind.yaml, in {URL_VARIABLE} or after --switch",
    Trouble.SLOW: "it may be overloaded or hang; `rescind status` asks it again",
    Trouble.UNTRUSTED: "name the certificate of its authority as switch.ca_file in rescind.yaml, or with SSL_CERT_FILE",
    Trouble.NO_TLS: "write http:// in its URL, or start it with a certificate",
    Trouble.NO_SWITCH: f"something else listens there; look at its URL in switch.urls, {URL_VARIABLE} or --switch",
    Trouble.NO_TOKEN: f"name a token of this switch with --token-file or {TOKEN_VARIABLE}",
    Trouble.WRONG_ROLE: f"name another token with --token-file or {TOKEN_VARIABLE}",
    Trouble.REFUSED: "",
}


class SwitchesFailed(RescindError):
    """No switch did what it was asked. The message says of each one why, and what to do.

    `answer` is what a program is told besides, in the object of the error.
    """

    def __init__(self, message: str, answer: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.answer = answer or {}


def trouble_line(reply: Reply[Any]) -> str:
    """What is wrong with one switch, and the remedy; safe to print."""
    assert reply.trouble is not None
    remedy = _REMEDIES[reply.trouble]
    detail = short(reply.detail, _DETAIL_WIDTH)
    said = f"refused: {detail}" if reply.is_refusal else detail
    return f"{safe(reply.url)}: {said}" + (f"; {remedy}" if remedy else "")


def failed(what: str, replies: Iterable[Reply[Any]], *, then: str = "") -> SwitchesFailed:
    """The error for a request that no switch served.

    Args:
        what: The first line, such as `no switch has this order`.
        replies: Of every switch.
        then: The last line: what else to do.
    """
    lines = [what, *(f"  {trouble_line(reply)}" for reply in replies), *filter(None, [then])]
    return SwitchesFailed("\n".join(lines))


def reply_as_json(reply: Reply[Any]) -> dict[str, Any]:
    """What is wrong with one switch, as it stands in answers."""
    state = "refused" if reply.is_refusal else "unreachable"
    return {
        "url": reply.url,
        "state": state,
        "trouble": reply.trouble,
        "detail": reply.detail,
        "status": reply.status or None,
    }
