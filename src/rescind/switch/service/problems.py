"""What is wrong with a request, as a value: it becomes a problem document (RFC 9457) at the edge."""

from http import HTTPStatus

from rescind.errors import RescindError
from rescind.switch.wire import Problem


class Refused(RescindError):
    """A request is refused, and nothing was stored. `status` is the HTTP status, the text says how to mend it."""

    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.retry_after_s = status, retry_after_s

    @property
    def problem(self) -> Problem:
        """The document."""
        return Problem(title=HTTPStatus(self.status).phrase, status=self.status, detail=str(self))
