"""How each target will be when a step's turn comes: what was seen there now, moved back by the restores before it.

A *place* is a target. Steps at one place may look at different parts of it (one action at an invoice's status, another
at its amount), so a place has *views*, each with a version of its own. Which view a step has is learned from looking:
two looks that see the same version now are one view. A step that nobody looked at for itself is taken to have the view
of the newest step of its action there, or else of any step there. If that turns out to be a conflict, the survey looks
for it itself and asks again, so a wrong guess costs a look and not a false alarm.

Equal versions may still belong to different things: two rows under one coarse target may have the same content. So a
forecast is never more than a forecast: what is planned by one is compared with the target when its turn comes.
"""

from typing import TYPE_CHECKING

from rescind.compensation.decision import (
    AlreadyInReview,
    AlreadyUndone,
    Compensate,
    Decision,
    Drop,
    Restore,
    Review,
    Settle,
)
from rescind.compensation.planning.order import ALONE
from rescind.model.entry import Disposition
from rescind.model.history import StepRecord

if TYPE_CHECKING:
    from rescind.model.entry import StepRef


class View:
    """What some steps see of a place.

    Attributes:
        version: The version it will be at by now, as far as can be foreseen.
        undone: Steps of this view that were foreseen to be restored.
    """

    __slots__ = ("undone", "version")

    def __init__(self, version: str) -> None:
        self.version, self.undone = version, 0


class Site:
    """A place, as far as the plan has got.

    Attributes:
        views: By the version that was seen now.
        undone: Steps here that were foreseen to be restored or compensated.
        staying: Steps here whose effect stays, the newest first.
        later: Steps here that are undone by this plan, the newest first.
    """

    __slots__ = ("_latest", "_latest_of", "later", "staying", "undone", "views")

    def __init__(self) -> None:
        self.views: dict[str, View] = {}
        self.undone = 0
        self.staying: list[StepRef] = []
        self.later: list[StepRecord] = []
        self._latest: View | None = None
        self._latest_of: dict[str, View] = {}

    def view_of(self, action: str, seen: str | None) -> View | None:
        """The view of a step of this action that saw this version; None if it did not look, and no one before it."""
        view = self._latest_of.get(action, self._latest) if seen is None else self.views.get(seen)
        if view is None and seen is not None:
            view = self.views[seen] = View(seen)
        if view is not None:
            self._latest = self._latest_of[action] = view
        return view

    def moves_others(self, view: View) -> bool:
        """Whether a step of another view is undone first, so that what this view will be cannot be foreseen."""
        return self.undone > view.undone

    def foresee(self, record: StepRecord, decision: Decision, seen: str | None) -> None:
        """This is decided about a step here that saw this version."""
        match decision:
            case Restore(leaves=version):
                view = self.view_of(record.step.action, seen)
                assert isinstance(view, View)
                view.version = version
                view.undone += 1
                self.undone += 1
                self.later.append(record)
            case Compensate():
                self.undone += 1
                self.later.append(record)
            case Review() | AlreadyInReview() | Settle(Disposition.SUPERSEDED):
                self.staying.append(record.ref)
            case Drop() | Settle() | AlreadyUndone():
                pass


class Forecast:
    """The sites of a plan. Ask in the order in which the steps are undone."""

    def __init__(self) -> None:
        self._sites: dict[int, Site] = {}

    def site_of(self, place: int) -> Site:
        """The site with this number, as in `Order`; one of its own for a step that shares none."""
        if place == ALONE:
            return Site()
        site = self._sites.get(place)
        if site is None:
            site = self._sites[place] = Site()
        return site
