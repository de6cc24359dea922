"""How a step ended. Three ways, and the third is not a kind of the second."""

from typing import Any

import msgspec


class Completed(msgspec.Struct, frozen=True, gc=False, tag="completed"):
    """The effect took place.

    `result` is what the tool returned, as JSON values. When it could not be recorded, `result_recorded` is false, and a
    repeated call is told so instead of being given something made up.
    """

    result: Any = None
    result_recorded: bool = True


class Failed(msgspec.Struct, frozen=True, gc=False, tag="failed"):
    """The tool, or the guard before the tool ran, vouches that nothing changed."""

    reason: str


class Unknown(msgspec.Struct, frozen=True, gc=False, tag="unknown"):
    """Nobody knows: a reply was lost, a call was cancelled, an exception left the tool half way."""

    reason: str


Outcome = Completed | Failed | Unknown
