"""What a process holds its own runs at for a while, without an order: recoverable, and forgotten afterwards.

Also where an order should have stood and could not be placed: held without an end, until somebody has looked.
"""

import math

import msgspec

from rescind.guard.gate import AwaitApproval, Deny
from rescind.model.level import Level


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A level at which a process holds one of its runs.

    Attributes:
        level: Below `halted`: a hold ends, and a halt would not.
        until_s: Boot clock after which it is forgotten; infinite for one that takes the place of an order.
        why: The signal, for people and for the journal.
        advice: What a language model is told to do.
    """

    level: Level
    until_s: float
    why: str
    advice: str


def verdict_of(holds: tuple[Hold, ...], action: str, *, writes: bool, now_s: float) -> Deny | AwaitApproval | None:
    """What a call meets by what this process holds its run at, the most severe; None if it may go on."""
    hold = max((each for each in holds if each.until_s > now_s), key=lambda each: each.level, default=None)
    if hold is None or (hold.level.allows_writes if writes else hold.level.allows_reads):
        return None
    if hold.level is Level.SUPERVISED:
        return AwaitApproval(hold.why)
    return Deny(f"{action} was not run: {hold.why}. {hold.advice}", hold.why, hold.level)


def unending_hold(level: Level, why: str) -> Hold:
    """A hold until somebody has looked, in place of an order."""
    return Hold(level=level, until_s=math.inf, why=why, advice=in_words(math.inf, 0.0))


def in_words(until_s: float, now_s: float) -> str:
    """How long it will be held, for a language model and for people."""
    if math.isinf(until_s):
        return "Do not retry; a person has to look first"
    return f"It may be tried again in {max(1, math.ceil(until_s - now_s))} s"
