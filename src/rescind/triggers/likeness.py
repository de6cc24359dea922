"""How unlike the healthy runs of a baseline a run is, write by write, in bits.

**The question.** Each write is judged by two numbers: how likely it is in a healthy run after what came before (p), and
how likely if one knew nothing (q). The evidence in it is log2(q / p): positive for what healthy runs hardly ever do,
negative for what they do. It is summed over the writes of a run, and restarted whenever it is below nothing, so that
a long good beginning buys no credit (E. S. Page (1954), Biometrika 41, 100-115). Reads are no evidence; they are what
came before.

**What came before** is seen from several places at once: the agent as a whole or, if it is known, the run's workflow;
the action that wrote last; each action called earlier; each call made earlier, with its arguments. From each place p is
a count of runs, smoothed towards the wider place by one run's worth, so that a place seen twice says little. The place
from which the write looks strangest speaks.

**Values.** An argument that keeps its values (whom money goes to, in one workflow) is told from one that never does (a
subject line) by how often healthy runs brought a value that no other one had (I. J. Good (1953), Biometrika 40,
237-264). A new value is worth as much as it is rare; a missing one, or one of an argument that always changes, nothing.

**The threshold** is not chosen but counted: each healthy run is judged as if it had not been learned, and the threshold
is passed by no more of them than the budget allows. For a run that is exchangeable with the learned ones this holds on
average whatever the model is worth (V. Vovk, A. Gammerman, G. Shafer (2005), Algorithmic Learning in a Random World).

**A workflow that was never learned** is not exchangeable with anything: all it does is new. Of it only one thing is
judged: how many different writes it makes, against how many the runs of all learned workflows make.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rescind.triggers.baseline import Seen, Sketch

WORKFLOW_RUNS_MIN = 8
"""Healthy runs from which on a workflow is known. With fewer, each of them is a surprise to the others."""

WORKFLOWS_MIN = 5
"""Known workflows from which on something can be said of one that is not."""

SUPPORT_MIN = 3
"""Runs with a write of an action at a place from which on its arguments say something there."""

EARLIER_MAX = 8
"""Earlier actions, and earlier calls, that a run is seen from: the first ones, which say what it is about."""

TELLING_MAX = 3
"""Arguments of an action that are looked at: those which change least."""

Place = tuple[str, str | int]
AGENT: Place = ("agent", "")

Novelty = Mapping[tuple[str, str], float]

_Told = tuple[str, Mapping[int, int], float, float]
"""An argument, its known values, and the evidence in bits in a new value and in a known one."""

_NOTHING_SAID = -math.inf


class Values:
    """The values of one argument at one place: in how many runs each was, and how many were in one run only."""

    __slots__ = ("once", "runs", "total")

    def __init__(self) -> None:
        """None yet."""
        self.runs: dict[int, int] = {}
        self.once = self.total = 0

    def add(self, value: int, sign: int) -> None:
        """One run more or less has this value."""
        before = self.runs.get(value, 0)
        after = before + sign
        self.once += (after == 1) - (before == 1)
        self.total += sign
        if after > 0:
            self.runs[value] = after
        else:
            self.runs.pop(value, None)


class Written:
    """The writes of one action at one place: in how many runs, and with which values."""

    __slots__ = ("arguments", "runs", "told")

    def __init__(self) -> None:
        """None yet."""
        self.runs = 0
        self.arguments: dict[str, Values] = {}
        self.told: tuple[_Told, ...] = ()  # as `tell` last said; empty when it is to be asked anew

    def add(self, hashes_by_name: Mapping[str, tuple[int, ...]], sign: int, once: set[object], place: object) -> None:
        """Count a write, and each of its values once in a run."""
        self.told = ()
        if _is_first(place, once):
            self.runs += sign
        for name, hashes in hashes_by_name.items():
            values = self.arguments.get(name)
            if values is None:
                values = self.arguments[name] = Values()
            for value in hashes:
                if _is_first((place, name, value), once):
                    values.add(value, sign)

    def tell(self, action: str, novelty: Novelty) -> "tuple[_Told, ...]":
        """What each argument's values say here; those that always change say nothing.

        Args:
            action: The action that this is of.
            novelty: How likely a new value is anywhere, by action and argument.
        """
        self.told = tuple(self._told(action, novelty)) if self.runs >= SUPPORT_MIN else ()
        return self.told

    def _told(self, action: str, novelty: Novelty) -> "Iterator[_Told]":
        for name, values in self.arguments.items():
            wider = novelty.get((action, name))
            if wider is None:
                continue
            new = (values.once + wider) / (values.total + 1)
            if new <= 0.5:
                yield name, values.runs, -math.log2(new) - 1, -math.log2(1 - new) - 1


class View:
    """What was seen from one place: in how many runs it was reached, what was written then, and in which order."""

    __slots__ = ("after", "is_wide", "runs", "written")

    def __init__(self, *, is_wide: bool) -> None:
        """Nothing yet. A wide view is an agent's or a workflow's: runs are seen from it from their beginning."""
        self.is_wide = is_wide
        self.runs = 0
        self.written: dict[str, Written] = {}
        self.after: dict[str, dict[str, int]] = {}  # by the last write's action: what is written next; "" is the end

    def add_write(self, seen: Seen, sign: int, once: set[object], place: Place) -> None:
        """Count a write, its action and each of its values once in a run."""
        written = self.written.get(seen.action)
        if written is None:
            written = self.written[seen.action] = Written()
        written.add(seen.values, sign, once, (place, seen.action))

    def add_next(self, last: str, action: str, sign: int) -> None:
        """Count what was written after the last write."""
        following = self.after.setdefault(last, {})
        following[action] = following.get(action, 0) + sign


class Counts:
    """What is counted from sketches."""

    def __init__(self, sketches: Sequence[Sketch]) -> None:
        """Count these."""
        self.agent = View(is_wide=True)
        self.views: dict[Place, View] = {AGENT: self.agent}
        for sketch in sketches:
            self.add(sketch, 1)
        # These are known beforehand, and do not change when one run is taken out to be judged.
        self._actions_bits = math.log2(len(self.agent.written) + 1)
        self._novelty = self._pooled()
        self._telling: dict[str, tuple[str, ...]] = {}
        for action, name in self._novelty:
            self._telling[action] = (*self._telling.get(action, ()), name)

    def add(self, sketch: Sketch, sign: int) -> None:
        """Count a sketch once more, or (sign -1) as if it had never been learned."""
        wide = [AGENT, ("workflow", sketch.workflow)] if sketch.workflow else [AGENT]
        places, earlier = list(wide), Earlier()
        for place in wide:
            self._view(place).runs += sign
        once: set[object] = set()
        last, last_identity = "", 0
        for seen in sketch.calls:
            if seen.writes and not _is_same(seen.identity, last_identity):
                for place in places:
                    self._view(place).add_write(seen, sign, once, place)
                for place in wide:
                    self._view(place).add_next(last, seen.action, sign)
                last, last_identity = seen.action, seen.identity
            for place in earlier.places_after(seen.action, seen.identity):
                self._view(place).runs += sign
                places.append(place)
        for place in wide:
            self._view(place).add_next(last, "", sign)

    def evidence(self, trail: "Trail", action: str, values: dict[str, tuple[int, ...]]) -> tuple[float, str]:
        """The evidence in one more write of a run, in bits, and what speaks loudest: `` for the action, or an argument.

        Args:
            trail: The run so far.
            action: The write's action.
            values: Hashes of its arguments, by name.
        """
        anyway = (_runs_with(self.agent, action) + 0.5) / (self.agent.runs + 1)
        likely = _smoothed(self.agent.after.get(trail.last), action, anyway)
        if trail.workflow is not None:
            likely = _smoothed(trail.workflow.after.get(trail.last), action, likely)
        loudest, name = _NOTHING_SAID, ""
        # One pass, for this is the one loop in here that a write waits for.
        for view in trail.views:
            written = view.written.get(action)
            if not view.is_wide:
                here = ((0 if written is None else written.runs) + anyway) / (view.runs + 1)
                if here < likely:
                    likely = here
            if written is None:
                continue
            for argument, known, new_bits, known_bits in written.told or written.tell(action, self._novelty):
                hashes = values.get(argument)
                if hashes is None:
                    continue
                found = known_bits
                for value in hashes:
                    if value not in known:
                        found = new_bits
                if found > loudest:
                    loudest, name = found, argument
        bits = -math.log2(likely) - self._actions_bits
        if loudest == _NOTHING_SAID:
            return bits, ""
        return bits + loudest, name if loudest > max(bits, 0.0) else ""

    def telling(self, action: str) -> tuple[str, ...]:
        """The arguments of an action whose values may say something; the others need not be hashed."""
        return self._telling.get(action, ())

    def _pooled(self) -> Novelty:
        """How likely an argument brings a new value, over all workflows: what few runs are smoothed towards.

        Of each action those arguments that do so least; the others are not looked at.
        """
        sums: dict[tuple[str, str], list[float]] = {}
        workflows = [view for (kind, _), view in self.views.items() if kind == "workflow"]
        for view in workflows or [self.agent]:
            for action, written in view.written.items():
                for name, values in written.arguments.items():
                    pooled = sums.setdefault((action, name), [0.5, 1.0])
                    pooled[0] += values.once
                    pooled[1] += values.total
        telling: dict[tuple[str, str], float] = {}
        of_action: Counter[str] = Counter()
        for key in sorted(sums, key=lambda each: (sums[each][0] / sums[each][1], each)):
            of_action[key[0]] += 1
            if of_action[key[0]] <= TELLING_MAX:
                telling[key] = sums[key][0] / sums[key][1]
        return telling

    def _view(self, place: Place) -> View:
        view = self.views.get(place)
        if view is None:
            view = self.views[place] = View(is_wide=place[0] in ("agent", "workflow"))
        return view


class Earlier:
    """Which places a run has reached by its calls so far; of each kind the first few."""

    __slots__ = ("_actions", "_calls")

    def __init__(self) -> None:
        """None yet."""
        self._actions: list[str] = []
        self._calls: list[int] = []

    def places_after(self, action: str, identity: int) -> tuple[Place, ...]:
        """The places that this call reaches and no earlier one did."""
        reached: tuple[Place, ...] = ()
        if len(self._actions) < EARLIER_MAX and action not in self._actions:
            self._actions.append(action)
            reached = (("action", action),)
        if identity and len(self._calls) < EARLIER_MAX and identity not in self._calls:
            self._calls.append(identity)
            reached = (*reached, ("call", identity))
        return reached


class Trail:
    """One run so far, as `Counts` see it."""

    __slots__ = ("_last_identity", "last", "level", "reached", "views", "workflow")

    def __init__(self, counts: Counts, workflow: str) -> None:
        """A run that has done nothing yet."""
        self.workflow = counts.views.get(("workflow", workflow)) if workflow else None
        self.views = [counts.agent] if self.workflow is None else [counts.agent, self.workflow]
        self.reached = Earlier()
        self.last = ""
        self._last_identity = 0
        self.level = 0.0

    def pass_by(self, counts: Counts, action: str, identity: int) -> None:
        """A call has been judged and is now one of the earlier ones."""
        for place in self.reached.places_after(action, identity):
            view = counts.views.get(place)
            if view is not None:
                self.views.append(view)

    def is_repeated(self, identity: int) -> bool:
        """Whether a write is the last one once more: a second try, which says nothing about what the run is up to."""
        return _is_same(identity, self._last_identity)

    def wrote(self, action: str, identity: int, bits: float) -> float:
        """A write has been judged. Returns: the evidence so far, never below that of this write alone."""
        self.last, self._last_identity = action, identity
        self.level = level = max(self.level, 0.0) + bits
        return level


def _is_first(thing: object, once: set[object]) -> bool:
    known = thing in once
    once.add(thing)
    return not known


def _is_same(identity: int, last: int) -> bool:
    return identity != 0 and identity == last


def _runs_with(view: View, action: str) -> int:
    written = view.written.get(action)
    return 0 if written is None else written.runs


def _smoothed(following: dict[str, int] | None, action: str, wider: float) -> float:
    if not following:
        return wider
    return (following.get(action, 0) + wider) / (sum(following.values()) + 1)


class Likeness:
    """What healthy runs of one agent version look like, and how unlike them each of them is to the others."""

    def __init__(self, sketches: Sequence[Sketch]) -> None:
        """Count the sketches and judge each as if it were not among them. Takes about 1 ms a sketch."""
        runs_of = Counter(sketch.workflow for sketch in sketches if sketch.workflow)
        self.workflows = frozenset(name for name, runs in runs_of.items() if runs >= WORKFLOW_RUNS_MIN)
        labelled = [sketch for sketch in sketches if sketch.workflow in self.workflows]
        plain = [Sketch(sketch.run, "", sketch.calls) for sketch in sketches]
        self.by_workflow, self.plain = Counts(labelled), Counts(plain)
        self._labelled_scores = _left_out(self.by_workflow, labelled)
        self._plain_scores = _left_out(self.plain, plain)
        self.turns = Turns(labelled)
        self._turn_scores = sorted((self.turns.score_of(sketch) for sketch in labelled), reverse=True)

    def counts_for(self, workflow: str) -> Counts | None:
        """What a run of this workflow (empty: of none) is judged by; None for a workflow that was never learned."""
        if workflow in self.workflows:
            return self.by_workflow
        return self.plain if not workflow or not self.workflows else None

    def bits_allowed(self, counts: Counts, per_1000: int) -> float | None:
        """The evidence that a healthy run has with the given budget of false stops; None: too few runs to say."""
        scores = self._labelled_scores if counts is self.by_workflow else self._plain_scores
        return _threshold(scores, per_1000)

    def turn_allowed(self, per_1000: int) -> float | None:
        """How odd a turn a run of a workflow never learned may take; None: too few workflows to say."""
        return None if len(self.workflows) < WORKFLOWS_MIN else _threshold(self._turn_scores, per_1000)

    def healthy_runs(self, counts: Counts | None) -> int:
        """How many runs the answer rests on."""
        return len(self._plain_scores if counts is self.plain else self._labelled_scores)


def _threshold(scores: Sequence[float], per_1000: int) -> float | None:
    """What so many of 1,000 exceed. Args: scores: largest first. Returns: None, if they are too few for this budget."""
    beyond = (len(scores) + 1) * per_1000 // 1000  # the run to be judged is one of them, hence the one more
    return None if beyond < 1 else scores[beyond - 1]


def _left_out(counts: Counts, sketches: Sequence[Sketch]) -> list[float]:
    """The evidence in each run, judged as if it had never been learned; largest first."""
    scores: list[float] = []
    for sketch in sketches:
        counts.add(sketch, -1)
        scores.append(score_of(counts, sketch))
        counts.add(sketch, 1)
    return sorted(scores, reverse=True)


def score_of(counts: Counts, sketch: Sketch) -> float:
    """The most evidence that a run ever has against it; 0 if it writes nothing unlikely."""
    trail, most = Trail(counts, sketch.workflow), 0.0
    for seen in sketch.calls:
        if seen.writes and not trail.is_repeated(seen.identity):
            bits, _ = counts.evidence(trail, seen.action, seen.values)
            most = max(most, trail.wrote(seen.action, seen.identity, bits))
        trail.pass_by(counts, seen.action, seen.identity)
    return most


class Turns:
    """Which write follows which other one, in how many healthy runs, whatever their workflow.

    A run of a workflow that was never learned is like nothing; but how an agent goes on after a write, if it writes
    more than once at all, is partly its own way of working.
    """

    def __init__(self, sketches: Sequence[Sketch]) -> None:
        """Count the turns of these runs."""
        self._runs = len(sketches)
        self._taken = Counter(turn for sketch in sketches for turn in set(turns_of(sketch)))

    def bits(self, before: str, action: str, writes: int, *, left_out: int = 0) -> float:
        """How odd it is to write with this action after that one, as the so manieth different write; more than 0.

        Args:
            before: The action of a write.
            action: That of the next different one.
            writes: Different writes by then. Of two turns that are equally odd, the later one is the odder.
            left_out: How many of the learned runs with this turn are not to count.
        """
        taken = self._taken[before, action] - left_out
        return math.log2((self._runs - left_out + 1) / (taken + 0.5)) + writes * LATER_BITS

    def score_of(self, sketch: Sketch) -> float:
        """The oddest turn of a learned run, judged as if it had not been learned; 0 if it writes once at most."""
        turns = turns_of(sketch)
        return max((self.bits(*turn, number, left_out=1) for number, turn in enumerate(turns, start=2)), default=0.0)


LATER_BITS = 1e-3
"""Enough to tell equal turns apart, and too little to outweigh one run."""


def turns_of(sketch: Sketch) -> list[tuple[str, str]]:
    """The actions of each two different writes in a row; one that was made before is passed over.

    Writes differ by their targets or, where none are known, by their arguments.
    """
    known: set[tuple[str, tuple[int, ...]]] = set()
    actions: list[str] = []
    for seen in sketch.calls:
        write = seen.action, seen.values.get("", (seen.identity,))
        if seen.writes and write not in known:
            known.add(write)
            actions.append(seen.action)
    return list(itertools.pairwise(actions))
