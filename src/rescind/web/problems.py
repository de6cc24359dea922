"""What is wrong with a request, as a value: it becomes a problem document (RFC 9457) at the edge."""

from http import HTTPStatus

import msgspec

from rescind.errors import RescindError


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457: what is wrong with a request, where, and how to mend it. `application/problem+json`."""

    title: str
    status: int
    detail: str = ""
    type: str = "about:blank"
    instance: str = ""


class Refused(RescindError):
    """A request is refused, and nothing was stored. `status` is the HTTP status, the text says how to mend it."""

    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None, allow: str = "") -> None:
        """A refusal.

        Args:
            status: The HTTP status.
            detail: What is wrong, and how to mend it.
            retry_after_s: When asking again may help, if it may.
            allow: Of a 405: the methods that are known here.
        """
        super().__init__(detail)
        self.status, self.retry_after_s, self.allow = status, retry_after_s, allow

    @property
    def headers(self) -> dict[str, str]:
        """What goes with the document."""
        headers = {"retry-after": str(self.retry_after_s)} if self.retry_after_s is not None else {}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        if self.allow:
            headers["allow"] = self.allow
        return headers

    @property
    def problem(self) -> Problem:
        """The document."""
        return Problem(title=HTTPStatus(self.status).phrase, status=self.status, detail=str(self))
