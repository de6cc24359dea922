"""Fakes that we test with, shipped because users need them too."""

from rescind.testing.clock import ManualClock
from rescind.testing.faulty import FaultyJournal
from rescind.testing.world import SimulatedWorld

__all__ = ["FaultyJournal", "ManualClock", "SimulatedWorld"]
