"""Durations as people type them: `10s`, `500ms`, `1m`, or a bare number of seconds."""

import re

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(ms|s|min|m|h|)")


def is_duration(text: str) -> bool:
    """Whether somebody who typed this meant a duration."""
    return _DURATION.fullmatch(text.strip()) is not None


def parse_duration(text: str, *, least_s: float, most_s: float) -> float:
    """The seconds that were meant.

    Raises: ValueError, which names the remedy, for what is no duration or not in the range.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no duration; write it like 10s, 500ms or 1m")
    seconds = float(found[1]) * _UNITS_S[found[2]]
    if not least_s <= seconds <= most_s:
        raise ValueError(f"{text!r} is not in the range from {least_s:g} s to {most_s:g} s")
    return seconds
