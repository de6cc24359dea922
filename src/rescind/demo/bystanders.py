"""The agents that do right, and work on the same database all day: led piece by piece, so that they never run dry."""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from rescind.demo.crew import Agent
from rescind.demo.opening import REPORTS, Opening
from rescind.demo.world import World

GLOBEX_AGENT, REPORTING_AGENT = "subscriptions-agent@2.3.9", "reporting-agent@1.2.0"

BEAT_S = 0.1
"""Time between two pieces of work: 180 of them are 18 s, which is about as long as the story takes."""

SAVED_FOR_THE_END = 20
"""Pieces that are kept until the undo is over, so that the agents are seen to work on after it."""


class Bystanders:
    """The two of them, and what they are to do."""

    def __init__(self, globex: Agent, reporting: Agent, opening: Opening) -> None:
        self._opening = opening
        messages = [event.message_id for event in opening.events]
        self._work: tuple[tuple[Agent, Sequence[int]], ...] = (
            (globex, messages),
            (reporting, range(1, REPORTS + 1)),
        )

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Keep them busy in the background."""
        over = threading.Event()
        thread = threading.Thread(target=self._lead, args=(over,), name="bystanders", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def finish(self) -> None:
        """Let them do all the rest."""
        for agent, pieces in self._work:
            agent.go_on_until(pieces[-1])

    @property
    def are_done(self) -> bool:
        """Whether they have taken up everything there is."""
        return all(agent.position >= pieces[-1] for agent, pieces in self._work)

    @property
    def writes(self) -> int:
        """Writes they made so far, as they say."""
        return sum(agent.writes for agent, _ in self._work)

    @property
    def refused(self) -> int:
        """Attempts of theirs that were refused; there should be none."""
        return sum(agent.refused for agent, _ in self._work)

    def lost(self, world: World) -> int:
        """Once they are done: writes that were refused, and writes of which the world has no trace."""
        upgrades = sum(1 for event in self._opening.events if event.kind == "upgrade")
        due = len(self._opening.events) + upgrades + REPORTS
        charges, _ = world.charged_by(GLOBEX_AGENT)
        return self.refused + (due - self.writes) + (upgrades - charges) + (REPORTS - len(world.reports()))

    def _lead(self, over: threading.Event) -> None:
        beats = min(len(pieces) for _, pieces in self._work) - SAVED_FOR_THE_END
        for beat in range(beats):
            for agent, pieces in self._work:
                agent.go_on_until(pieces[beat])
            if over.wait(BEAT_S):
                return
