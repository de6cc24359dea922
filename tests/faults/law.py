"""What a receipt promises of an agent, held against what the agent really did.

The agent's trace decides: a file with the machine's boot clock in each line, written by one call of the kernel. What a
guard, a switch or the command line says is only ever what is judged.
"""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from faults.machine import boot_s, wall_s

UNKNOWN, BOUND, DRAINED, SILENCED = "unknown", "bound", "drained", "silenced"

CERTAIN = frozenset({BOUND, DRAINED, SILENCED, "killed", "gone"})


class Effect(NamedTuple):
    """An effect of an agent: when it began, and as which step."""

    begun_s: float
    step: str


@dataclass
class Witness:
    """Reads one agent's trace."""

    path: Path
    effects: list[Effect] = field(default_factory=list, repr=False)
    words: dict[str, int] = field(default_factory=dict)
    last: str = ""
    _read_to: int = 0

    def look(self) -> "Witness":
        """Read what is new."""
        with self.path.open("rb") as trace:
            trace.seek(self._read_to)
            new = trace.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.decode().splitlines():
            moment, word, *rest = line.split()
            self.last = word
            self.words[word] = self.words.get(word, 0) + 1
            if word == "begin":
                self.effects.append(Effect(float(moment), rest[0]))
            elif word == "pid":
                self.words[word] = int(rest[0])
        return self

    def begun_between(self, after_s: float, before_s: float = float("inf")) -> list[Effect]:
        return [each for each in self.look().effects if after_s < each.begun_s < before_s]


@dataclass(frozen=True)
class Claim:
    """What follows from a receipt: after a moment, this agent begins nothing, until the order is lifted.

    Attributes:
        witness: Of the agent.
        says: The receipt's line, for whoever reads the failure.
        after_s: Boot clock.
        named: Steps that the receipt names as in flight.
        unnamed_max: Steps that may have been in flight without being named any more: they have ended since.
    """

    witness: Witness
    says: str
    after_s: float
    named: frozenset[str] = frozenset()
    unnamed_max: int = 0

    def breaches(self, before_s: float) -> list[Effect]:
        begun = self.witness.begun_between(self.after_s, before_s)
        others = [each for each in begun if each.step not in self.named]
        return others if len(others) > self.unnamed_max else []


def claims_of(receipt: dict[str, Any], witnesses: dict[int, Witness], *, got_s: float, joined: bool) -> list[Claim]:
    """All that a receipt promises of these agents, by their process ids.

    Args:
        receipt: As JSON.
        witnesses: By process id; lines about other processes promise nothing here.
        got_s: Boot clock, when the receipt was in hand.
        joined: Of several switches, whose moments cannot be told apart: then it only speaks of what comes after it.
    """
    found: list[Claim] = []
    for line in receipt["guards"]:
        witness, state = witnesses.get(line["pid"]), line["state"]
        if witness is None or state not in CERTAIN:
            continue
        placed_s = got_s - receipt["waited_ms"] / 1000  # at the latest: it travelled
        bound_s, drained_s = _moment(line["bound_ms"], placed_s), _moment(line["drained_ms"], placed_s)
        says = f"{state} {line}"
        if state == SILENCED and line["until"] is not None and not joined:
            found.append(Claim(witness, says, boot_of(line["until"])))
        elif joined or state not in (BOUND, DRAINED):
            found.append(Claim(witness, says, got_s, frozenset(line["in_flight"])))
        elif state == BOUND:
            found.append(Claim(witness, says, bound_s or got_s, frozenset(line["in_flight"])))
        else:
            found.append(Claim(witness, says, drained_s or got_s))
            # An agent of one thread has one step at a time; it was named until it ended.
            found.append(Claim(witness, says, bound_s or got_s, unnamed_max=1))
    return found


def boot_of(moment: str) -> float:
    """The boot clock at a moment of the wall clock, both of this machine."""
    return boot_s() + datetime.fromisoformat(moment).timestamp() - wall_s()


def _moment(after_ms: float | None, placed_s: float) -> float | None:
    return None if after_ms is None else placed_s + after_ms / 1000
