"""A guard with its stores in one folder of this machine. Nothing is opened before the first run."""

from typing import TypeVar

from rescind.guard.guard import Guard

G = TypeVar("G", bound=Guard)
