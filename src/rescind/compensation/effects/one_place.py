"""What effects on one place have in common.

A function of the tool's arguments names the place, and it is put back only if it is as the step left it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from rescind.errors import Conflict, UsageError
from rescind.guard.binding import Binding
from rescind.guard.effect import PastStep, Probe, probe_by_version
from rescind.model.action import EffectClass
from rescind.model.step import Snapshot


class OnePlace(ABC):
    """The part of an effect that is about which place it is."""

    def __init__(self, named: Callable[..., Any], *, role: str, system: str) -> None:
        """Name the place.

        Args:
            named: Which place, as a function of those of the tool's arguments that it names.
            role: What messages call this function.
            system: What targets call where the place is.
        """
        self._named, self._role, self._system = Binding(named, role=role), role, system

    @property
    def effect_class(self) -> EffectClass:
        """Reversible: what was there is put back."""
        return EffectClass.REVERSIBLE

    @property
    def parameters(self) -> frozenset[str]:
        """The tool's parameters that the declaration names."""
        return self._named.parameters

    @abstractmethod
    def observe(self, step: PastStep) -> Snapshot | None:
        """See `Effect`."""

    def probe(self, step: PastStep) -> Probe:
        """See `Probing`: the place is as the step left it, as it found it, or neither."""
        return probe_by_version(step, self.observe(step))

    def _name(self, arguments: Mapping[str, Any], *, bytes_max: int | None = None) -> str:
        """The place as text. Raises: UsageError, if it is none, or with `bytes_max` empty or longer."""
        chosen: Any = self._named(arguments)
        if not isinstance(chosen, str):
            raise UsageError(f"{self._role} returned {chosen!r:.200}, which is no text")
        if bytes_max is not None and not 0 < len(chosen.encode("utf-8", "replace")) <= bytes_max:
            raise UsageError(f"{self._role} returned {chosen!r:.200}; return a text of 1 to {bytes_max} bytes")
        return chosen


def before_of(step: PastStep, what: str) -> Snapshot:
    """How the place was before the call. Raises: Conflict, if that was not recorded."""
    before = step.before_snapshot
    if before is None or not before.image:
        raise Conflict(f"{what} before the call was not recorded, so there is nothing to put back")
    return before


def is_to_put_back(
    step: PastStep, now: Snapshot, place: str, *, unlike: Callable[[Snapshot], str] = lambda after: ""
) -> bool:
    """Whether there is something to do (E4, E5): no, if it is as before already.

    Args:
        step: The step; how it was before is recorded.
        now: The place as it is.
        place: What messages call it.
        unlike: What a message says besides of a place that is not as it was left.

    Raises: Conflict, if it is not as the step left it, or nobody knows how that was.
    """
    before, after = step.before_snapshot, step.after_snapshot
    assert before is not None
    if now.version == before.version:
        return False
    if after is None or not after.image:
        raise Conflict(f"how the step left {place} was not recorded, so it was not touched")
    if now.version != after.version:
        raise Conflict(f"{place} is not as the step left it{unlike(after)}; it was not touched")
    return True
