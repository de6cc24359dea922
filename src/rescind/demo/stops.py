"""The two ways in which the agent is stopped: by a rule of the desk's policy, or by a person who noticed."""

from typing import Protocol

from rescind.demo.damage import Damage
from rescind.demo.lookout import Fired, Lookout
from rescind.demo.mailroom import ROGUE
from rescind.demo.oncall import OnCall, Stopped
from rescind.demo.opening import WRONGED
from rescind.demo.policy import EXCERPT, RULE
from rescind.demo.screen import QUIET, Screen
from rescind.demo.world import World
from rescind.errors import RescindError
from rescind.model.signal import SignalKind

REASON = "reactivates customers who want to cancel"

COMPLAINTS = 24
"""Customers who write again after an operator's stop. The agent tries to answer them, too."""


class NobodyStopped(RescindError):
    """The agent has gone through all its mail, and no rule has stopped it."""


class Stop(Protocol):
    """How the agent is stopped.

    Attributes:
        by: As the verdict says it.
        complaints: How many customers write again after it, so that the agent has something left to do.
    """

    by: str
    complaints: int

    def introduce(self) -> None:
        """What there is to say in the morning."""
        ...

    def has_come(self, mails: int) -> bool:
        """Whether the agent, which has sent so many mails, has been stopped, or is to be stopped now. Asked often."""
        ...

    def tell(self, damage: Damage) -> Stopped:
        """The act of the stop. The damage is what there is when it begins."""
        ...

    def aftermath(self, damage: Damage) -> str:
        """What the stopped agent does now: it was seen to try again."""
        ...

    def insight(self, world: World) -> str:
        """One line for the end; empty if there is nothing to say."""
        ...


class ByTrigger:
    """A rule of the policy stops it, in the processes where it runs. Nobody has noticed anything yet."""

    by, complaints = "trigger", 0

    def __init__(self, screen: Screen, lookout: Lookout) -> None:
        self._screen, self._lookout = screen, lookout
        self._fired: Fired | None = None

    def introduce(self) -> None:
        """See `Stop`."""
        self._screen.say(
            "Their guards follow the policy in rescind.yaml. It knows of no bug; it says of every release that has not "
            "proven itself:"
        )
        self._screen.lines(EXCERPT, style=QUIET)

    def has_come(self, mails: int) -> bool:
        """See `Stop`. Raises: NobodyStopped."""
        self._fired = self._fired or self._lookout.look(ROGUE)
        if self._fired is None and mails >= WRONGED:
            raise NobodyStopped(f"{ROGUE} has wronged all {mails} customers, and no rule of the policy has stopped it")
        return self._fired is not None

    def tell(self, damage: Damage) -> Stopped:
        """See `Stop`."""
        fired = self._fired
        assert fired is not None
        screen, signal = self._screen, fired.signal
        screen.act("Stop: by the policy, before anybody has noticed")
        where = f"process {fired.where.pid}" if fired.where is not None else signal.source
        screen.say(f"In {where}, the rule {fired.order.trigger} has fired:")
        screen.bad(signal.name, note=signal.detail)
        screen.say(
            f"That record was not touched. The release is paused wherever it runs, after {len(damage.customers)} of "
            f"{WRONGED} customers: counted in the database, not by the rule."
        )
        screen.command("rescind status")
        order = fired.order
        screen.lines(f"  {order.what}\n    {order.order_id}, by {order.actor}\n    {order.origin}", style=QUIET)
        screen.command(f"rescind incidents show {fired.incident.incident_id}")
        screen.lines(f'  still held\n    lift  rescind resume {order.order_id} --reason "…"', style=QUIET)
        show_receipt(screen, fired.stopped, since="after the signal")
        return fired.stopped

    def aftermath(self, damage: Damage) -> str:
        """See `Stop`."""
        spared = WRONGED - len(damage.customers)
        return (
            f"The agent, still alive, goes on trying: refused. {spared} customers are spared. What is left to do is "
            "the undo, and that is for a person."
        )

    def insight(self, world: World) -> str:
        """See `Stop`."""
        assert self._fired is not None
        return f"The release stays paused until a person lifts {self._fired.order.order_id} with rescind resume."


class ByOperator:
    """The agent goes through all its mail. Somebody complains, and whoever is on call presses the button."""

    by, complaints = "operator", COMPLAINTS

    def __init__(self, screen: Screen, on_call: OnCall, lookout: Lookout) -> None:
        self._screen, self._on_call, self._lookout = screen, on_call, lookout

    def introduce(self) -> None:
        """See `Stop`."""

    def has_come(self, mails: int) -> bool:
        """See `Stop`."""
        return mails >= WRONGED

    def tell(self, damage: Damage) -> Stopped:
        """See `Stop`."""
        self._screen.act("Stop")
        self._screen.say("A first complaint arrives. Whoever is on call stops this release, and nothing else:")
        self._screen.command(f"rescind stop agent:{ROGUE} --level halted --wait", f"--reason '{REASON}'")
        stopped = self._on_call.stop(ROGUE, reason=REASON)
        show_receipt(self._screen, stopped)
        return stopped

    def aftermath(self, damage: Damage) -> str:
        """See `Stop`."""
        return (
            f"{COMPLAINTS} customers complain by now. The agent, still alive, wants to reactivate them again: refused."
        )

    def insight(self, world: World) -> str:
        """See `Stop`."""
        signal = self._lookout.shadowed(ROGUE, SignalKind.BLAST_RADIUS)
        if signal is None:
            return ""
        spared = world.charged_before(ROGUE, self._lookout.monotonic_s(signal.noticed_at))
        return (
            f"The policy was in shadow. Its rule {RULE} would have stopped the release after {spared} customers "
            f"({signal.name})."
        )


def show_receipt(screen: Screen, stopped: Stopped, *, since: str = "") -> None:
    """The receipt of a stop, process by process. `since` says from when it counts, where that is no press."""
    for guard in stopped.covered:
        screen.check(
            f"process {guard.pid} acknowledged",
            note="" if guard.bound_ms is None else f"after {guard.bound_ms:.1f} ms",
            holds=guard.bound_ms is not None,
        )
    when = f"{stopped.ms:.0f} ms {since}" if since else f"after {stopped.ms:.0f} ms"
    screen.check(
        f"receipt {when}: {stopped.acknowledged} of {len(stopped.receipt.guards)} processes acknowledged, "
        f"{stopped.unknown} unknown",
        holds=not stopped.unknown,
    )
