"""Effects that may stay for now, and what they hold back: the same rule for the plan and for its execution (U5)."""

from collections.abc import Iterable, Mapping, Sequence

from rescind.compensation.decision import Gate
from rescind.model.entry import StepRef


class Staying:
    """The steps whose effects may stay. Ask about a step once all that it waits for is decided."""

    def __init__(
        self,
        blocks_on: Mapping[StepRef, tuple[StepRef, ...]],
        gates_of: Mapping[StepRef, tuple[int, ...]],
        gates: Sequence[Gate],
        steps: Iterable[StepRef] = (),
    ) -> None:
        self._blocks_on, self._gates_of, self._gates = blocks_on, gates_of, gates
        self._steps = set(steps)
        self._behind: dict[int, StepRef | None] = {}

    def add(self, ref: StepRef) -> None:
        """This step's effect may stay."""
        self._steps.add(ref)

    def blocker_of(self, ref: StepRef) -> StepRef | None:
        """A step that was declared to depend on this one, and whose effect may stay; None if there is none."""
        if not self._steps:
            return None
        direct = next((each for each in self._blocks_on.get(ref, ()) if each in self._steps), None)
        return direct or next(filter(None, map(self._behind_gate, self._gates_of.get(ref, ()))), None)

    def _behind_gate(self, gate: int) -> StepRef | None:
        # All steps behind an asked gate are decided, so the answers are kept: every gate is walked once.
        unasked: list[int] = []
        here: int | None = gate
        while here is not None and here not in self._behind:
            unasked.append(here)
            here = self._gates[here].beyond
        found = None if here is None else self._behind[here]
        for each in reversed(unasked):
            found = next((ref for ref in self._gates[each].steps if ref in self._steps), found)
            self._behind[each] = found
        return found
