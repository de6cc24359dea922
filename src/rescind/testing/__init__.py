"""Fakes that we test with, shipped because users need them too."""

from rescind.testing.clock import ManualClock

__all__ = ["ManualClock"]
