"""How a program is ended: a table, and one function that reads it. Facts in, actions out; no clock and no signals.

    running ──▶ asked ──▶ killing ──▶ ended
       └──────────┴───────────┴─────────▲   (nothing is left)

"Nothing is left" is the only way to `ended`, from everywhere: a program is never called ended because it was killed.
"""

import enum


class State(enum.Enum):
    """How far it has come."""

    RUNNING = "running"
    ASKED = "asked"  # it has its SIGTERM and may use the grace
    KILLING = "killing"
    ENDED = "ended"


class Fact(enum.Enum):
    """What was seen."""

    UNWANTED = "unwanted"  # an order, a silence or a person wants it to end
    LEADER_LEFT = "leader left"  # the program itself has ended; what it had started may live on
    USELESS_TO_WAIT = "useless to wait"  # the grace is over, or all of it is suspended and cannot use the grace
    STILL_THERE = "still there"  # a while after the last action
    NOTHING_LEFT = "nothing left"


class Action(enum.Enum):
    """What to do about it."""

    NOTHING = "nothing"
    ASK = "ask"
    KILL = "kill"


_TABLE = {
    (State.RUNNING, Fact.UNWANTED): (State.ASKED, Action.ASK),
    # What a program leaves behind would run on with nobody to stop it.
    (State.RUNNING, Fact.LEADER_LEFT): (State.ASKED, Action.ASK),
    (State.ASKED, Fact.USELESS_TO_WAIT): (State.KILLING, Action.KILL),
    # Again and again: somebody may have been forked between the look and the signal.
    (State.KILLING, Fact.STILL_THERE): (State.KILLING, Action.KILL),
    (State.RUNNING, Fact.NOTHING_LEFT): (State.ENDED, Action.NOTHING),
    (State.ASKED, Fact.NOTHING_LEFT): (State.ENDED, Action.NOTHING),
    (State.KILLING, Fact.NOTHING_LEFT): (State.ENDED, Action.NOTHING),
}


def next_state(state: State, fact: Fact) -> tuple[State, Action]:
    """Where a fact leads, and what to do. A fact that means nothing in this state changes nothing."""
    return _TABLE.get((state, fact), (state, Action.NOTHING))
