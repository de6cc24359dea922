"""The port of channels: somewhere that an alert can be sent."""

from typing import Protocol

from rescind.errors import RescindError
from rescind.switch.alerts.alert import Alert


class Undelivered(RescindError):
    """An alert was not taken. The message is for people and holds no secret of the channel.

    Attributes:
        again: Whether trying again may help.
        after_s: How long the receiver asked to be left alone; None if it did not say.
        gone: The receiver wants nothing any more, ever.
    """

    def __init__(self, problem: str, *, again: bool, after_s: float | None = None, gone: bool = False) -> None:
        super().__init__(problem)
        self.again, self.after_s, self.gone = again, after_s, gone


class Channel(Protocol):
    """Somewhere that an alert can be sent. One thread calls it, one call at a time.

    CN1. `name` and every message of an `Undelivered` can be shown to anybody: no secret of the channel's URL.
    CN2. `send` that returns has delivered. Sending the same alert again is recognisable by its `alert_id`.
    CN3. `send` ends within `timeout_s`, plus the time that the machine takes to look up a name.
    """

    @property
    def name(self) -> str:
        """What people call it: `webhook https://hooks.example`, `slack`."""
        ...

    def prepare(self) -> None:
        """Do now what is slow the first time, and find out what is missing.

        Raises: Undelivered, if nothing could be sent.
        """
        ...

    def send(self, alert: Alert, *, timeout_s: float) -> None:
        """Deliver the alert.

        Raises: Undelivered.
        """
        ...
